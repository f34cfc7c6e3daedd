/* The vector vocabulary on NEON (aarch64): 4 lanes. See vec_scalar.h for the contract. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define FNN_VEC_WIDTH 4
#define FNN_VEC_CONSTRAINT "w" /* of inline assembly */
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm;

static inline vf v_set1(float a) { return vdupq_n_f32(a); }
static inline vf v_load(const float *p) { return vld1q_f32(p); }
static inline void v_store(float *p, vf a) { vst1q_f32(p, a); }
static inline vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf v_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf v_div(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vm v_lt(vf a, vf b) { return vcltq_f32(a, b); }
static inline vm v_le(vf a, vf b) { return vcleq_f32(a, b); }
static inline vm v_gt(vf a, vf b) { return vcgtq_f32(a, b); }
static inline vm v_ge(vf a, vf b) { return vcgeq_f32(a, b); }
static inline vm v_mask(unsigned bits)
{
    const uint32x4_t bit = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(bits), bit);
}
static inline float v_largest(vf a) { return vmaxvq_f32(a); } /* without a NaN */
static inline vf v_select(vm m, vf a, vf b) { return vbslq_f32(m, a, b); }

static inline vf v_shift_left_23(vf a)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), 23));
}

/* Bit i: lane i has a bit. */
static inline unsigned v_bits(uint32x4_t a)
{
    const uint32x4_t bit = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(bit, vtstq_u32(a, a)));
}
static inline unsigned v_is_nan(vf a) { return v_bits(vmvnq_u32(vceqq_f32(a, a))); }

static inline vf v_load_u8(const uint8_t *p)
{
    uint8_t all[8] = {0};
    memcpy(all, p, 4);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(all)))));
}

/* The first n < 4 elements, zeros behind; nothing past them is read. */
static inline vf v_load_first(const float *p, int n)
{
    float all[4] = {0};
    memcpy(all, p, (size_t)n * 4);
    return v_load(all);
}

static inline vf v_load_u8_first(const uint8_t *p, int n)
{
    uint8_t all[4] = {0};
    memcpy(all, p, (size_t)n);
    return v_load_u8(all);
}

static inline void v_store_u8(uint8_t *p, vf a)
{
    a = vminq_f32(vmaxq_f32(a, vdupq_n_f32(0.0f)), vdupq_n_f32(255.0f));
    const uint16x4_t half = vmovn_u32(vcvtnq_u32_f32(a));
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(half, half));
    memcpy(p, &bytes, 4);
}

static inline vi vi_set1(int32_t a) { return vdupq_n_s32(a); }
static inline vi vi_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
static inline vi vi_load_first(const void *p, int n)
{
    uint8_t all[16] = {0};
    memcpy(all, p, (size_t)n);
    return vi_load(all);
}
static inline void vi_store(void *p, vi a) { vst1q_u8(p, vreinterpretq_u8_s32(a)); }
static inline vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
static inline vi vi_or(vi a, vi b) { return vorrq_s32(a, b); }
static inline unsigned vi_tests(vi a, vi b) { return v_bits(vreinterpretq_u32_s32(vandq_s32(a, b))); }
static inline vf vi_to_float(vi a) { return vcvtq_f32_s32(a); }
static inline vi vi_bits(vf a) { return vreinterpretq_s32_f32(a); }
static inline vf vi_as_float(vi a) { return vreinterpretq_f32_s32(a); }
static inline vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
static inline vi vi_shift_left_16(vi a) { return vshlq_n_s32(a, 16); }

/* Base NEON, without its dot products: 16 bits, products of 32, sums of neighbours. */
typedef int16x8_t v8_x; /* four inputs twice */
typedef struct { int16x8_t low, high; } v8_w; /* two columns each */
enum { V8_KR = 4, V8_REGISTERS = 2, V8_SPARE = 1 };
static inline v8_x v8_spread(const void *p)
{
    uint32_t four;
    memcpy(&four, p, 4);
    return vreinterpretq_s16_u16(vmovl_u8(vcreate_u8((uint64_t)four << 32 | four)));
}
static inline v8_w v8_load(const void *p)
{
    const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(p));
    return (v8_w){vmovl_s8(vget_low_s8(w)), vmovl_s8(vget_high_s8(w))};
}
static inline void v8_hide(v8_w *w) { __asm__("" : "+w"(w->low), "+w"(w->high)); }
static inline vi v8_dot(vi sum, v8_x x, v8_w w)
{
    const int16x4_t four = vget_low_s16(x);
    const vi low = vpaddq_s32(vmull_s16(four, vget_low_s16(w.low)),
                              vmull_s16(four, vget_high_s16(w.low)));
    const vi high = vpaddq_s32(vmull_s16(four, vget_low_s16(w.high)),
                               vmull_s16(four, vget_high_s16(w.high)));
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

static inline vi v8_widen(const uint8_t *x) { return vi_load(x); }
static inline void v8_store(void *y, vf a) { v_store_u8(y, a); }

/* list[j] = k + (index of the j-th set bit); writes 4 elements, returns the number of bits. */
#include "compact4.h"
static inline int v_compact(uint32_t *list, uint32_t k, unsigned bits)
{
    vst1q_u32(list, vaddq_u32(vdupq_n_u32(k), vld1q_u32(fnn_lanes[bits])));
    return fnn_n_lanes[bits];
}
