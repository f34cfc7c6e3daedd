/* The loops over a row's inputs that certifying it takes, for the ISA of the including file.
 *
 * What lives here: in a kernels_<isa>.c, FNN_CERTIFY_LOOPS, to initialise an fnn_certify_loops with;
 * for certify.c, which has the rest in plain C, those that the compiler is left to put into vectors.
 * Invariant: integer sums are exact. Float sums are of terms >= 0, in as many parts as a vector has
 * lanes, in any order: they enter a bound that allows for it, so ISAs need not agree in their bits.
 * No byte outside a row is read.
 */
#ifndef FNN_CERTIFY_LOOPS_H
#define FNN_CERTIFY_LOOPS_H

#include <string.h>

#include "certify.h"

/* The words: a vector of 2 L int16, L int32 or L float. */
#if defined(__AVX512BW__)
#include <immintrin.h>
enum { L = 16 };
typedef __m512i ci;
typedef __m512 cf;
static inline ci c_load_u8_as_16(const uint8_t *x)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)x));
}
static inline ci c_load_u8_as_32(const uint8_t *x)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)x));
}
static inline ci c_set16(int x) { return _mm512_set1_epi16((short)x); }
static inline ci c_set32(int x) { return _mm512_set1_epi32(x); }
static inline ci c_mul16(ci a, ci b) { return _mm512_mullo_epi16(a, b); }
static inline ci c_sub16(ci a, ci b) { return _mm512_sub_epi16(a, b); }
static inline ci c_sub32(ci a, ci b) { return _mm512_sub_epi32(a, b); }
static inline ci c_add32(ci a, ci b) { return _mm512_add_epi32(a, b); }
static inline ci c_madd(ci a, ci b) { return _mm512_madd_epi16(a, b); }
static inline ci c_and(ci a, ci b) { return _mm512_and_si512(a, b); }
static inline ci c_load(const void *x) { return _mm512_loadu_si512(x); }
static inline ci c_sum_u8(ci sum, const uint8_t *x) /* 4 L bytes, to L parts */
{
    return _mm512_add_epi32(sum, _mm512_sad_epu8(_mm512_loadu_si512(x), _mm512_setzero_si512()));
}
static inline cf c_to_float(ci x) { return _mm512_cvtepi32_ps(x); }
static inline cf c_loadf(const float *x) { return _mm512_loadu_ps(x); }
static inline cf c_setf(float x) { return _mm512_set1_ps(x); }
static inline cf c_subf(cf a, cf b) { return _mm512_sub_ps(a, b); }
static inline cf c_addf(cf a, cf b) { return _mm512_add_ps(a, b); }
static inline cf c_mulf(cf a, cf b) { return _mm512_mul_ps(a, b); }
static inline void c_storef(float *to, cf x) { _mm512_storeu_ps(to, x); }
#elif defined(__AVX2__)
#include <immintrin.h>
enum { L = 8 };
typedef __m256i ci;
typedef __m256 cf;
static inline ci c_load_u8_as_16(const uint8_t *x)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)x));
}
static inline ci c_load_u8_as_32(const uint8_t *x)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)x));
}
static inline ci c_set16(int x) { return _mm256_set1_epi16((short)x); }
static inline ci c_set32(int x) { return _mm256_set1_epi32(x); }
static inline ci c_mul16(ci a, ci b) { return _mm256_mullo_epi16(a, b); }
static inline ci c_sub16(ci a, ci b) { return _mm256_sub_epi16(a, b); }
static inline ci c_sub32(ci a, ci b) { return _mm256_sub_epi32(a, b); }
static inline ci c_add32(ci a, ci b) { return _mm256_add_epi32(a, b); }
static inline ci c_madd(ci a, ci b) { return _mm256_madd_epi16(a, b); }
static inline ci c_and(ci a, ci b) { return _mm256_and_si256(a, b); }
static inline ci c_load(const void *x) { return _mm256_loadu_si256((const __m256i *)x); }
static inline ci c_sum_u8(ci sum, const uint8_t *x)
{
    return _mm256_add_epi32(sum, _mm256_sad_epu8(c_load(x), _mm256_setzero_si256()));
}
static inline cf c_to_float(ci x) { return _mm256_cvtepi32_ps(x); }
static inline cf c_loadf(const float *x) { return _mm256_loadu_ps(x); }
static inline cf c_setf(float x) { return _mm256_set1_ps(x); }
static inline cf c_subf(cf a, cf b) { return _mm256_sub_ps(a, b); }
static inline cf c_addf(cf a, cf b) { return _mm256_add_ps(a, b); }
static inline cf c_mulf(cf a, cf b) { return _mm256_mul_ps(a, b); }
static inline void c_storef(float *to, cf x) { _mm256_storeu_ps(to, x); }
#endif

