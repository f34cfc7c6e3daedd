/* The vector kernels, written once: a template that each kernels_<isa>.c includes, once a format.
 *
 * Before including, define
 *   FNN_ISA            the ISA's name, an identifier: avx2
 *   FNN_FORMAT         the number format: f32, bf16 or i8, as in operands.h
 *   FNN_ROW_NEEDS      CPU bits
 *   FNN_MR             rows of the largest tile, 1..12
 *   FNN_NV             vectors of a panel, 1..4; FNN_MR FNN_NV sums, FNN_NV weights, an input and
 *                      what a step needs itself must fit the registers
 *   FNN_REGISTERS      vector registers there are
 *   FNN_RATE           multiply-adds a nanosecond, roughly
 * and include a vec_*.h. It exports one table row, fnn_row_<format>_<isa>.
 * Invariant: sums stay in registers for all of K: there is no vector store inside a K loop
 * (tests/test_kernel_loops.py reads the disassembly). A step of K takes a group of inputs, 4 bytes of a row
 * of x and KW bytes of each column of w, whatever the format.
 * Start with tile(), the rest chooses its constants.
 */
#if !defined(FNN_ISA) || !defined(FNN_FORMAT) || !defined(FNN_ROW_NEEDS) || !defined(FNN_MR) || \
    !defined(FNN_NV) || !defined(FNN_REGISTERS) || !defined(FNN_RATE) || !defined(FNN_VEC_WIDTH)
#error "microkernel.h: a parameter is missing, see its head"
#endif

#include <string.h>

#include "kernel.h"
#include "operands.h"

/* gcc keeps an array of accumulators in memory unless each constant loop carries "GCC unroll"; the
 * same pragma makes clang keep it there, which wants its own. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define INLINE FNN_INLINE

#define FNN_PASTE(a, b, c) a##b##c
#define FNN_JOIN(a, b, c) FNN_PASTE(a, b, c)
#define FNN_STRING(a) #a
#define FNN_QUOTED(a) FNN_STRING(a)
/* The name of this format's word, function or type. */
#define OF(name) FNN_JOIN(name, _, FNN_FORMAT)

#define W FNN_VEC_WIDTH
#define NR (FNN_NV * W)
#define KR OF(KR)
#define KW OF(KW)

/* Row i of x, for constant i. An x86 address is base + index * {1, 2, 4, 8}: with the odd multiples of
 * ldx in registers, hardly a row needs an instruction of its own. What gcc makes of i * ldx is an
 * add a row, which costs 6 % on Sapphire Rapids, where adds and FMAs share ports. */
#define ROW(x, i) ((x) + ((i) == 0 ? 0 : odd[(i) / ((i) & -(i))] * ((i) & -(i))))
/* Or gcc keeps a sum in memory now and then, though registers are free. */
#define IN_REGISTER(x) __asm__ volatile("" : "+" FNN_VEC_CONSTRAINT(x))
/* Hides from the compiler where a value came from, or it would derive one register from another. */
#define OPAQUE(x) __asm__("" : "+r"(x))

/* Where vector j of a tile's n lies in a row of y or bias. */
#define COLUMN(j) ((j) * W)

/* Macros, as an array of sums handed to a function may land in memory. */
#define EACH UNROLL for (int j = 0; j < n; j++) UNROLL for (int i = 0; i < m; i++)
#define SUM sum[i * n + j]
#define Y(size) (y + i * t->ldy + COLUMN(j) * (size))

/* START: sum[m * n] from the bias, or from y where the chain goes on. */
#define START                                                                                 \
    const float *const bias = t->bias + panel * NR;                                           \
    char *const y = (char *)t->y + panel * NR * (t->finish == FNN_TO_U8 ? 4 / KR : 4);        \
    if (t->is_continued) {                                                                    \
        EACH SUM = OF(resume)(Y(4));                                                          \
    } else {                                                                                  \
        EACH SUM = OF(start)(bias + COLUMN(j));                                               \
    }

