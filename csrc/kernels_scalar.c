/* The kernels in plain C, in every number format: what the vector kernels have to equal, bit for bit
 * (but for bf16). Read this one first.
 *
 * Invariant: no intrinsics, no ISA flags, no template; written apart from microkernel.h, so that
 * one can convict the other. fmaf is correctly rounded whether or not the CPU has an FMA.
 */
#include "kernel.h"
#include "vec_scalar.h"
#include "activations.h"

enum { MR = 4, NR = 4 };

/* Element n of row i of y, of `size` bytes. */
static char *y_at(const fnn_tile *t, int i, int64_t n, int size)
{
    return (char *)t->y + i * t->ldy + n * size;
}

/* z to y: as t->finish says. */
static void put(const fnn_tile *t, int i, int64_t n, float z)
{
    if (t->finish == FNN_TO_U8) {
        const float held = z > 0.0f ? (z < 255.0f ? z : 255.0f) : 0.0f;
        *y_at(t, i, n, 1) = (char)(uint8_t)rintf(held); /* half to even */
        return;
    }
    z += 0.0f; /* -0 becomes +0: see kernel.h */
    if (t->finish == FNN_RELU && z <= 0.0f) z = 0.0f; /* keeps NaN */
    memcpy(y_at(t, i, n, 4), &z, 4);
}

/* ---- f32 ------------------------------------------------------------------------------------- */