#if defined(__AVX2__)
/* In 64 bits, which the sum of L parts may need. */
static inline int64_t c_total(ci x)
{
#if defined(__AVX512BW__)
    const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(x));
    const __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(x, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
#else
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(x));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(x, 1));
    int64_t part[4];
    _mm256_storeu_si256((__m256i *)part, _mm256_add_epi64(low, high));
    return part[0] + part[1] + part[2] + part[3];
#endif
}

static inline float c_totalf(cf x)
{
    float part[L];
    c_storef(part, x);
    for (int width = L / 2; width >= 1; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}

static int64_t certify_sum(const uint8_t *q, int64_t n)
{
    ci sum = c_set32(0);
    int64_t k = 0, total = 0, next = (int64_t)1 << 20;
    for (; k + 4 * L <= n; k += 4 * L) {
        sum = c_sum_u8(sum, q + k);
        if (k >= next) { /* before a part overflows */
            next += (int64_t)1 << 20;
            total += c_total(sum);
            sum = c_set32(0);
        }
    }
    if (k < n) {
        uint8_t rest[4 * L] = {0};
        memcpy(rest, q + k, (size_t)(n - k));
        sum = c_sum_u8(sum, rest);
    }
    return total + c_total(sum);
}

static int64_t certify_squares(const uint8_t *q, int32_t zero, int64_t n)
{
    const ci zeros = c_set16(zero);
    int64_t total = 0, k = 0;
    while (k < n) {
        ci sum = c_set32(0);
        for (int i = 0; i < 1024 && k + 2 * L <= n; i++, k += 2 * L) { /* 2^10 * 2^17 */
            const ci x = c_sub16(c_load_u8_as_16(q + k), zeros);
            sum = c_add32(sum, c_madd(x, x));
        }
        if (n - k < 2 * L) {
            uint8_t rest[2 * L];
            memset(rest, zero, sizeof rest);
            memcpy(rest, q + k, (size_t)(n - k));
            const ci x = c_sub16(c_load_u8_as_16(rest), zeros);
            sum = c_add32(sum, c_madd(x, x));
            k = n;
        }
        total += c_total(sum);
    }
    return total;
}

static inline cf c_residual(const float *a, const uint8_t *q, cf inverse, ci zeros)
{
    const cf x = c_to_float(c_sub32(c_load_u8_as_32(q), zeros));
    return c_subf(c_mulf(c_loadf(a), inverse), x);
}

static float certify_residual_squares(const float *a, const uint8_t *q, float inverse, int32_t zero,
                                      int64_t n)
{
    const cf inverses = c_setf(inverse);
    const ci zeros = c_set32(zero);
    cf sum0 = c_setf(0), sum1 = c_setf(0);
    int64_t k = 0;
    for (; k + 2 * L <= n; k += 2 * L) {
        const cf r0 = c_residual(a + k, q + k, inverses, zeros);
        const cf r1 = c_residual(a + k + L, q + k + L, inverses, zeros);
        sum0 = c_addf(sum0, c_mulf(r0, r0));
        sum1 = c_addf(sum1, c_mulf(r1, r1));
    }
    for (; k < n; k += L) {
        float rest[L] = {0};
        uint8_t rest_q[L];
        const size_t left = (size_t)(n - k < L ? n - k : L);
        memset(rest_q, zero, sizeof rest_q);
        memcpy(rest, a + k, left * sizeof *a);
        memcpy(rest_q, q + k, left);
        const cf r = c_residual(rest, rest_q, inverses, zeros);
        sum0 = c_addf(sum0, c_mulf(r, r));
    }
    return c_totalf(c_addf(sum0, sum1));
}

static float certify_float_squares(const float *x, int64_t n)
{
    cf sum0 = c_setf(0), sum1 = c_setf(0);
    int64_t k = 0;
    for (; k + 2 * L <= n; k += 2 * L) {
        const cf a = c_loadf(x + k), b = c_loadf(x + k + L);
        sum0 = c_addf(sum0, c_mulf(a, a));
        sum1 = c_addf(sum1, c_mulf(b, b));
    }
    float rest = 0;
    for (; k < n; k++) rest += x[k] * x[k];
    return c_totalf(c_addf(sum0, sum1)) + rest;
}

/* |4 p| <= 255 * (4 + 64), the taps being at most 64 in all (fastnn/certify.py, Taps): 16 bits. */
static int64_t certify_tapped_squares(const fnn_stage *s, const uint8_t *q, uint8_t *work)
{
    const int64_t n = s->n_inputs;
    const int n_taps = s->n_taps;
    int64_t longest = 0, largest = FNN_TAP;
    ci taps[FNN_MAX_TAPS];
    for (int t = 0; t < n_taps; t++) {
        taps[t] = c_set16(s->tap[t]);
        if (s->lag[t] > longest) longest = s->lag[t];
        largest += s->tap[t] < 0 ? -s->tap[t] : s->tap[t];
    }
    largest *= 255;
    const int64_t n_safe = INT32_MAX / (2 * largest * largest); /* at least 3 */
    uint8_t *const x = work + longest; /* zeros before it, and behind it */
    memset(work, 0, (size_t)longest);
    memcpy(x, q, (size_t)n);
    memset(x + n, 0, 2 * L);
    static const int16_t ones[4 * L] = {
#define C_ONES -1, -1, -1, -1, -1, -1, -1, -1
        C_ONES, C_ONES,
#if defined(__AVX512BW__)
        C_ONES, C_ONES,
#endif
#undef C_ONES
    };
    int64_t total = 0, k = 0;
    while (k < n) {
        ci sum = c_set32(0);
        for (int64_t i = 0; i < n_safe && k < n; i++, k += 2 * L) {
            ci p = c_mul16(c_load_u8_as_16(x + k), c_set16(FNN_TAP));
            for (int t = 0; t < n_taps; t++)
                p = c_sub16(p, c_mul16(c_load_u8_as_16(x + k - s->lag[t]), taps[t]));
            if (n - k < 2 * L) p = c_and(p, c_load(ones + (2 * L - (n - k))));
            sum = c_add32(sum, c_madd(p, p));
        }
        total += c_total(sum);
    }
    return total;
}

#define FNN_CERTIFY_LOOPS                                                                  \
    {certify_sum,           certify_squares, certify_residual_squares,                     \
     certify_float_squares, certify_tapped_squares, certify_along, certify_nonzero,        \
     certify_live,          certify_live_squares}
#endif

/* ---- left to the compiler on every ISA: for doubtful rows alone ------------------------------ */

static int64_t certify_nonzero(const uint8_t *q, int64_t n)
{
    int64_t count = 0;
    for (int64_t k = 0; k < n;) {
        const int64_t end = n - k < 128 ? n : k + 128; /* fits 8 bits */
        uint8_t part = 0;
        for (; k < end; k++) part = (uint8_t)(part + (q[k] != 0));
        count += part;
    }
    return count;
}

static double certify_along(const fnn_stage *s, const float *a, const uint8_t *q)
{
    const float inverse = (float)(1 / s->input_scale);
    float g[FNN_N_DIRECTIONS] = {0};
    for (int64_t k = 0; k < s->n_inputs; k++) {
        const float r = a[k] * inverse - (float)(q[k] - s->input_zero);
        const float *d = s->directions + k * FNN_N_DIRECTIONS;
        for (int i = 0; i < FNN_N_DIRECTIONS; i++) g[i] += r * d[i];
    }
    double total = 0;
    for (int i = 0; i < FNN_N_DIRECTIONS; i++) total += (double)g[i] * g[i];
    return total;
}

static void certify_live(const float *each, const float factors[FNN_N_EACH], float rest,
                         float below, float above, const float *z, float *restrict live, int64_t n)
{
    const float f0 = factors[0], f1 = factors[1], f2 = factors[2], f3 = factors[3];
    const float f4 = factors[4], f5 = factors[5], f6 = factors[6];
    for (int64_t i = 0; i < n; i++) {
        const float alone = each[n + i] * f1 + each[2 * n + i] * f2 + each[3 * n + i] * f3 +
                            each[4 * n + i] * f4 + each[5 * n + i] * f5 + each[6 * n + i] * f6 +
                            rest;
        const float together = each[i] * f0 + 0x1p-120f;
        const float most = alone < together ? alone : together;
        /* A rounded sum is < below only if the sum is, `below` being a float32. */
        const int is_flat = (z[i] + most < below) | (z[i] - most > above);
        live[i] = is_flat ? 0.0f : 1.0f;
    }
}

static float certify_live_squares(const float *live, const float *x, const float *y, int64_t n)
{
    float part[16] = {0};
    int64_t k = 0;
    for (; k + 16 <= n; k += 16)
        for (int i = 0; i < 16; i++) {
            const float d = x[k + i] - y[k + i];
            part[i] += live[k + i] * (d * d);
        }
    for (; k < n; k++) part[0] += live[k] * ((x[k] - y[k]) * (x[k] - y[k]));
    for (int i = 1; i < 16; i++) part[0] += part[i];
    return part[0];
}

#endif
