/* softmax of a row, and its logarithm: what is before and after the exponentials, which are the
 * vector kernels'.
 *
 * Invariant: plain C99 and C++, the same bits on every ISA: the difference to the largest is rounded
 * to float32, the rest is double and exact to half an ULP of the result, (4 + |y - max|) 2^-23.
 * fastnn/ccode.py copies these functions into what it writes.
 */
#ifndef FNN_SOFTMAX_H
#define FNN_SOFTMAX_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ln s for finite s >= 1, in double; not libm's, whose last bit depends on its version. With
 * s = m 2^e, 1/sqrt 2 <= m < sqrt 2: e ln 2 + 2 atanh((m - 1) / (m + 1)); 8 terms leave 1e-13. */
static inline double softmax_log_of(double s)
{
    uint64_t bits;
    double m;
    if (!(s < INFINITY)) return s;
    memcpy(&bits, &s, 8);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    memcpy(&m, &bits, 8);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        e++;
    }
    const double t = (m - 1) / (m + 1), square = t * t;
    double sum = 0;
    for (int i = 17; i >= 1; i -= 2) sum = sum * square + 1.0 / i;
    return e * 0x1.62e42fefa39efp-1 + 2 * t * sum;
}

/* The sum of n floats in double: 16 partial sums and one tree, whatever the ISA. */
static inline double softmax_sum_of(const float *x, int64_t n)
{
    double part[16] = {0};
    for (int64_t i = 0; i < n; i++) part[i % 16] += x[i];
    for (int width = 8; width >= 1; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}

/* y -= max(y); a copy to e, whose exponentials come next. */
static inline void softmax_begin(float *y, float *e, int64_t n)
{
    float largest = y[0];
    for (int64_t i = 1; i < n; i++) largest = y[i] > largest ? y[i] : largest;
    for (int64_t i = 0; i < n; i++) e[i] = y[i] -= largest;
}

/* e = exp(y): y = e / sum of e. */
static inline void softmax_end(float *y, const float *e, int64_t n)
{
    const double sum = softmax_sum_of(e, n);
    for (int64_t i = 0; i < n; i++) y[i] = (float)(e[i] / sum);
}

/* e = exp(y): y -= ln of the sum of e. */
static inline void log_softmax_end(float *y, const float *e, int64_t n)
{
    const double log_sum = softmax_log_of(softmax_sum_of(e, n));
    for (int64_t i = 0; i < n; i++) y[i] = (float)(y[i] - log_sum);
}

#endif
