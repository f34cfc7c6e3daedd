/* The number formats: how each loads weights, spreads inputs over lanes, multiplies and finishes.
 *
 * What lives here: for each format of f32, bf16 and i8 the same words, over a vec_*.h. A group is the
 * kr inputs that fill 4 bytes; a step of K takes one group of a row and, of each column, its kr weights.
 * Invariant: f32 and i8 give the same bits on every ISA (one fma a step; exact integers, then one fma).
 * bf16 does not: where the CPU multiplies pairs itself it rounds as it likes.
 *
 *             kr  group               sum     a step                           z
 *     f32      1  a float             float   fma(x, w, sum)                   sum
 *     bf16     2  two bfloat16        float   two fmas, or what the CPU has    sum
 *     i8       4  four u8 (s8 of w)   int32   sum + x0 w0 + .. + x3 w3         fma(sum, scale, bias)
 *              2  two u16 (s8 of w)   int32   sum + x0 w0 + x1 w1              where x86 lacks VNNI
 *
 * There the product of u8 and s8 adds pairs in 16 bits and saturates, so both are widened: inputs when
 * they are encoded, weights (bytes in memory) when they are loaded. Groups of four that are widened at
 * each use take 1.2 to 1.5 times as long, weights of 16 bits twice as long for one row.
 */
#ifndef FNN_OPERANDS_H
#define FNN_OPERANDS_H

#include <string.h>

#include "kernel.h"

#define FNN_INLINE static inline __attribute__((always_inline))

#define ACTIVATE_f32 activate /* of activations.h */
#define ACTIVATE_bf16 NULL
#define ACTIVATE_i8 NULL
#define ARGMAX_f32 argmax /* of argmax.h */
#define ARGMAX_bf16 NULL
#define ARGMAX_i8 NULL
#define CERTIFY_f32 &certify_loops /* of the including file */
#define CERTIFY_bf16 NULL
#define CERTIFY_i8 NULL

enum { FETCH_NOTHING, FETCH_AHEAD, FETCH_LISTED, IN_A_ROW, STEPS_LATER = 8 }; /* of a tile, see microkernel.h */

/* KR: inputs of a group. KW: bytes of a column's weights of a group. BITS: of a group that are not all zero if it matters (-0 does not).
 * REGISTERS: what a spread group or a loaded weight vector takes. SPARE: what a step takes beside those.
 * IS_SCALED: z is not the sum itself. IN_PAIRS: two columns of a row are better taken in one (STEP_2). */
enum { KR_f32 = 1, BITS_f32 = 0x7fffffff, REGISTERS_f32 = 1, SPARE_f32 = 0 };
enum { KW_f32 = 4, IS_SCALED_f32 = 0, IN_PAIRS_f32 = 0 };
enum { KR_bf16 = 2, BITS_bf16 = 0x7fff7fff, KW_bf16 = 4, IS_SCALED_bf16 = 0, IN_PAIRS_bf16 = 0 };
enum { KR_i8 = V8_KR, BITS_i8 = -1, REGISTERS_i8 = V8_REGISTERS, SPARE_i8 = V8_SPARE };
enum { KW_i8 = V8_KR, IS_SCALED_i8 = 1 };

/* ---- f32 ------------------------------------------------------------------------------------- */

typedef vf sum_f32, x_f32, w_f32;