/* FINISH: sum to y. */
#define FINISH                                                                                \
    const float *const scale = OF(IS_SCALED) ? t->scale + panel * NR : bias;                  \
    const vf zero = v_set1(0.0f);                                                             \
    if (t->finish == FNN_SUSPEND) {                                                           \
        EACH OF(suspend)(Y(4), SUM);                                                          \
        return;                                                                               \
    }                                                                                         \
    UNROLL for (int j = 0; j < n; j++) {                                                      \
        const vf scales = v_load(scale + COLUMN(j)), biases = v_load(bias + COLUMN(j));       \
        if (OF(IS_SCALED) && t->finish == FNN_TO_U8) {                                        \
            UNROLL for (int i = 0; i < m; i++)                                                \
                v8_store(Y(4 / KR), OF(z)(SUM, scales, biases));                              \
        } else {                                                                              \
            UNROLL for (int i = 0; i < m; i++) {                                              \
                vf z = v_add(OF(z)(SUM, scales, biases), zero);                               \
                if (t->finish == FNN_RELU) z = v_select(v_le(z, zero), zero, z);              \
                v_store((float *)Y(4), z);                                                    \
            }                                                                                 \
        }                                                                                     \
    }

/* y[m, n vectors], from `panel` on, for constant m, n and `fetch`; the last panel may be in use in part.
 * What the CPU does not foresee is fetched by hand, for two instructions a step: the weights needed next
 * (t->ahead), or those of the list some steps on, where it has gaps (784-128-10: 6 to 8 % on Zen 3). A list
 * IN_A_ROW is not read, which int8 on AVX2 gains 2 % by. */
INLINE void OF(tile)(const fnn_tile *t, const int m, const int n, int64_t panel, const int fetch)
{
    const char *w = (const char *)t->w + panel * t->panel_stride;
    const char *const x = t->x;
    const uint32_t *const list = t->list;
    const int64_t panel_stride = t->panel_stride, n_active = t->n_active;
    OF(sum) sum[FNN_REGISTERS];

    uintptr_t ahead = t->ahead;
    OPAQUE(w);
    int64_t odd[FNN_MAX_MR];
    UNROLL for (int i = 1; i < m; i += 2) {
        odd[i] = i * t->ldx;
        OPAQUE(odd[i]);
    }

    START;
    const int64_t first = fetch == IN_A_ROW ? list[0] : 0;
    for (int64_t at = 0; at < n_active; at++) {
        const int64_t k = fetch == IN_A_ROW ? first + at : list[at];
        const char *const wk = w + k * (NR * KW);
        const char *xk = x + k * 4;
        OPAQUE(xk);
        if (fetch == FETCH_AHEAD) {
            __builtin_prefetch((const void *)ahead, 0, 2);
            ahead += (uintptr_t)t->ahead_step;
        } else if (fetch == FETCH_LISTED) { /* behind the list are spare elements, of any value */
            const uintptr_t later = (uintptr_t)w + list[at + STEPS_LATER] * (uintptr_t)(NR * KW);
            UNROLL for (int byte = 0; byte < n / FNN_NV * NR * KW; byte += 64)
                __builtin_prefetch((const void *)(later + (uintptr_t)(byte / (NR * KW) * panel_stride) +
                                                  (uintptr_t)(byte % (NR * KW))), 0, 3);
        }
        if (m < n) { /* hold the m inputs, let weights pass */
            OF(x) a[FNN_REGISTERS];
            UNROLL for (int i = 0; i < m; i++) a[i] = OF(spread)(ROW(xk, i));
            UNROLL for (int j = 0; j < n; j++) {
                const OF(w) b = OF(load)(wk + j / FNN_NV * panel_stride + j % FNN_NV * (W * KW));
                UNROLL for (int i = 0; i < m; i++) SUM = OF(step)(SUM, a[i], b);
            }
        } else { /* hold the n weight vectors, let inputs pass */
            OF(w) b[FNN_REGISTERS];
            UNROLL for (int j = 0; j < n; j++)
                b[j] = OF(load)(wk + j / FNN_NV * panel_stride + j % FNN_NV * (W * KW));
            UNROLL for (int i = 0; i < m; i++) {
                const OF(x) a = OF(spread)(ROW(xk, i));
                if (OF(IN_PAIRS) && n == 2) {
                    OF(STEP_2)(sum[i * n], sum[i * n + 1], a, b[0], b[1]);
                    continue;
                }
                UNROLL for (int j = 0; j < n; j++) SUM = OF(step)(SUM, a, b[j]);
            }
        }
    }
    FINISH;
}

