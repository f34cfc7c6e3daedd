/* int8 on AMX, whose tile registers are multiplied whole: 16 rows of 64 inputs by 64 inputs of 16 columns.
 *
 * Invariant: empty unless HAVE_AMX is set; then this file alone is compiled for the ISA, and exports one
 * constant row. Rows and panels are those of avx512vnni, whose kernel takes the tiles of few
 * rows: there reading weights is what takes time, and those of zeros can be left out. Sums of int8 are exact,
 * so it does not show which of the two computed a row. No byte is read beyond a row's groups.
 *
 * A tile of y is four sums of 16 x 16; K goes by in steps of 16 groups, the rest in tiles of that size:
 *
 *                     64 columns: a panel
 *                   +----+----+----+----+
 *                   | B  | B  | B  | B  |  16 groups     B: [group][column][4], 256 bytes between groups
 *          16 groups+----+----+----+----+
 *         +---------+----+----+----+----+
 *         | A       | 0  | 1  | 2  | 3  |  m rows        A: [row][group][4], ldx between rows
 *         +---------+----+----+----+----+
 */
#ifdef HAVE_AMX
#ifndef HAVE_AVX512VNNI
#error "AMX: the kernel of avx512vnni takes its small tiles"
#endif
#include <assert.h>

#include "kernel.h"
#define FNN_VNNI
#include "vec_avx512.h"

#include "operands.h"

enum { MR = 16, NR = 64, GROUPS = 16, ROW_BYTES = 64, GROUP_BYTES = NR * KW_i8 };
enum { LEAST_ROWS = MR / 4 }; /* of a tile, as fnn_multiplied has it; avx512vnni takes as many at once */
_Static_assert((int)MR <= (int)FNN_MAX_MR && (int)KW_i8 == 4 && (int)KR_i8 == 4, "four bytes a group");

/* Register numbers, which the compilers want as literals. 0 to 3 are the sums. */
#define A 4
#define B 5
#define A_REST 6
#define B_REST 7 /* where no group is left over: a second B, for the odd columns */

/* Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, 18.3: the shapes of the tiles. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shapes;
_Static_assert(sizeof(shapes) == 64, "as LDTILECFG reads it");

static void set_shapes(int m, int n_rest)
{
    shapes s = {.palette = 1};
    for (int j = 0; j < 4; j++) s.rows[j] = (uint8_t)m, s.row_bytes[j] = ROW_BYTES;
    s.rows[A] = (uint8_t)m, s.row_bytes[A] = ROW_BYTES;
    s.rows[B] = GROUPS, s.row_bytes[B] = ROW_BYTES;
    s.rows[B_REST] = (uint8_t)(n_rest > 0 ? n_rest : GROUPS), s.row_bytes[B_REST] = ROW_BYTES;
    if (n_rest > 0) s.rows[A_REST] = (uint8_t)m, s.row_bytes[A_REST] = (uint16_t)(n_rest * 4);
    __asm__ volatile("" : : "r"(&s) : "memory"); /* gcc 12 does not know that the next line reads all of it */
    _tile_loadconfig(&s);
}

/* Sums of 16 columns to what `finish` wants of them. */
FNN_INLINE void finish(const fnn_tile *t, const int32_t *sums, const float *scale, const float *bias, char *y)
{
    const vf scales = v_load(scale), biases = v_load(bias), zero = v_set1(0.0f);
    for (int i = 0; i < t->m; i++, y += t->ldy) {
        const vf z = z_i8(vi_load(sums + i * GROUPS), scales, biases), no_minus = v_add(z, zero);
        if (t->finish == FNN_TO_U8) v8_store(y, z);
        else if (t->finish == FNN_RELU)
            v_store((float *)y, v_select(v_le(no_minus, zero), zero, no_minus));
        else v_store((float *)y, no_minus);
    }
}

/* The weights of a step, needed next: a loop of its own, outside of the one over K. */
static __attribute__((noinline)) void fetch(uintptr_t from, int64_t n_bytes)
{
    fnn_fetch((const char *)from, n_bytes);
}

