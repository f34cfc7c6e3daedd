/* The vector vocabulary on AVX2 + FMA: 8 lanes. See vec_scalar.h for the contract. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define FNN_VEC_WIDTH 8
typedef __m256 vf;
typedef __m256 vm; /* all bits of a lane or none */

static inline vf v_set1(float a) { return _mm256_set1_ps(a); }
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf v_or(vf a, vf b) { return _mm256_or_ps(a, b); }
static inline vm v_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vm v_le(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
static inline vm v_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static inline vf v_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }

static inline vf v_shift_left_23(vf a)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}

/* Bit i: lane i is neither +0 nor -0 (a NaN is not). */
static inline unsigned v_nonzero(vf a)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}

static inline vf v_load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* The first n < 8 elements, zeros behind; nothing past them is read. */
static inline vf v_load_first(const float *p, int n)
{
    float all[8] = {0};
    memcpy(all, p, (size_t)n * 4);
    return v_load(all);
}

static inline vf v_load_u8_first(const uint8_t *p, int n)
{
    uint8_t all[8] = {0};
    memcpy(all, p, (size_t)n);
    return v_load_u8(all);
}

/* list[j] = k + (index of the j-th set bit); writes 8 elements, returns the number of bits. */
#include "compact4.h"
static inline int v_compact(uint32_t *list, uint32_t k, unsigned bits)
{
    const __m128i base = _mm_set1_epi32((int)k);
    const __m128i low = _mm_loadu_si128((const __m128i *)fnn_lanes[bits & 15]);
    const __m128i high = _mm_loadu_si128((const __m128i *)fnn_lanes[bits >> 4]);
    const int n_low = fnn_n_lanes[bits & 15];
    _mm_storeu_si128((__m128i *)list, _mm_add_epi32(base, low));
    _mm_storeu_si128((__m128i *)(list + n_low),
                     _mm_add_epi32(_mm_add_epi32(base, _mm_set1_epi32(4)), high));
    return n_low + fnn_n_lanes[bits >> 4];
}
