/* The vector vocabulary on AVX2 + FMA: 8 lanes. See vec_scalar.h for the contract. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define FNN_VEC_WIDTH 8
#define FNN_VEC_CONSTRAINT "x" /* of inline assembly */
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm; /* all bits of a lane or none */

static inline vf v_set1(float a) { return _mm256_set1_ps(a); }
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vm v_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vm v_le(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
static inline vm v_gt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static inline vm v_ge(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
static inline unsigned v_bits(vm m) { return (unsigned)_mm256_movemask_ps(m); }
static inline vm v_mask(unsigned bits)
{
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)bits), bit);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit));
}
static inline float v_largest(vf a) /* without a NaN */
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
static inline vf v_select(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }

static inline vf v_shift_left_23(vf a)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}

static inline unsigned v_is_nan(vf a) { return v_bits(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }

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

/* Rounded half to even, held in 0..255. */
static inline __m128i v_to_u16(vf a)
{
    a = _mm256_min_ps(_mm256_max_ps(a, _mm256_setzero_ps()), _mm256_set1_ps(255.0f));
    const __m256i whole = _mm256_cvtps_epi32(a);
    return _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
}
static inline void v_store_u8(uint8_t *p, vf a)
{
    const __m128i half = v_to_u16(a);
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(half, half));
}

static inline vi vi_set1(int32_t a) { return _mm256_set1_epi32(a); }
static inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vi vi_load_first(const void *p, int n)
{
    uint8_t all[32] = {0};
    memcpy(all, p, (size_t)n);
    return vi_load(all);
}
static inline void vi_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, a); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
static inline unsigned vi_tests(vi a, vi b)
{
    const vi zero = _mm256_cmpeq_epi32(_mm256_and_si256(a, b), _mm256_setzero_si256());
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(zero)) ^ 0xff;
}
static inline vf vi_to_float(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vi vi_bits(vf a) { return _mm256_castps_si256(a); }
static inline vf vi_as_float(vi a) { return _mm256_castsi256_ps(a); }
static inline vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
static inline vi vi_shift_left_16(vi a) { return _mm256_slli_epi32(a, 16); }

typedef vi v8_x, v8_w;
static inline v8_x v8_spread(const void *p)
{
    int32_t group;
    memcpy(&group, p, 4);
    return _mm256_set1_epi32(group);
}
#ifdef FNN_VNNI
enum { V8_KR = 4, V8_REGISTERS = 1, V8_SPARE = 0 };
static inline v8_w v8_load(const void *p) { return vi_load(p); }
static inline void v8_hide(v8_w *w) { (void)w; }
static inline vi v8_dot(vi sum, v8_x x, v8_w w)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
    return sum;
}
static inline vi v8_widen(const uint8_t *x) { return vi_load(x); }
static inline void v8_store(void *y, vf a) { v_store_u8(y, a); }
#else
enum { V8_KR = 2, V8_REGISTERS = 1, V8_SPARE = 1 }; /* 16 bits: exact, where vpmaddubsw saturates */
static inline v8_w v8_load(const void *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}
static inline void v8_hide(v8_w *w) { __asm__("" : "+x"(*w)); }
/* In assembly: gcc 12 has several products in flight, and no registers for them. */
static inline vi v8_dot(vi sum, v8_x x, v8_w w)
{
    vi products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
            : "+x"(sum), "=&x"(products) : "x"(x), "x"(w));
    return sum;
}
/* Two columns' sums: products first, as Zen 3 multiplies on two of the four ports it adds on, and in turns
 * the sums get into the products' way (10 % more time). */
#define V8_DOT_2(sum0, sum1, x, w0, w1)                                                       \
    do {                                                                                      \
        vi products, more = (x);                                                              \
        __asm__("vpmaddwd %4, %3, %2\n\tvpmaddwd %5, %3, %3\n\t"                              \
                "vpaddd %2, %0, %0\n\tvpaddd %3, %1, %1"                                      \
                : "+x"(sum0), "+x"(sum1), "=&x"(products), "+x"(more)                         \
                : "x"(w0), "x"(w1));                                                          \
    } while (0)
static inline vi v8_widen(const uint8_t *x)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)x));
}
static inline void v8_store(void *y, vf a) { _mm_storeu_si128(y, v_to_u16(a)); }
#endif

/* list[j] = k + (index of the j-th set bit); writes 8 elements, returns the number of bits. */
#include "compact8.h"
static inline int v_compact(uint32_t *list, uint32_t k, unsigned bits)
{
    const __m128i lanes = _mm_loadl_epi64((const __m128i *)&fnn_lanes[bits]);
    const vi at = _mm256_add_epi32(_mm256_set1_epi32((int)k), _mm256_cvtepu8_epi32(lanes));
    _mm256_storeu_si256((vi *)list, at);
    return __builtin_popcount(bits);
}