/* y[m, n times 16 columns] of a panel, from the groups [first, first + n_groups), for constant n. */
FNN_INLINE void panel_tile(const fnn_tile *t, int64_t panel, const int n, int64_t first, int64_t n_groups)
{
    const int64_t ldx = t->ldx, size = t->finish == FNN_TO_U8 ? 1 : 4;
    const char *x = (const char *)t->x + first * 4;
    const char *w = (const char *)t->w + panel * t->panel_stride + first * GROUP_BYTES;
    const int is_whole = n_groups % GROUPS == 0;
    uintptr_t ahead = t->ahead;
    char *const y = (char *)t->y + panel * NR * size;
    int32_t sums[MR * GROUPS] __attribute__((aligned(64)));

#define START(j)                                                                              \
    if (n > j && t->is_continued) _tile_loadd(j, y + j * 64, t->ldy);                         \
    else if (n > j) _tile_zero(j)
#define STEP(j, a, b)                                                                         \
    if (n > j) {                                                                              \
        _tile_loadd(b, w + j * 64, GROUP_BYTES);                                              \
        _tile_dpbusd(j, a, b);                                                                \
    }
#define FINISH(j)                                                                             \
    if (n > j && t->finish == FNN_SUSPEND) _tile_stored(j, y + j * 64, t->ldy);               \
    else if (n > j) {                                                                         \
        _tile_stored(j, sums, ROW_BYTES);                                                     \
        const int64_t at = panel * NR + j * 16;                                               \
        finish(t, sums, t->scale + at, t->bias + at, y + j * 16 * size);                      \
    }

    START(0); START(1); START(2); START(3);
    for (; n_groups >= GROUPS; n_groups -= GROUPS, x += ROW_BYTES, w += GROUPS * GROUP_BYTES) {
        if (t->ahead_step > 0) {
            fetch(ahead, GROUPS * t->ahead_step);
            ahead += (uintptr_t)(GROUPS * t->ahead_step);
        }
        _tile_loadd(A, x, ldx);
        if (is_whole) {
            STEP(0, A, B) STEP(1, A, B_REST) STEP(2, A, B) STEP(3, A, B_REST)
        } else {
            STEP(0, A, B) STEP(1, A, B) STEP(2, A, B) STEP(3, A, B)
        }
    }
    if (n_groups > 0) {
        _tile_loadd(A_REST, x, ldx);
        STEP(0, A_REST, B_REST) STEP(1, A_REST, B_REST) STEP(2, A_REST, B_REST) STEP(3, A_REST, B_REST)
    }
    FINISH(0) FINISH(1) FINISH(2) FINISH(3)
#undef START
#undef STEP
#undef FINISH
}

/* Of the list only its ends matter: a group between them is multiplied, whether it is listed or not. */
static void gemm(const fnn_tile *t)
{
    if (t->m < LEAST_ROWS) {
        fnn_row_i8_avx512vnni.gemm(t);
        return;
    }
    assert(fnn_row_i8_avx512vnni.nr == NR && fnn_row_i8_avx512vnni.mr >= LEAST_ROWS - 1);
    const int64_t first = t->n_active > 0 ? t->list[0] : 0, n_groups = fnn_multiplied(&fnn_row_i8_amx, t);
    int64_t left = (t->n + 15) / 16, panel = 0;
    set_shapes(t->m, (int)(n_groups % GROUPS));
    for (; left >= 4; left -= 4, panel++) panel_tile(t, panel, 4, first, n_groups);
    if (left == 3) panel_tile(t, panel, 3, first, n_groups);
    else if (left == 2) panel_tile(t, panel, 2, first, n_groups);
    else if (left == 1) panel_tile(t, panel, 1, first, n_groups);
    _tile_release(); /* or a switch of threads would save 8 KB of tiles */
}

static int64_t encode_u8(const fnn_encode *e) { return fnn_row_i8_avx512vnni.encode_u8(e); }
static int64_t encode_f32(const fnn_encode *e) { return fnn_row_i8_avx512vnni.encode_f32(e); }

static double burn(int64_t n)
{
    static const char zeros[MR * ROW_BYTES];
    set_shapes(MR, 0);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_loadd(A, zeros, ROW_BYTES);
    _tile_loadd(B, zeros, ROW_BYTES);
    for (int64_t i = 0; i < n; i++) { /* 16 cycles each, 52 until a sum can be added to: 4 chains fill them */
        _tile_dpbusd(0, A, B);
        _tile_dpbusd(1, A, B);
        _tile_dpbusd(2, A, B);
        _tile_dpbusd(3, A, B);
    }
    _tile_release();
    return 2.0 * 4 * MR * 16 * ROW_BYTES * (double)n;
}

const fnn_row fnn_row_i8_amx = {
    .isa = "amx",
    .format = "i8",
    .needs = FNN_NEEDS_AVX512 | FNN_CPU(AVX512_VNNI) | FNN_CPU(AMX_TILE) | FNN_CPU(AMX_INT8),
    .mr = MR,
    .nr = NR,
    .kr = KR_i8,
    .kw = KW_i8,
    .rate = 800,
    .encode_u8 = encode_u8,
    .encode_f32 = encode_f32,
    .gemm = gemm,
    .burn = burn,
    .groups = GROUPS,
};
#else
typedef int fnn_empty_amx; /* ISO C wants one declaration */
#endif
