/* The vector kernels, written once: a template that each kernels_<isa>.c includes.
 *
 * Before including, define
 *   FNN_ISA            the ISA's name, an identifier: avx2
 *   FNN_ROW_NEEDS      CPU bits
 *   FNN_MR             rows of the largest tile; must fit 2 FNN_MR + 3 vector registers
 *   FNN_REGISTERS      vector registers there are
 *   FNN_RATE           multiply-adds a nanosecond, roughly
 * and include a vec_*.h. It exports one table row, fnn_row_f32_<isa>.
 * Invariant: panels are two vectors wide; accumulators stay in registers for all of K: there is no
 * vector store inside a K loop (tests/test_house.py reads the disassembly).
 * Start with tile(), the rest chooses its constants.
 */
#if !defined(FNN_ISA) || !defined(FNN_ROW_NEEDS) || !defined(FNN_MR) || \
    !defined(FNN_REGISTERS) || !defined(FNN_RATE) || !defined(FNN_VEC_WIDTH)
#error "microkernel.h: a parameter is missing, see its head"
#endif

#include <string.h>

#include "kernel.h"

/* gcc keeps an array of accumulators in memory unless each constant loop carries "GCC unroll"; the
 * same pragma makes clang keep it there, which wants its own. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define INLINE static inline __attribute__((always_inline))

enum { W = FNN_VEC_WIDTH, NR = 2 * W };

/* Row i of x, for constant i. An x86 address is base + index * {1, 2, 4, 8}: with the odd multiples of
 * ldx in registers, hardly a row needs an instruction of its own. What gcc makes of i * ldx is an
 * add a row, which costs 6 % on Sapphire Rapids, where adds and FMAs share ports. */
#define ROW(x, i) \
    ((const float *)((const char *)(x) + ((i) == 0 ? 0 : odd[(i) / ((i) & -(i))] * ((i) & -(i)))))
/* Hides from the compiler where a value came from, or it would derive one register from another. */
#define OPAQUE(x) __asm__("" : "+r"(x))

/* Where vector j of a tile's n lies in a row of y. */
#define COLUMN(j) ((j) / n_vectors * NR + (j) % n_vectors * W)

/* Macros, as an array of accumulators handed to a function may land in memory.
 * START: sum[m * n] from the bias, or from y where the chain goes on. */
#define START                                                                                 \
    float *const y = t->y + panel * NR;                                                       \
    const float *const start = t->is_continued ? y : t->bias + panel * NR;                    \
    const int64_t ld_start = t->is_continued ? t->ldy : 0;                                    \
    UNROLL for (int i = 0; i < m; i++) {                                                      \
        UNROLL for (int j = 0; j < n; j++)                                                    \
            sum[i * n + j] = v_load(start + i * ld_start + COLUMN(j));                        \
    }

/* FINISH: sum to y, as it is or finished: -0 becomes +0 (see kernel.h), then relu. */
#define FINISH                                                                                \
    const vf zero = v_set1(0.0f);                                                             \
    UNROLL for (int i = 0; i < m; i++) {                                                      \
        UNROLL for (int j = 0; j < n; j++) {                                                  \
            vf z = sum[i * n + j];                                                            \
            if (!t->is_unfinished) z = v_add(z, zero);                                        \
            if (!t->is_unfinished && t->is_relu) z = v_select(v_le(z, zero), zero, z);        \
            v_store(y + i * t->ldy + COLUMN(j), z);                                           \
        }                                                                                     \
    }

/* y[m, panels] for constant m, n_panels and n_vectors (1: only the first vector of a panel is in
 * use). m * n_panels * n_vectors accumulators. `is_relu` costs one select a vector. */
