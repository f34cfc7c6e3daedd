/* The engine in portable C, one row at a time: what fastnn/ccode.py puts into the C file of a model,
 * with activations.h over vec_scalar.h, and softmax.h. The engine itself does not use it.
 *
 * Invariant: C99 that is C++ as well, without memory or state of its own; float32 and int8 layers have
 * the bits of every kernel (kernel.h and kernels_scalar.c say why). Each function stands alone but for
 * those that it calls: only what a model needs is copied.
 */
#ifndef FNN_PORTABLE_H
#define FNN_PORTABLE_H

#include <math.h>
#include <stdint.h>

/* y[j] = fma(x, w[j], y[j]). A zero adds nothing, as weights are finite. */
static inline void add_input(float x, const float *w, int32_t n, float *y)
{
    if (x == 0.0f) return;
    for (int32_t j = 0; j < n; j++) y[j] = fmaf(x, w[j], y[j]);
}

/* y[n] = x[k] @ w[k][n] + b[n]: one chain of fused multiply-adds an output, from its bias. */
static inline void dense_f32(const float *x, int32_t k, const float *w, const float *b, int32_t n,
                             float *y)
{
    for (int32_t j = 0; j < n; j++) y[j] = b[j];
    for (int32_t i = 0; i < k; i++, w += n) add_input(x[i], w, n, y);
    for (int32_t j = 0; j < n; j++) y[j] += 0.0f; /* -0 becomes +0 */
}

/* The same for bytes. */
static inline void dense_u8(const uint8_t *x, int32_t k, const float *w, const float *b, int32_t n,
                            float *y)
{
    for (int32_t j = 0; j < n; j++) y[j] = b[j];
    for (int32_t i = 0; i < k; i++, w += n) add_input((float)x[i], w, n, y);
    for (int32_t j = 0; j < n; j++) y[j] += 0.0f; /* -0 becomes +0 */
}

/* sum[n] = q[k] @ w[k][n], exact. Inputs outside, outputs inside: zeros are skipped, and it is three
 * to eight times as fast as one sum after the other on MNIST's pixels (gcc, clang, with and without AVX2). */
static inline void sums_i8(const uint8_t *q, int32_t k, const int8_t *w, int32_t n, int32_t *sum)
{
    for (int32_t j = 0; j < n; j++) sum[j] = 0;
    for (int32_t i = 0; i < k; i++, w += n) {
        const int32_t x = q[i];
        if (x == 0) continue;
        for (int32_t j = 0; j < n; j++) sum[j] += x * w[j];
    }
}

/* y[n] = sum[n] * scale[n] + offset[n], in real units. */
static inline void scale_i8(const int32_t *sum, const float *scale, const float *offset, int32_t n,
                            float *y)
{
    for (int32_t j = 0; j < n; j++) y[j] = fmaf((float)sum[j], scale[j], offset[j]) + 0.0f;
}

/* To nearest, half to even, held in 0..255. */
static inline uint8_t byte_of(float q)
{
    return (uint8_t)rintf(q > 0.0f ? (q < 255.0f ? q : 255.0f) : 0.0f);
}

/* As scale_i8, in units of the next layer's input. */
static inline void requantize_i8(const int32_t *sum, const float *scale, const float *offset, int32_t n,
                                 uint8_t *q)
{
    for (int32_t j = 0; j < n; j++) q[j] = byte_of(fmaf((float)sum[j], scale[j], offset[j]));
}

/* q[n] = x[n] * inverse + zero. Returns 1 if an x is NaN, which no byte can say, else 0. */
static inline int encode_i8(const float *x, int32_t n, float inverse, float zero, uint8_t *q)
{
    int is_nan = 0;
    for (int32_t i = 0; i < n; i++) {
        is_nan |= x[i] != x[i];
        q[i] = byte_of(fmaf(x[i], inverse, zero));
    }
    return is_nan;
}

static inline void all_nan(float *y, int32_t n)
{
    for (int32_t j = 0; j < n; j++) y[j] = NAN;
}

/* The index of the largest: of the first NaN, else of the first of the largest. */
static inline int32_t argmax_of(const float *y, int32_t n)
{
    int32_t best = 0;
    for (int32_t j = 1; j < n; j++)
        if (!(y[j] <= y[best]) && y[best] == y[best]) best = j;
    return best;
}

#endif