FNN_INLINE x_f32 spread_f32(const char *x)
{
    float one;
    memcpy(&one, x, 4);
    return v_set1(one);
}
FNN_INLINE w_f32 load_f32(const char *w) { return v_load((const float *)w); }
FNN_INLINE sum_f32 step_f32(sum_f32 sum, x_f32 x, w_f32 w) { return v_fma(x, w, sum); }
#define STEP_2_f32(sum0, sum1, x, w0, w1) /* two columns in one: where IN_PAIRS */
FNN_INLINE void hide_f32(w_f32 *w) { (void)w; }
FNN_INLINE sum_f32 start_f32(const float *bias) { return v_load(bias); }
FNN_INLINE sum_f32 resume_f32(const char *y) { return v_load((const float *)y); }
FNN_INLINE void suspend_f32(char *y, sum_f32 sum) { v_store((float *)y, sum); }
FNN_INLINE vf z_f32(sum_f32 sum, vf scale, vf bias) { (void)scale, (void)bias; return sum; }
FNN_INLINE vi from_u8_f32(const uint8_t *x, int64_t n)
{
    return vi_bits(n >= FNN_VEC_WIDTH ? v_load_u8(x) : v_load_u8_first(x, (int)n));
}
FNN_INLINE vi from_f32_f32(const float *x, int64_t n, const fnn_encode *e, int row)
{
    (void)e, (void)row;
    return vi_bits(n >= FNN_VEC_WIDTH ? v_load(x) : v_load_first(x, (int)n));
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

typedef vf sum_bf16;

/* To nearest, ties to even; a NaN stays one. */
FNN_INLINE uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

#ifdef FNN_BF16
typedef vi x_bf16, w_bf16;
enum { REGISTERS_bf16 = 1, SPARE_bf16 = 0 };
FNN_INLINE x_bf16 spread_bf16(const char *x)
{
    int32_t two;
    memcpy(&two, x, 4);
    return vi_set1(two);
}
FNN_INLINE w_bf16 load_bf16(const char *w) { return vi_load(w); }
FNN_INLINE sum_bf16 step_bf16(sum_bf16 sum, x_bf16 x, w_bf16 w) { return v_dot_bf16(sum, x, w); }
#else
typedef struct { vf even, odd; } x_bf16, w_bf16;
enum { REGISTERS_bf16 = 2, SPARE_bf16 = 1 };
FNN_INLINE x_bf16 widen_bf16(vi two)
{
    return (x_bf16){vi_as_float(vi_shift_left_16(two)),
                    vi_as_float(vi_and(two, vi_set1((int32_t)0xffff0000)))};
}
FNN_INLINE x_bf16 spread_bf16(const char *x)
{
    int32_t two;
    memcpy(&two, x, 4);
    return widen_bf16(vi_set1(two));
}
FNN_INLINE w_bf16 load_bf16(const char *w)
{
    const x_bf16 wide = widen_bf16(vi_load(w));
    return (w_bf16){wide.even, wide.odd};
}
FNN_INLINE sum_bf16 step_bf16(sum_bf16 sum, x_bf16 x, w_bf16 w)
{
    return v_fma(x.odd, w.odd, v_fma(x.even, w.even, sum));
}
#endif
#define STEP_2_bf16 STEP_2_f32
FNN_INLINE void hide_bf16(w_bf16 *w) { (void)w; }
FNN_INLINE sum_bf16 start_bf16(const float *bias) { return v_load(bias); }
FNN_INLINE sum_bf16 resume_bf16(const char *y) { return v_load((const float *)y); }
FNN_INLINE void suspend_bf16(char *y, sum_bf16 sum) { v_store((float *)y, sum); }
FNN_INLINE vf z_bf16(sum_bf16 sum, vf scale, vf bias) { (void)scale, (void)bias; return sum; }
FNN_INLINE vi from_f32_bf16(const float *x, int64_t n, const fnn_encode *e, int row)
{
    uint16_t two[2 * FNN_VEC_WIDTH] = {0};
    (void)e, (void)row;
    for (int j = 0; j < (n < 2 * FNN_VEC_WIDTH ? n : 2 * FNN_VEC_WIDTH); j++) two[j] = to_bf16(x[j]);
    return vi_load(two);
}
FNN_INLINE vi from_u8_bf16(const uint8_t *x, int64_t n)
{
    float floats[2 * FNN_VEC_WIDTH] = {0};
    for (int j = 0; j < (n < 2 * FNN_VEC_WIDTH ? n : 2 * FNN_VEC_WIDTH); j++) floats[j] = x[j];
    return from_f32_bf16(floats, 2 * FNN_VEC_WIDTH, NULL, 0);
}

/* ---- i8 -------------------------------------------------------------------------------------- */

typedef vi sum_i8;
typedef v8_x x_i8;
typedef v8_w w_i8;

FNN_INLINE x_i8 spread_i8(const char *x) { return v8_spread(x); }
FNN_INLINE w_i8 load_i8(const char *w) { return v8_load(w); }
FNN_INLINE sum_i8 step_i8(sum_i8 sum, x_i8 x, w_i8 w) { return v8_dot(sum, x, w); }
#ifdef V8_DOT_2
enum { IN_PAIRS_i8 = 1 };
#define STEP_2_i8 V8_DOT_2
#else
enum { IN_PAIRS_i8 = 0 };
#define STEP_2_i8 STEP_2_f32
#endif
FNN_INLINE void hide_i8(w_i8 *w) { v8_hide(w); }
FNN_INLINE sum_i8 start_i8(const float *bias) { (void)bias; return vi_set1(0); }
FNN_INLINE sum_i8 resume_i8(const char *y) { return vi_load(y); }
FNN_INLINE void suspend_i8(char *y, sum_i8 sum) { vi_store(y, sum); }
FNN_INLINE vf z_i8(sum_i8 sum, vf scale, vf bias) { return v_fma(vi_to_float(sum), scale, bias); }
FNN_INLINE vi from_u8_i8(const uint8_t *x, int64_t n)
{
    uint8_t first[KR_i8 * FNN_VEC_WIDTH] = {0};
    if (n >= KR_i8 * FNN_VEC_WIDTH) return v8_widen(x);
    memcpy(first, x, (size_t)n);
    return v8_widen(first);
}
FNN_INLINE vi from_f32_i8(const float *x, int64_t n, const fnn_encode *e, int row)
{
    enum { N = KR_i8 * FNN_VEC_WIDTH };
    uint8_t bytes[N] = {0};
    const vf inverse = v_set1(e->inverse), zero = v_set1(e->zero);
    for (int at = 0; at < N && at < n; at += FNN_VEC_WIDTH) {
        const vf a = n - at >= FNN_VEC_WIDTH ? v_load(x + at) : v_load_first(x + at, (int)(n - at));
        if (v_is_nan(a)) *e->is_nan |= 1u << row;
        v_store_u8(bytes + at, v_fma(a, inverse, zero));
    }
    if (n < N) memset(bytes + n, 0, (size_t)(N - n)); /* not `zero` */
    return v8_widen(bytes);
}

#endif