static void gemm_f32(const fnn_tile *t)
{
    for (int64_t n = 0; n < t->n; n++) {
        const float *w = (const float *)((const char *)t->w + n / NR * t->panel_stride) + n % NR;
        for (int i = 0; i < t->m; i++) {
            const float *x = (const float *)((const char *)t->x + i * t->ldx);
            float sum = t->bias[n];
            if (t->is_continued) memcpy(&sum, y_at(t, i, n, 4), 4);
            for (int64_t at = 0; at < t->n_active; at++)
                sum = fmaf(x[t->list[at]], w[t->list[at] * (int64_t)NR], sum);
            if (t->finish == FNN_SUSPEND) memcpy(y_at(t, i, n, 4), &sum, 4);
            else put(t, i, n, sum);
        }
    }
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

static float widened(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static void gemm_bf16(const fnn_tile *t)
{
    for (int64_t n = 0; n < t->n; n++) {
        const uint16_t *w = (const uint16_t *)((const char *)t->w + n / NR * t->panel_stride);
        for (int i = 0; i < t->m; i++) {
            const uint16_t *x = (const uint16_t *)((const char *)t->x + i * t->ldx);
            float sum = t->bias[n];
            if (t->is_continued) memcpy(&sum, y_at(t, i, n, 4), 4);
            for (int64_t at = 0; at < t->n_active; at++) {
                const int64_t g = t->list[at];
                for (int j = 0; j < 2; j++)
                    sum = fmaf(widened(x[g * 2 + j]), widened(w[(g * NR + n % NR) * 2 + j]), sum);
            }
            if (t->finish == FNN_SUSPEND) memcpy(y_at(t, i, n, 4), &sum, 4);
            else put(t, i, n, sum);
        }
    }
}

/* ---- i8 -------------------------------------------------------------------------------------- */

static void gemm_i8(const fnn_tile *t)
{
    for (int64_t n = 0; n < t->n; n++) {
        const int8_t *w = (const int8_t *)t->w + n / NR * t->panel_stride;
        for (int i = 0; i < t->m; i++) {
            const uint8_t *x = (const uint8_t *)t->x + i * t->ldx;
            int32_t sum = 0;
            if (t->is_continued) memcpy(&sum, y_at(t, i, n, 4), 4);
            for (int64_t at = 0; at < t->n_active; at++) {
                const int64_t g = t->list[at];
                for (int j = 0; j < 4; j++) sum += x[g * 4 + j] * w[(g * NR + n % NR) * 4 + j];
            }
            if (t->finish == FNN_SUSPEND) memcpy(y_at(t, i, n, 4), &sum, 4);
            else put(t, i, n, fmaf((float)sum, t->scale[n], t->bias[n]));
        }
    }
}

/* ---- encode ---------------------------------------------------------------------------------- */

/* The groups of `to` that are not zero in all rows; of floats and bfloat16, -0 is zero. */
static int64_t list_active(const fnn_encode *e, int kr)
{
    const uint32_t bits = kr == 1 ? 0x7fffffff : kr == 2 ? 0x7fff7fff : 0xffffffff;
    int64_t n_active = 0;
    for (int64_t g = 0; g < (e->k + kr - 1) / kr; g++) {
        int is_active = e->keep_zeros;
        for (int i = 0; i < e->m; i++) {
            uint32_t group;
            memcpy(&group, (const char *)e->to + i * e->ld + g * 4, 4);
            is_active |= (group & bits) != 0;
        }
        e->list[n_active] = (uint32_t)g;
        n_active += is_active;
    }
    return n_active;
}

/* One input to element k of row i of `to`. */
static void encode_one(const fnn_encode *e, int kr, int i, int64_t k, float x)
{
    char *const to = (char *)e->to + i * e->ld;
    if (kr == 1) {
        memcpy(to + k * 4, &x, 4);
    } else if (kr == 2) {
        const uint16_t half = fnn_bf16(x);
        memcpy(to + k * 2, &half, 2);
    } else {
        const float q = fmaf(x, e->inverse, e->zero);
        if (isnan(x)) *e->is_nan |= 1u << i;
        to[k] = (char)(uint8_t)rintf(q > 0.0f ? (q < 255.0f ? q : 255.0f) : 0.0f);
    }
}

static void fill_up(const fnn_encode *e, int kr) /* the last group */
{
    const int64_t n_groups = (e->k + kr - 1) / kr;
    for (int i = 0; i < e->m; i++)
        memset((char *)e->to + i * e->ld + e->k * (4 / kr), 0, (size_t)(n_groups * kr - e->k) * (4 / kr));
}

static int64_t encode_u8(const fnn_encode *e, int kr)
{
    for (int i = 0; i < e->m; i++) {
        const uint8_t *x = (const uint8_t *)e->x[i];
        if (kr == 4) memcpy((char *)e->to + i * e->ld, x, (size_t)e->k);
        else for (int64_t k = 0; k < e->k; k++) encode_one(e, kr, i, k, x[k]);
    }
    fill_up(e, kr);
    return list_active(e, kr);
}

static int64_t encode_f32(const fnn_encode *e, int kr)
{
    if (e->x == NULL) return list_active(e, kr);
    for (int i = 0; i < e->m; i++) {
        const float *x = (const float *)e->x[i];
        for (int64_t k = 0; k < e->k; k++) encode_one(e, kr, i, k, x[k]);
    }
    fill_up(e, kr);
    return list_active(e, kr);
}

static int64_t encode_u8_f32(const fnn_encode *e) { return encode_u8(e, 1); }
static int64_t encode_u8_bf16(const fnn_encode *e) { return encode_u8(e, 2); }
static int64_t encode_u8_i8(const fnn_encode *e) { return encode_u8(e, 4); }
static int64_t encode_f32_f32(const fnn_encode *e) { return encode_f32(e, 1); }
static int64_t encode_f32_bf16(const fnn_encode *e) { return encode_f32(e, 2); }
static int64_t encode_f32_i8(const fnn_encode *e) { return encode_f32(e, 4); }

/* ---- the peak, the rows ---------------------------------------------------------------------- */

static double burn(int64_t n)
{
    volatile float one = 1.0f, tiny = 0x1p-30f;
    float sum[10], a = one, b = tiny;
    for (int j = 0; j < 10; j++) sum[j] = (float)j;
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < 10; j++) sum[j] = fmaf(sum[j], a, b);
    for (int j = 1; j < 10; j++) sum[0] += sum[j];
    volatile float used = sum[0];
    (void)used;
    return 20.0 * (double)n;
}

/* As argmax.h. */
static int64_t argmax(const float *y, int64_t n)
{
    int64_t best = 0;
    for (int64_t start = 0; start < n; start += 64, y += 64) {
        const int some = n - start < 64 ? (int)(n - start) : 64;
        float top = y[0];
        uint64_t is_top = 0, is_nan = 0; /* bit i: y[i] is */
        for (int i = 1; i < some; i++) top = y[i] > top ? y[i] : top;
        for (int i = 0; i < some; i++) {
            is_top |= (uint64_t)(y[i] == top) << i;
            is_nan |= (uint64_t)(y[i] != y[i]) << i;
        }
        if (is_nan != 0) return start + __builtin_ctzll(is_nan);
        if (start == 0 || top > y[best - start]) best = start + __builtin_ctzll(is_top);
    }
    return best;
}

const fnn_row fnn_row_f32_scalar = {
    .isa = "scalar",
    .format = "f32",
    .needs = 0,
    .mr = MR,
    .nr = NR,
    .kr = 1,
    .kw = 4,
    .rate = 1,
    .encode_u8 = encode_u8_f32,
    .encode_f32 = encode_f32_f32,
    .gemm = gemm_f32,
    .activate = activate,
    .argmax = argmax,
    .certify = &fnn_certify_plain,
    .burn = burn,
};

const fnn_row fnn_row_bf16_scalar = {
    .isa = "scalar",
    .format = "bf16",
    .needs = 0,
    .mr = MR,
    .nr = NR,
    .kr = 2,
    .kw = 4,
    .rate = 1,
    .encode_u8 = encode_u8_bf16,
    .encode_f32 = encode_f32_bf16,
    .gemm = gemm_bf16,
    .burn = burn,
};

const fnn_row fnn_row_i8_scalar = {
    .isa = "scalar",
    .format = "i8",
    .needs = 0,
    .mr = MR,
    .nr = NR,
    .kr = 4,
    .kw = 4,
    .rate = 1,
    .encode_u8 = encode_u8_i8,
    .encode_f32 = encode_f32_i8,
    .gemm = gemm_i8,
    .burn = burn,
};