INLINE void tile(const fnn_tile *t, const int m, const int n_panels, const int n_vectors,
                 int64_t panel)
{
    const int n = n_panels * n_vectors;
    const float *w = t->w + panel * t->panel_stride;
    const float *const x = t->x;
    const uint32_t *const list = t->list;
    const int64_t panel_stride = t->panel_stride, n_active = t->n_active;
    vf sum[FNN_REGISTERS];

    OPAQUE(w);
    int64_t odd[FNN_MAX_MR];
    UNROLL for (int i = 1; i < m; i += 2) {
        odd[i] = i * t->ldx * (int64_t)sizeof *x;
        OPAQUE(odd[i]);
    }

    START;
    for (int64_t at = 0; at < n_active; at++) {
        const int64_t k = list[at];
        const float *const wk = w + k * NR;
        const float *xk = x + k;
        OPAQUE(xk);
        if (m < n) { /* hold the m inputs, let weights pass */
            vf a[FNN_REGISTERS];
            UNROLL for (int i = 0; i < m; i++) a[i] = v_set1(*ROW(xk, i));
            UNROLL for (int j = 0; j < n; j++) {
                const vf b = v_load(wk + j / n_vectors * panel_stride + j % n_vectors * W);
                UNROLL for (int i = 0; i < m; i++) sum[i * n + j] = v_fma(a[i], b, sum[i * n + j]);
            }
        } else { /* hold the n weight vectors, let inputs pass */
            vf b[FNN_REGISTERS];
            UNROLL for (int j = 0; j < n; j++)
                b[j] = v_load(wk + j / n_vectors * panel_stride + j % n_vectors * W);
            UNROLL for (int i = 0; i < m; i++) {
                const vf a = v_set1(*ROW(xk, i));
                UNROLL for (int j = 0; j < n; j++) sum[i * n + j] = v_fma(a, b[j], sum[i * n + j]);
            }
        }
    }
    FINISH;
}

/* The same with x packed, m = mr: addresses are one register and constants, which leaves room to
 * unroll and to fetch `ahead` without the cost of a prefetch a step. Two cache lines at a time: a
 * step of 32 bytes skips none (one line loses 10 % on Zen 4 where fewer than 8 tiles share a panel). */
INLINE void packed_tile(const fnn_tile *t, const int m, const int n_vectors, int64_t panel)
{
    enum { STEPS = 4 };
    const int n = n_vectors;
    const float *const w = t->w + panel * t->panel_stride;
    const float *x = t->x;
    const uint32_t *at = t->list, *const end = at + t->n_active;
    uintptr_t ahead = t->ahead; /* may run past the arena, where a prefetch does nothing */
    vf sum[FNN_REGISTERS];

    START;
#define STEP(k, x)                                                                            \
    do {                                                                                      \
        const float *const wk = w + (int64_t)(k) * NR;                                        \
        vf b[2];                                                                              \
        UNROLL for (int j = 0; j < n; j++) b[j] = v_load(wk + j * W);                         \
        UNROLL for (int i = 0; i < m; i++) {                                                  \
            const vf a = v_set1((x)[i]);                                                      \
            UNROLL for (int j = 0; j < n; j++) sum[i * n + j] = v_fma(a, b[j], sum[i * n + j]); \
        }                                                                                     \
        __asm__ volatile("" ::: "memory"); /* or gcc mixes steps, and spills */               \
    } while (0)
    for (; end - at >= STEPS; at += STEPS, x += STEPS * m) {
        __builtin_prefetch((const void *)ahead, 0, 2);
        __builtin_prefetch((const void *)(ahead + 64), 0, 2);
        ahead += STEPS * t->ahead_step;
        UNROLL for (int u = 0; u < STEPS; u++) STEP(at[u], x + u * m);
    }
    for (; at != end; at++, x += m) STEP(*at, x);
#undef STEP
    FINISH;
}

/* Few rows take several panels at once: enough independent chains to hide the latency of an FMA
 * (4 cycles, 2 a cycle), and every loaded input used often. As many as the registers hold. */
#define WIDE(m, n_panels) (2 * (m) * (n_panels) + (m) + 1 <= FNN_REGISTERS)