/* Whether packed_tile pays: where sums and weights leave registers over. Elsewhere gcc 12 keeps some of
 * them in memory, and rows of 1024 x 3 take 1.3 (i8 on avx2) to 1.7 (i8 on avx512) times as long. */
#define PACKS (FNN_REGISTERS >= 32 && OF(REGISTERS) == 1)

/* The same with x packed, m = mr: addresses are one register and constants, which leaves room to
 * unroll and to fetch `ahead` without the cost of a prefetch a step. Two cache lines at a time: a
 * step of 32 bytes skips none (one line loses 10 % on Zen 4 where fewer than 8 tiles share a panel). */
INLINE void OF(packed_tile)(const fnn_tile *t, const int m, const int n, int64_t panel)
{
    enum { STEPS = 4 };
    const char *const w = (const char *)t->w + panel * t->panel_stride;
    const char *x = t->x;
    const uint32_t *at = t->list, *const end = at + t->n_active;
    uintptr_t ahead = t->ahead; /* may run past the arena, where a prefetch does nothing */
    OF(sum) sum[FNN_REGISTERS];

    START;
#define STEP(k, at_x)                                                                          \
    do {                                                                                      \
        const char *const wk = w + (int64_t)(k) * (NR * KW);                                  \
        OF(w) b[FNN_NV];                                                                      \
        UNROLL for (int j = 0; j < n; j++) b[j] = OF(load)(wk + j * (W * KW));                \
        UNROLL for (int i = 0; i < m; i++) {                                                  \
            const OF(x) a = OF(spread)((at_x) + i * 4);                                       \
            UNROLL for (int j = 0; j < n; j++) {                                              \
                SUM = OF(step)(SUM, a, b[j]);                                                 \
                IN_REGISTER(SUM);                                                             \
            }                                                                                 \
        }                                                                                     \
        __asm__ volatile("" ::: "memory"); /* or gcc mixes steps, and spills */               \
    } while (0)
    for (; end - at >= STEPS; at += STEPS, x += STEPS * m * 4) {
        __builtin_prefetch((const void *)ahead, 0, 2);
        __builtin_prefetch((const void *)(ahead + 64), 0, 2);
        ahead += STEPS * t->ahead_step;
        UNROLL for (int u = 0; u < STEPS; u++) STEP(at[u], x + u * m * 4);
    }
    for (; at != end; at++, x += m * 4) STEP(*at, x);
#undef STEP
    FINISH;
}

/* Few rows take several panels at once: enough independent chains to hide the latency of a step
 * (4 cycles, 2 a cycle), and every loaded input used often. As many as the registers hold. */
#define FITS(m, n_panels)                                                                     \
    ((n_panels) * (m) * FNN_NV + ((m) + 1) * OF(REGISTERS) + OF(SPARE) <= FNN_REGISTERS)
#define MOST_VECTORS(m) (FNN_NV * (FITS(m, 8) ? 8 : FITS(m, 4) ? 4 : FITS(m, 2) ? 2 : 1))

/* The vectors that are left when whole tiles are done are shared by the last two tiles: a tile of
 * one alone takes as long as one of eight. */
