/* The vector vocabulary on NEON (aarch64): 4 lanes. See vec_scalar.h for the contract. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define FNN_VEC_WIDTH 4
typedef float32x4_t vf;
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
static inline vf v_select(vm m, vf a, vf b) { return vbslq_f32(m, a, b); }

static inline vf v_or(vf a, vf b)
{
    return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
}

static inline vf v_shift_left_23(vf a)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), 23));
}

/* Bit i: lane i is neither +0 nor -0 (a NaN is not). */
static inline unsigned v_nonzero(vf a)
{
    const uint32x4_t bit = {1, 2, 4, 8};
    uint32x4_t zero = vceqq_f32(a, vdupq_n_f32(0.0f));
    return vaddvq_u32(vbicq_u32(bit, zero));
}

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

/* list[j] = k + (index of the j-th set bit); writes 4 elements, returns the number of bits. */
#include "compact4.h"
static inline int v_compact(uint32_t *list, uint32_t k, unsigned bits)
{
    vst1q_u32(list, vaddq_u32(vdupq_n_u32(k), vld1q_u32(fnn_lanes[bits])));
    return fnn_n_lanes[bits];
}