INLINE void rows(const fnn_tile *t, const int m)
{
    const int64_t n_full = t->n / NR, left = t->n % NR;
    const int64_t n_wide = n_full + (left > W);
    int64_t panel = 0;
    if (WIDE(m, 8))
        for (; panel + 8 <= n_wide; panel += 8) tile(t, m, 8, 2, panel);
    if (WIDE(m, 4))
        for (; panel + 4 <= n_wide; panel += 4) tile(t, m, 4, 2, panel);
    if (WIDE(m, 2))
        for (; panel + 2 <= n_wide; panel += 2) tile(t, m, 2, 2, panel);
    for (; panel < n_wide; panel++) tile(t, m, 1, 2, panel);
    if (left > 0 && left <= W) tile(t, m, 1, 1, panel);
}

_Static_assert(FNN_MR == 6 || FNN_MR == 12, "gemm has a case for each m up to FNN_MR");

static void gemm_packed(const fnn_tile *t)
{
    int64_t panel = 0;
    for (; panel * NR + W < t->n; panel++) packed_tile(t, FNN_MR, 2, panel);
    if (panel * NR < t->n) packed_tile(t, FNN_MR, 1, panel);
}

static void gemm(const fnn_tile *t)
{
    switch (t->m) {
#define CASE(m) case m: if (m <= FNN_MR) rows(t, m); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if FNN_MR > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
}

/* ---- encode: caller's rows to own floats, and which inputs are not zero in all of them ------- */

static int64_t list_all(const fnn_encode *e)
{
    for (int64_t k = 0; k < e->k; k++) e->list[k] = (uint32_t)k;
    return e->k;
}

/* LOAD(i, k), LOAD_FIRST(i, k, n): a vector of row i from input k on; n elements of it. */
#define ENCODE(LOAD, LOAD_FIRST, is_copy)                                             \
    int64_t n_active = 0, k = 0;                                                       \
    for (; k + W <= e->k; k += W) {                                                    \
        vf any = v_set1(0.0f);                                                         \
        for (int i = 0; i < e->m; i++) {                                               \
            const vf v = LOAD(i, k);                                                   \
            if (is_copy) v_store(e->to + i * e->ld + k, v);                            \
            any = v_or(any, v);                                                        \
        }                                                                              \
        n_active += v_compact(e->list + n_active, (uint32_t)k, v_nonzero(any));        \
    }                                                                                  \
    if (k < e->k) {                                                                    \
        vf any = v_set1(0.0f);                                                         \
        for (int i = 0; i < e->m; i++) {                                               \
            const vf v = LOAD_FIRST(i, k, (int)(e->k - k));                            \
            if (is_copy) v_store(e->to + i * e->ld + k, v);                            \
            any = v_or(any, v);                                                        \
        }                                                                              \
        n_active += v_compact(e->list + n_active, (uint32_t)k, v_nonzero(any));        \
    }                                                                                  \
    return e->keep_zeros ? list_all(e) : n_active

static int64_t encode_u8(const fnn_encode *e)
{
    const uint8_t *const x = e->x;
#define LOAD(i, k) v_load_u8(x + (i) * e->row_stride + (k))
#define LOAD_FIRST(i, k, n) v_load_u8_first(x + (i) * e->row_stride + (k), n)
    ENCODE(LOAD, LOAD_FIRST, 1);
#undef LOAD
#undef LOAD_FIRST
}

static int64_t encode_f32(const fnn_encode *e)
{
    if (e->x != NULL) {
        const char *const x = e->x;
#define LOAD(i, k) v_load((const float *)(x + (i) * e->row_stride) + (k))
#define LOAD_FIRST(i, k, n) v_load_first((const float *)(x + (i) * e->row_stride) + (k), n)
        ENCODE(LOAD, LOAD_FIRST, 1);
#undef LOAD
#undef LOAD_FIRST
    }
    if (e->keep_zeros) return list_all(e);
#define LOAD(i, k) v_load(e->to + (i) * e->ld + (k))
#define LOAD_FIRST(i, k, n) v_load_first(e->to + (i) * e->ld + (k), n)
    ENCODE(LOAD, LOAD_FIRST, 0);
#undef LOAD
#undef LOAD_FIRST
}
#undef ENCODE

/* Four consecutive inputs of four rows are transposed in registers, others taken one by one. The
 * compilers' own shuffles, as all ISAs have these and only copies are made. */
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (int4){__VA_ARGS__})
#endif