INLINE void OF(rows)(const fnn_tile *t, const int m)
{
    const int64_t most = MOST_VECTORS(m);
    int64_t left = (t->n + W - 1) / W, panel = 0, n;
    if (!PACKS && m == FNN_MR && left == FNN_NV && t->ahead_step != 0) {
        OF(tile)(t, m, FNN_NV, 0, FETCH_AHEAD);
        return;
    }
    if (OF(IN_PAIRS) && m == FNN_MR && t->n_active > 0 &&
        t->list[t->n_active - 1] - t->list[0] == (uint32_t)t->n_active - 1)
        for (; left >= FNN_NV; left -= FNN_NV, panel++) OF(tile)(t, m, FNN_NV, panel, IN_A_ROW);
    /* Not int8, whose steps are short of time for it: 5 % lost on AVX2. */
    if (!OF(IS_SCALED) && (m == FNN_MR || m == 1) && t->has_gaps)
        for (; left >= most; left -= most, panel += most / FNN_NV)
            OF(tile)(t, m, MOST_VECTORS(m), panel, FETCH_LISTED);
    for (; left > 0; left -= n, panel += n / FNN_NV) {
        n = left >= 2 * most ? most
            : left > most    ? ((left + 1) / 2 + FNN_NV - 1) / FNN_NV * FNN_NV
                             : left;
        switch (n) {
#define CASE(n) case n: if (n <= MOST_VECTORS(m)) OF(tile)(t, m, n, panel, FETCH_NOTHING); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
            CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14) CASE(15) CASE(16)
#undef CASE
        }
    }
}

_Static_assert(FNN_MR >= 1 && FNN_MR <= 12 && FNN_NV >= 1 && FNN_NV <= 4, "a case for each is here");
_Static_assert(MOST_VECTORS(1) <= 16, "a case for each is above");

static void OF(gemm_packed)(const fnn_tile *t)
{
    const int64_t n_wide = (t->n + W - 1) / NR, left = t->n - n_wide * NR;
    int64_t panel = 0;
    for (; panel < n_wide; panel++) OF(packed_tile)(t, FNN_MR, FNN_NV, panel);
    if (left > 2 * W) OF(packed_tile)(t, FNN_MR, FNN_NV > 3 ? 3 : 1, panel);
    else if (left > W) OF(packed_tile)(t, FNN_MR, FNN_NV > 2 ? 2 : 1, panel);
    else if (left > 0) OF(packed_tile)(t, FNN_MR, 1, panel);
}

/* A function for each m: one for all has a frame of 400 KB under the address sanitizer. */
#define CASE(m)                                                                               \
    static __attribute__((noinline)) void FNN_JOIN(OF(rows), _, m)(const fnn_tile *t)         \
    {                                                                                         \
        if (m <= FNN_MR) OF(rows)(t, m);                                                      \
    }
CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE

static void OF(gemm)(const fnn_tile *t)
{
    switch (t->m) {
#define CASE(m) case m: FNN_JOIN(OF(rows), _, m)(t); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
    }
}

/* ---- encode: rows to own rows of the format, and which groups are not zero in all of them ---- */

static int64_t OF(list_all)(const fnn_encode *e)
{
    const int64_t n_groups = (e->k + KR - 1) / KR;
    for (int64_t k = 0; k < n_groups; k++) e->list[k] = (uint32_t)k;
    return n_groups;
}

