/* The kernels in plain C: what the vector kernels have to equal, bit for bit. Read this one first.
 *
 * Invariant: no intrinsics, no ISA flags, no template; written apart from microkernel.h, so that
 * one can convict the other. fmaf is correctly rounded whether or not the CPU has an FMA.
 */
#include "kernel.h"
#include "vec_scalar.h"
#include "activations.h"

enum { MR = 4, NR = 4 };

static void gemm(const fnn_tile *t)
{
    for (int64_t n = 0; n < t->n; n++) {
        const float *w = t->w + n / NR * t->panel_stride + n % NR;
        for (int i = 0; i < t->m; i++) {
            float sum = t->is_continued ? t->y[i * t->ldy + n] : t->bias[n];
            for (int64_t at = 0; at < t->n_active; at++) {
                const uint32_t k = t->list[at];
                sum = fmaf(t->x[i * t->ldx + k], w[(int64_t)k * NR], sum);
            }
            if (!t->is_unfinished) sum += 0.0f; /* -0 becomes +0: see kernel.h */
            if (!t->is_unfinished && t->is_relu && sum <= 0.0f) sum = 0.0f; /* keeps NaN */
            t->y[i * t->ldy + n] = sum;
        }
    }
}

/* The inputs that are not zero in all rows of `to` (-0 is zero, NaN is not). */
static int64_t list_active(const fnn_encode *e)
{
    int64_t n_active = 0;
    for (int64_t k = 0; k < e->k; k++) {
        int is_active = e->keep_zeros;
        for (int i = 0; i < e->m; i++) is_active |= e->to[i * e->ld + k] != 0.0f;
        e->list[n_active] = (uint32_t)k;
        n_active += is_active;
    }
    return n_active;
}

static int64_t encode_u8(const fnn_encode *e)
{
    for (int i = 0; i < e->m; i++) {
        const uint8_t *x = (const uint8_t *)e->x + i * e->row_stride;
        for (int64_t k = 0; k < e->k; k++) e->to[i * e->ld + k] = x[k];
    }
    return list_active(e);
}

static int64_t encode_f32(const fnn_encode *e)
{
    for (int i = 0; i < e->m && e->x != NULL; i++)
        memcpy(e->to + i * e->ld, (const char *)e->x + i * e->row_stride, (size_t)e->k * 4);
    return list_active(e);
}

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

const fnn_row fnn_row_f32_scalar = {
    .isa = "scalar",
    .format = "f32",
    .needs = 0,
    .mr = MR,
    .nr = NR,
    .rate = 1,
    .encode_u8 = encode_u8,
    .encode_f32 = encode_f32,
    .gemm = gemm,
    .activate = activate,
    .burn = burn,
};