static void pack(const fnn_encode *e, int64_t n_active, float *to)
{
    typedef float float4 __attribute__((vector_size(16)));
    typedef int32_t int4 __attribute__((vector_size(16)));
    enum { MR4 = FNN_MR / 4 * 4 };
    const float *const x = e->to;
    const int64_t ld = e->ld;
    const uint32_t *const list = e->list;
    for (int64_t at = 0; at < n_active;) {
        const float *const xk = x + list[at];
        if (at + 4 <= n_active && list[at + 3] - list[at] == 3) {
            for (int i = 0; i < MR4; i += 4) {
                float4 r[4], c[4];
                for (int j = 0; j < 4; j++) memcpy(&r[j], xk + (i + j) * ld, 16);
                const float4 low01 = SHUFFLE(r[0], r[1], 0, 4, 1, 5);
                const float4 low23 = SHUFFLE(r[2], r[3], 0, 4, 1, 5);
                const float4 up01 = SHUFFLE(r[0], r[1], 2, 6, 3, 7);
                const float4 up23 = SHUFFLE(r[2], r[3], 2, 6, 3, 7);
                c[0] = SHUFFLE(low01, low23, 0, 1, 4, 5);
                c[1] = SHUFFLE(low01, low23, 2, 3, 6, 7);
                c[2] = SHUFFLE(up01, up23, 0, 1, 4, 5);
                c[3] = SHUFFLE(up01, up23, 2, 3, 6, 7);
                for (int j = 0; j < 4; j++) memcpy(to + j * FNN_MR + i, &c[j], 16);
            }
            for (int i = MR4; i < FNN_MR; i++)
                for (int j = 0; j < 4; j++) to[j * FNN_MR + i] = xk[i * ld + j];
            at += 4;
            to += 4 * FNN_MR;
        } else {
            for (int i = 0; i < FNN_MR; i++) to[i] = xk[i * ld];
            at++;
            to += FNN_MR;
        }
    }
}

/* ---- the peak, the row ----------------------------------------------------------------------- */

static double burn(int64_t n)
{
    enum { CHAINS = FNN_REGISTERS == 16 ? 12 : 16 }; /* 4 cycles x 2 a cycle = 8 at least */
    vf sum[CHAINS];
    volatile float one = 1.0f, tiny = 0x1p-30f;
    const vf a = v_set1(one), b = v_set1(tiny);
    UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = v_set1((float)j);
    for (int64_t i = 0; i < n; i++) {
        UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = v_fma(sum[j], a, b);
    }
    float sink[FNN_VEC_WIDTH];
    UNROLL for (int j = 1; j < CHAINS; j++) sum[0] = v_add(sum[0], sum[j]);
    v_store(sink, sum[0]);
    volatile float used = sink[0];
    (void)used;
    return 2.0 * CHAINS * W * (double)n;
}

#define FNN_PASTE(a, b) a##b
#define FNN_NAME(isa) FNN_PASTE(fnn_row_f32_, isa)
#define FNN_STRING(isa) #isa
#define FNN_QUOTED(isa) FNN_STRING(isa)
const fnn_row FNN_NAME(FNN_ISA) = {
    .isa = FNN_QUOTED(FNN_ISA),
    .format = "f32",
    .needs = FNN_ROW_NEEDS,
    .mr = FNN_MR,
    .nr = NR,
    .rate = FNN_RATE,
    .encode_u8 = encode_u8,
    .encode_f32 = encode_f32,
    .gemm = gemm,
    .pack = pack,
    .gemm_packed = gemm_packed,
    .activate = activate,
    .burn = burn,
};

#undef FNN_ISA
#undef FNN_ROW_NEEDS
#undef FNN_MR
#undef FNN_REGISTERS
#undef FNN_RATE
#undef UNROLL
#undef INLINE
#undef WIDE
#undef START
#undef FINISH
#undef COLUMN
#undef ROW
#undef OPAQUE
#undef SHUFFLE
#undef FNN_PASTE
#undef FNN_NAME
#undef FNN_STRING
#undef FNN_QUOTED