/* The list of what lies in e->to, of which nothing but whole groups is read: it may be the caller's. */
static int64_t OF(scan)(const fnn_encode *e)
{
    const int64_t n_groups = (e->k + KR - 1) / KR;
    const vi bits = vi_set1(OF(BITS));
    int64_t n_active = 0, k = 0;
    if (e->keep_zeros) return OF(list_all)(e);
    for (; k + W <= n_groups; k += W) {
        const char *row = (const char *)e->to + k * 4;
        vi any = vi_load(row);
        for (int i = 1; i < e->m; i++) any = vi_or(any, vi_load(row += e->ld));
        n_active += v_compact(e->list + n_active, (uint32_t)k, vi_tests(any, bits));
    }
    if (k < n_groups) {
        const int n_bytes = (int)(n_groups - k) * 4;
        const char *row = (const char *)e->to + k * 4;
        vi any = vi_load_first(row, n_bytes);
        for (int i = 1; i < e->m; i++) any = vi_or(any, vi_load_first(row += e->ld, n_bytes));
        n_active += v_compact(e->list + n_active, (uint32_t)k, vi_tests(any, bits));
    }
    return n_active;
}

/* Copies and scans in one pass, a vector of groups at a time; LOAD(n) gives row i's from input `at` on,
 * where n inputs are left, with zeros behind. One row has a loop of its own: half the instructions (of a
 * row of 784-128-10 encoding is a sixth). */
#define ENCODE_VECTOR(m, LOAD, n)                                                             \
    do {                                                                                      \
        vi any = vi_set1(0);                                                                  \
        char *row = to;                                                                       \
        for (int i = 0; i < (m); i++, row += ld) {                                            \
            const vi groups = LOAD(n);                                                        \
            vi_store(row, groups);                                                            \
            any = vi_or(any, groups);                                                         \
        }                                                                                     \
        n_active += v_compact(list + n_active, (uint32_t)(at / KR), vi_tests(any, bits));     \
    } while (0)
#define ENCODE_ROWS(m, LOAD)                                                                  \
    do {                                                                                      \
        for (; n_inputs - at >= W * KR; at += W * KR, to += W * 4) ENCODE_VECTOR(m, LOAD, W * KR); \
        if (at < n_inputs) ENCODE_VECTOR(m, LOAD, n_inputs - at);                             \
    } while (0)
#define ENCODE(LOAD)                                                                          \
    const vi bits = vi_set1(OF(BITS));                                                        \
    const int m = e->m; /* in registers, as stores to bytes might change what e points to */  \
    const int64_t n_inputs = e->k, ld = e->ld;                                                \
    uint32_t *const list = e->list;                                                           \
    char *to = e->to;                                                                         \
    int64_t n_active = 0, at = 0;                                                             \
    if (m == 1) ENCODE_ROWS(1, LOAD);                                                         \
    else ENCODE_ROWS(m, LOAD);                                                                \
    return e->keep_zeros ? OF(list_all)(e) : n_active

static int64_t OF(encode_u8)(const fnn_encode *e)
{
    const char *const *const x = e->x;
#define PIXELS(n) OF(from_u8)((const uint8_t *)x[i] + at, n)
    ENCODE(PIXELS);
#undef PIXELS
}

static int64_t OF(encode_f32)(const fnn_encode *e)
{
    if (e->x == NULL) return OF(scan)(e);
    const char *const *const x = e->x;
#define FLOATS(n) OF(from_f32)((const float *)x[i] + at, n, e, i)
    ENCODE(FLOATS);
#undef FLOATS
}

/* Four consecutive inputs of four rows are transposed in registers, others taken one by one. The
 * compilers' own shuffles, as all ISAs have these and only copies are made. */
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (int4){__VA_ARGS__})
#endif

