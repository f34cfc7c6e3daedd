/* The vector vocabulary on AVX-512 (F, BW, DQ, VL): 16 lanes. See vec_scalar.h for the contract. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define FNN_VEC_WIDTH 16
#ifdef FNN_EMULATED /* by tests/c/emulated, on a CPU that need not have the ISA */
#define FNN_VEC_CONSTRAINT "m"
#else
#define FNN_VEC_CONSTRAINT "v" /* of inline assembly */
#endif
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

static inline vf v_set1(float a) { return _mm512_set1_ps(a); }
static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vm v_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vm v_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
static inline vm v_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline vm v_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline unsigned v_bits(vm m) { return m; }
static inline vm v_mask(unsigned bits) { return (vm)bits; }
static inline float v_largest(vf a) { return _mm512_reduce_max_ps(a); } /* without a NaN */
static inline vf v_select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }

static inline vf v_shift_left_23(vf a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23));
}

static inline unsigned v_is_nan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }

static inline vf v_load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* The first n < 16 elements, zeros behind; nothing past them is read. */
static inline vf v_load_first(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

static inline vf v_load_u8_first(const uint8_t *p, int n)
{
    __m128i bytes = _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}

/* Rounded half to even, at least 0. Beyond 2^31 that gives 0x80000000, which is large without a sign. */
static inline __m512i v_whole(vf a)
{
    return _mm512_cvtps_epi32(_mm512_max_ps(a, _mm512_setzero_ps()));
}
static inline void v_store_u8(uint8_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(v_whole(a)));
}

static inline vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
static inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static inline vi vi_load_first(const void *p, int n)
{
    return _mm512_maskz_loadu_epi8(((uint64_t)1 << n) - 1, p);
}
static inline void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
static inline unsigned vi_tests(vi a, vi b) { return _mm512_test_epi32_mask(a, b); }
static inline vf vi_to_float(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vi vi_bits(vf a) { return _mm512_castps_si512(a); }
static inline vf vi_as_float(vi a) { return _mm512_castsi512_ps(a); }
static inline vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi vi_shift_left_16(vi a) { return _mm512_slli_epi32(a, 16); }

#ifdef FNN_BF16
static inline vf v_dot_bf16(vf sum, vi x, vi w)
{
#ifdef FNN_EMULATED
    return e_dpbf16_ps(sum, x, w);
#else
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
#endif
}
#endif

typedef vi v8_x, v8_w;
static inline v8_x v8_spread(const void *p)
{
    int32_t group;
    memcpy(&group, p, 4);
    return _mm512_set1_epi32(group);
}
#ifdef FNN_VNNI
enum { V8_KR = 4, V8_REGISTERS = 1, V8_SPARE = 0 };
static inline v8_w v8_load(const void *p) { return vi_load(p); }
static inline void v8_hide(v8_w *w) { (void)w; }
/* In assembly: gcc 12 keeps accumulators of _mm512_dpbusd_epi32 in memory now and then. */
static inline vi v8_dot(vi sum, v8_x x, v8_w w)
{
#ifdef FNN_EMULATED
    return _mm512_dpbusd_epi32(sum, x, w);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
#endif
}
static inline vi v8_widen(const uint8_t *x) { return vi_load(x); }
static inline void v8_store(void *y, vf a) { v_store_u8(y, a); }
#else
enum { V8_KR = 2, V8_REGISTERS = 1, V8_SPARE = 1 }; /* 16 bits: exact, where vpmaddubsw saturates */
static inline v8_w v8_load(const void *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
static inline void v8_hide(v8_w *w) { __asm__("" : "+" FNN_VEC_CONSTRAINT(*w)); }
/* In assembly: gcc 12 has several products in flight, and no registers for them. */
static inline vi v8_dot(vi sum, v8_x x, v8_w w)
{
#ifdef FNN_EMULATED
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w));
#else
    vi products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
            : "+v"(sum), "=&v"(products) : "v"(x), "v"(w));
    return sum;
#endif
}
static inline vi v8_widen(const uint8_t *x)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)x));
}
static inline void v8_store(void *y, vf a)
{
    _mm256_storeu_si256(y, _mm512_cvtepi32_epi16(_mm512_min_epu32(v_whole(a), vi_set1(255))));
}
#endif

/* list[j] = k + (index of the j-th set bit); writes 16 elements, returns the number of bits.
 * Compressed in a register: vpcompressd to memory takes some 140 cycles on Zen 4. */
static inline int v_compact(uint32_t *list, uint32_t k, unsigned bits)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i at = _mm512_add_epi32(_mm512_set1_epi32((int)k), lanes);
    _mm512_storeu_si512(list, _mm512_maskz_compress_epi32((__mmask16)bits, at));
    return __builtin_popcount(bits);
}