static void OF(pack)(const fnn_encode *e, int64_t n_active, void *packed)
{
    typedef float float4 __attribute__((vector_size(16)));
    typedef int32_t int4 __attribute__((vector_size(16), unused)); /* clang has no use for it */
    enum { MR4 = FNN_MR / 4 * 4 };
    const int64_t ld = e->ld;
    const uint32_t *const list = e->list;
    char *to = packed;
    for (int64_t at = 0; at < n_active;) {
        const char *const xk = (const char *)e->to + list[at] * (int64_t)4;
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
                for (int j = 0; j < 4; j++) memcpy(to + (j * FNN_MR + i) * 4, &c[j], 16);
            }
            for (int i = MR4; i < FNN_MR; i++)
                for (int j = 0; j < 4; j++) memcpy(to + (j * FNN_MR + i) * 4, xk + i * ld + j * 4, 4);
            at += 4;
            to += 4 * FNN_MR * 4;
        } else {
            for (int i = 0; i < FNN_MR; i++) memcpy(to + i * 4, xk + i * ld, 4);
            at++;
            to += FNN_MR * 4;
        }
    }
}

/* ---- the peak, the row ----------------------------------------------------------------------- */

static double OF(burn)(int64_t n)
{
    enum { CHAINS = FNN_REGISTERS == 16 ? 10 : 16 }; /* at least 4 cycles x 2 a cycle */
    float sums[CHAINS * W]; /* each its own, or the compiler makes one chain of them */
    char x[4] = {0, 0, 1, 1}, weights[W * KW] = {0};
    for (int j = 0; j < CHAINS * W; j++) sums[j] = (float)j;
    __asm__ volatile("" : : "r"(sums), "r"(x), "r"(weights) : "memory");
    OF(sum) sum[CHAINS];
    const OF(x) a = OF(spread)(x);
    OF(w) b = OF(load)(weights);
    UNROLL for (int j = 0; j < CHAINS; j++) sum[j] = OF(resume)((char *)(sums + j * W));
    for (int64_t i = 0; i < n; i++) {
        UNROLL for (int j = 0; j < CHAINS; j++) {
            OF(hide)(&b); /* or one product serves all chains */
            if (OF(IN_PAIRS) && j % 2 == 0)
                OF(STEP_2)(sum[j], sum[j + 1], a, b, b);
            else if (!OF(IN_PAIRS))
                sum[j] = OF(step)(sum[j], a, b);
        }
    }
    UNROLL for (int j = 0; j < CHAINS; j++) OF(suspend)((char *)(sums + j * W), sum[j]);
    __asm__ volatile("" : : "r"(sums) : "memory");
    return 2.0 * CHAINS * W * KR * (double)n;
}

#define FNN_ROW FNN_JOIN(OF(fnn_row), _, FNN_ISA)
const fnn_row FNN_ROW = {
    .isa = FNN_QUOTED(FNN_ISA),
    .format = FNN_QUOTED(FNN_FORMAT),
    .needs = FNN_ROW_NEEDS,
    .mr = FNN_MR,
    .nr = NR,
    .kr = KR,
    .kw = KW,
    .rate = FNN_RATE,
    .encode_u8 = OF(encode_u8),
    .encode_f32 = OF(encode_f32),
    .gemm = OF(gemm),
    .pack = PACKS ? OF(pack) : NULL,
    .gemm_packed = PACKS ? OF(gemm_packed) : NULL,
    .activate = OF(ACTIVATE),
    .argmax = OF(ARGMAX),
    .certify = OF(CERTIFY),
    .burn = OF(burn),
};
#undef FNN_ROW

#undef FNN_ISA
#undef FNN_FORMAT
#undef FNN_ROW_NEEDS
#undef FNN_MR
#undef FNN_NV
#undef FNN_REGISTERS
#undef FNN_RATE
#undef UNROLL
#undef INLINE
#undef FNN_PASTE
#undef FNN_JOIN
#undef FNN_STRING
#undef FNN_QUOTED
#undef OF
#undef W
#undef NR
#undef KR
#undef KW
#undef ROW
#undef OPAQUE
#undef IN_REGISTER
#undef COLUMN
#undef EACH
#undef SUM
#undef Y
#undef START
#undef FINISH
#undef PACKS
#undef FITS
#undef MOST_VECTORS
#undef ENCODE
#undef ENCODE_ROWS
#undef ENCODE_VECTOR
#undef SHUFFLE
