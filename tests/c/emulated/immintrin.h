/* AVX-512 and AMX for CPUs that lack them: in place of the compiler's <immintrin.h>, in plain C.
 *
 * What lives here: the 512-bit and tile intrinsics that csrc/vec_avx512.h, csrc/kernels_avx512.c and
 * csrc/kernels_amx.c use, no others. Invariant: written from Intel's definitions (Intel 64 and IA-32
 * Architectures Software Developer's Manual, volume 2), element by element, and not from what the kernels
 * make of them; memory that an instruction does not touch is not touched. A tile that does not fit its
 * shape, or is used without one, aborts, as the CPU would. Only `tools/harness.py emulated` compiles this.
 */
#ifndef FNN_EMULATED_IMMINTRIN_H
#define FNN_EMULATED_IMMINTRIN_H

#include_next <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define E_INLINE static inline __attribute__((always_inline, unused))

typedef union {
    __m512 f;
    __m512i i;
    float f32[16];
    int64_t i64[8];
    int32_t i32[16];
    uint32_t u32[16];
    int16_t i16[32];
    uint16_t u16[32];
    int8_t i8[64];
    uint8_t u8[64];
} emulated;

E_INLINE emulated e_floats(__m512 a) { return (emulated){.f = a}; }
E_INLINE emulated e_ints(__m512i a) { return (emulated){.i = a}; }
#define E_FLOATS(expression)                                                                    \
    emulated r;                                                                               \
    for (int e = 0; e < 16; e++) r.f32[e] = (expression);                                     \
    return r.f
#define E_INTS(member, n, expression)                                                           \
    emulated r;                                                                               \
    for (int e = 0; e < (n); e++) r.member[e] = (expression);                                 \
    return r.i
#define E_BOTH(of) const emulated x = of(a), y = of(b)

/* ---- memory ---------------------------------------------------------------------------------- */

E_INLINE __m512 e_loadu_ps(const void *p) { emulated r; memcpy(&r, p, 64); return r.f; }
E_INLINE __m512i e_loadu_si512(const void *p) { emulated r; memcpy(&r, p, 64); return r.i; }
E_INLINE void e_storeu_ps(void *p, __m512 a) { memcpy(p, &a, 64); }
E_INLINE void e_storeu_si512(void *p, __m512i a) { memcpy(p, &a, 64); }
E_INLINE __m512 e_maskz_loadu_ps(uint16_t mask, const void *p)
{
    const volatile float *const from = p;
    E_FLOATS(mask >> e & 1 ? from[e] : 0);
}
E_INLINE __m512i e_maskz_loadu_epi8(uint64_t mask, const void *p)
{
    const volatile uint8_t *const from = p;
    E_INTS(u8, 64, mask >> e & 1 ? from[e] : 0);
}
E_INLINE __m128i e_128_maskz_loadu_epi8(uint16_t mask, const void *p)
{
    const volatile uint8_t *const from = p;
    union { __m128i i; uint8_t u8[16]; } r;
    for (int e = 0; e < 16; e++) r.u8[e] = mask >> e & 1 ? from[e] : 0;
    return r.i;
}

/* ---- floats ---------------------------------------------------------------------------------- */

E_INLINE __m512 e_set1_ps(float a) { E_FLOATS(a); }
E_INLINE __m512 e_add_ps(__m512 a, __m512 b) { E_BOTH(e_floats); E_FLOATS(x.f32[e] + y.f32[e]); }
E_INLINE __m512 e_sub_ps(__m512 a, __m512 b) { E_BOTH(e_floats); E_FLOATS(x.f32[e] - y.f32[e]); }
E_INLINE __m512 e_mul_ps(__m512 a, __m512 b) { E_BOTH(e_floats); E_FLOATS(x.f32[e] * y.f32[e]); }
E_INLINE __m512 e_div_ps(__m512 a, __m512 b) { E_BOTH(e_floats); E_FLOATS(x.f32[e] / y.f32[e]); }
E_INLINE __m512 e_max_ps(__m512 a, __m512 b) /* the second, if either is NaN or both are zero */
{
    E_BOTH(e_floats);
    E_FLOATS(x.f32[e] > y.f32[e] ? x.f32[e] : y.f32[e]);
}
E_INLINE __m512 e_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
    E_BOTH(e_floats);
    const emulated z = e_floats(c);
    E_FLOATS(__builtin_fmaf(x.f32[e], y.f32[e], z.f32[e]));
}
E_INLINE float e_reduce_max_ps(__m512 a)
{
    const emulated x = e_floats(a);
    float most = x.f32[0];
    for (int e = 1; e < 16; e++) most = x.f32[e] > most ? x.f32[e] : most;
    return most;
}
E_INLINE __m512 e_mask_blend_ps(__mmask16 mask, __m512 a, __m512 b)
{
    E_BOTH(e_floats);
    E_FLOATS(mask >> e & 1 ? y.f32[e] : x.f32[e]);
}
E_INLINE __mmask16 e_cmp_ps_mask(__m512 a, __m512 b, int how)
{
    E_BOTH(e_floats);
    unsigned r = 0;
    for (int e = 0; e < 16; e++) {
        const float p = x.f32[e], q = y.f32[e];
        const int is = how == _CMP_LT_OQ    ? p < q
                       : how == _CMP_LE_OQ  ? p <= q
                       : how == _CMP_GT_OQ  ? p > q
                       : how == _CMP_GE_OQ  ? p >= q
                       : how == _CMP_UNORD_Q ? isnan(p) || isnan(q)
                                             : (abort(), 0);
        r |= (unsigned)is << e;
    }
    return (__mmask16)r;
}

/* ---- integers -------------------------------------------------------------------------------- */

E_INLINE __m512i e_set1_epi32(int32_t a) { E_INTS(i32, 16, a); }
E_INLINE __m512i e_set1_epi16(int16_t a) { E_INTS(i16, 32, a); }
E_INLINE __m512i e_add_epi32(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    E_INTS(u32, 16, x.u32[e] + y.u32[e]);
}
E_INLINE __m512i e_sub_epi32(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    E_INTS(u32, 16, x.u32[e] - y.u32[e]);
}
E_INLINE __m512i e_sub_epi16(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    E_INTS(u16, 32, (uint16_t)(x.u16[e] - y.u16[e]));
}
E_INLINE __m512i e_mullo_epi16(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    E_INTS(u16, 32, (uint16_t)((uint32_t)x.u16[e] * y.u16[e]));
}
E_INLINE __m512i e_add_epi64(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    E_INTS(i64, 8, (int64_t)((uint64_t)x.i64[e] + (uint64_t)y.i64[e]));
}
E_INLINE int64_t e_reduce_add_epi64(__m512i a)
{
    const emulated x = e_ints(a);
    int64_t sum = 0;
    for (int e = 0; e < 8; e++) sum += x.i64[e];
    return sum;
}
E_INLINE __m512i e_min_epu32(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    E_INTS(u32, 16, x.u32[e] < y.u32[e] ? x.u32[e] : y.u32[e]);
}
E_INLINE __m512i e_and_si512(__m512i a, __m512i b) { E_BOTH(e_ints); E_INTS(u32, 16, x.u32[e] & y.u32[e]); }
E_INLINE __m512i e_or_si512(__m512i a, __m512i b) { E_BOTH(e_ints); E_INTS(u32, 16, x.u32[e] | y.u32[e]); }
E_INLINE __m512i e_slli_epi32(__m512i a, unsigned n)
{
    const emulated x = e_ints(a);
    E_INTS(u32, 16, n > 31 ? 0 : x.u32[e] << n);
}
E_INLINE __mmask16 e_test_epi32_mask(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    unsigned r = 0;
    for (int e = 0; e < 16; e++) r |= (unsigned)((x.u32[e] & y.u32[e]) != 0) << e;
    return (__mmask16)r;
}
E_INLINE __m512i e_maskz_compress_epi32(__mmask16 mask, __m512i a)
{
    const emulated x = e_ints(a);
    emulated r = {.i32 = {0}};
    int n = 0;
    for (int e = 0; e < 16; e++)
        if (mask >> e & 1) r.i32[n++] = x.i32[e];
    return r.i;
}
E_INLINE __m512i e_sad_epu8(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    emulated r;
    for (int e = 0; e < 8; e++) {
        r.i64[e] = 0;
        for (int j = 8 * e; j < 8 * e + 8; j++) r.i64[e] += abs(x.u8[j] - y.u8[j]);
    }
    return r.i;
}

/* ---- products -------------------------------------------------------------------------------- */

E_INLINE __m512i e_madd_epi16(__m512i a, __m512i b)
{
    E_BOTH(e_ints);
    E_INTS(u32, 16, (uint32_t)(x.i16[2 * e] * y.i16[2 * e]) + (uint32_t)(x.i16[2 * e + 1] * y.i16[2 * e + 1]));
}
E_INLINE uint32_t e_dot4(uint32_t sum, const uint8_t *x, const int8_t *w)
{
    for (int j = 0; j < 4; j++) sum += (uint32_t)(x[j] * w[j]);
    return sum;
}
E_INLINE __m512i e_dpbusd_epi32(__m512i sum, __m512i a, __m512i b)
{
    E_BOTH(e_ints);
    const emulated s = e_ints(sum);
    E_INTS(u32, 16, e_dot4(s.u32[e], x.u8 + 4 * e, y.i8 + 4 * e));
}
/* VDPBF16PS: subnormals are zero, going in and coming out; each product is added with one rounding, to
 * nearest, first that of the odd elements. */
E_INLINE float e_flushed(float a) { return fabsf(a) < 0x1p-126f ? copysignf(0, a) : a; }
E_INLINE float e_of_bf16(uint16_t a)
{
    const uint32_t bits = (uint32_t)a << 16;
    float r;
    memcpy(&r, &bits, 4);
    return e_flushed(r);
}
E_INLINE __m512 e_dpbf16_ps(__m512 sum, __m512i a, __m512i b)
{
    E_BOTH(e_ints);
    const emulated s = e_floats(sum);
    emulated r;
    for (int e = 0; e < 16; e++) {
        float t = e_flushed(s.f32[e]);
        for (int j = 1; j >= 0; j--)
            t = e_flushed(__builtin_fmaf(e_of_bf16(x.u16[2 * e + j]), e_of_bf16(y.u16[2 * e + j]), t));
        r.f32[e] = t;
    }
    return r.f;
}

/* ---- conversions ----------------------------------------------------------------------------- */

/* To nearest, ties to even; what does not fit becomes 0x80000000. */
E_INLINE int32_t e_whole(float a)
{
    const float whole = rintf(a);
    return whole >= -0x1p31f && whole < 0x1p31f ? (int32_t)whole : INT32_MIN;
}
E_INLINE __m512i e_cvtps_epi32(__m512 a) { const emulated x = e_floats(a); E_INTS(i32, 16, e_whole(x.f32[e])); }
E_INLINE __m512 e_cvtepi32_ps(__m512i a) { const emulated x = e_ints(a); E_FLOATS((float)x.i32[e]); }
E_INLINE __m512i e_cvtepu8_epi32(__m128i a)
{
    union { __m128i i; uint8_t u8[16]; } x = {.i = a};
    E_INTS(i32, 16, x.u8[e]);
}
E_INLINE __m512i e_cvtepu8_epi16(__m256i a)
{
    union { __m256i i; uint8_t u8[32]; } x = {.i = a};
    E_INTS(i16, 32, x.u8[e]);
}
E_INLINE __m512i e_cvtepi8_epi16(__m256i a)
{
    union { __m256i i; int8_t i8[32]; } x = {.i = a};
    E_INTS(i16, 32, x.i8[e]);
}
E_INLINE __m512i e_cvtepi32_epi64(__m256i a)
{
    union { __m256i i; int32_t i32[8]; } x = {.i = a};
    E_INTS(i64, 8, x.i32[e]);
}
E_INLINE __m256i e_cvtepi32_epi16(__m512i a) /* cut off */
{
    const emulated x = e_ints(a);
    union { __m256i i; uint16_t u16[16]; } r;
    for (int e = 0; e < 16; e++) r.u16[e] = (uint16_t)x.u32[e];
    return r.i;
}
E_INLINE __m128i e_cvtusepi32_epi8(__m512i a) /* held */
{
    const emulated x = e_ints(a);
    union { __m128i i; uint8_t u8[16]; } r;
    for (int e = 0; e < 16; e++) r.u8[e] = x.u32[e] > 255 ? 255 : (uint8_t)x.u32[e];
    return r.i;
}
E_INLINE __m512i e_castps_si512(__m512 a) { return e_floats(a).i; }
E_INLINE __m512 e_castsi512_ps(__m512i a) { return e_ints(a).f; }
E_INLINE __m256i e_extracti64x4(__m512i a, int half)
{
    const emulated x = e_ints(a);
    __m256i r;
    memcpy(&r, x.u8 + 32 * half, 32);
    return r;
}
E_INLINE __m512i e_setr_epi32(const int32_t *a) { E_INTS(i32, 16, a[e]); }

#define _mm512_loadu_ps e_loadu_ps
#define _mm512_loadu_si512 e_loadu_si512
#define _mm512_storeu_ps e_storeu_ps
#define _mm512_storeu_si512 e_storeu_si512
#define _mm512_maskz_loadu_ps e_maskz_loadu_ps
#define _mm512_maskz_loadu_epi8 e_maskz_loadu_epi8
#define _mm_maskz_loadu_epi8 e_128_maskz_loadu_epi8
#define _mm512_set1_ps e_set1_ps
#define _mm512_setzero_ps() e_set1_ps(0)
#define _mm512_add_ps e_add_ps
#define _mm512_sub_ps e_sub_ps
#define _mm512_mul_ps e_mul_ps
#define _mm512_div_ps e_div_ps
#define _mm512_max_ps e_max_ps
#define _mm512_fmadd_ps e_fmadd_ps
#define _mm512_reduce_max_ps e_reduce_max_ps
#define _mm512_mask_blend_ps e_mask_blend_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask e_cmp_ps_mask
#define _mm512_set1_epi32 e_set1_epi32
#define _mm512_set1_epi16 e_set1_epi16
#define _mm512_setzero_si512() e_set1_epi32(0)
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) e_setr_epi32((const int32_t[16]){__VA_ARGS__})
#define _mm512_add_epi32 e_add_epi32
#define _mm512_sub_epi32 e_sub_epi32
#define _mm512_sub_epi16 e_sub_epi16
#define _mm512_mullo_epi16 e_mullo_epi16
#define _mm512_add_epi64 e_add_epi64
#define _mm512_reduce_add_epi64 e_reduce_add_epi64
#define _mm512_min_epu32 e_min_epu32
#define _mm512_and_si512 e_and_si512
#define _mm512_or_si512 e_or_si512
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 e_slli_epi32
#define _mm512_test_epi32_mask e_test_epi32_mask
#define _mm512_maskz_compress_epi32 e_maskz_compress_epi32
#define _mm512_sad_epu8 e_sad_epu8
#define _mm512_madd_epi16 e_madd_epi16
#define _mm512_dpbusd_epi32 e_dpbusd_epi32
#define _mm512_cvtps_epi32 e_cvtps_epi32
#define _mm512_cvtepi32_ps e_cvtepi32_ps
#define _mm512_cvtepu8_epi32 e_cvtepu8_epi32
#define _mm512_cvtepu8_epi16 e_cvtepu8_epi16
#define _mm512_cvtepi8_epi16 e_cvtepi8_epi16
#define _mm512_cvtepi32_epi64 e_cvtepi32_epi64
#define _mm512_cvtepi32_epi16 e_cvtepi32_epi16
#define _mm512_cvtusepi32_epi8 e_cvtusepi32_epi8
#define _mm512_castps_si512 e_castps_si512
#define _mm512_castsi512_ps e_castsi512_ps
#define _mm512_castsi512_si256(a) e_extracti64x4(a, 0)
#undef _mm512_extracti64x4_epi64
#define _mm512_extracti64x4_epi64 e_extracti64x4

/* ---- tiles ----------------------------------------------------------------------------------- */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} e_shapes;

static __thread struct {
    e_shapes shapes;
    uint8_t bytes[8][16][64];
} e_tiles __attribute__((unused));

static void __attribute__((unused)) e_tile_needs(int is_so, const char *what)
{
    if (is_so) return;
    fprintf(stderr, "emulated tiles: %s\n", what);
    abort();
}

static void __attribute__((unused)) e_tile_loadconfig(const void *from)
{
    memset(&e_tiles, 0, sizeof e_tiles);
    memcpy(&e_tiles.shapes, from, sizeof e_tiles.shapes);
    const e_shapes *const s = &e_tiles.shapes;
    e_tile_needs(s->palette == 1 && s->start_row == 0, "palette 1, row 0");
    for (int i = 0; i < 14; i++) e_tile_needs(s->reserved[i] == 0, "reserved bytes are 0");
    for (int i = 0; i < 16; i++) {
        e_tile_needs(s->rows[i] <= 16 && s->row_bytes[i] <= 64, "at most 16 rows of 64 bytes");
        e_tile_needs((s->rows[i] == 0) == (s->row_bytes[i] == 0), "rows and bytes, or neither");
        e_tile_needs(i < 8 || s->rows[i] == 0, "8 tiles");
    }
}

static void __attribute__((unused)) e_tile_release(void) { memset(&e_tiles, 0, sizeof e_tiles); }

static void __attribute__((unused)) e_tile_move(int tile, char *memory, int64_t stride, int is_store)
{
    const e_shapes *const s = &e_tiles.shapes;
    e_tile_needs(s->palette == 1 && s->rows[tile] > 0, "a shape before it is used");
    if (!is_store) memset(e_tiles.bytes[tile], 0, sizeof e_tiles.bytes[tile]);
    for (int i = 0; i < s->rows[tile]; i++) {
        if (is_store) memcpy(memory + i * stride, e_tiles.bytes[tile][i], s->row_bytes[tile]);
        else memcpy(e_tiles.bytes[tile][i], memory + i * stride, s->row_bytes[tile]);
    }
}

static void __attribute__((unused)) e_tile_zero(int tile)
{
    e_tile_needs(e_tiles.shapes.rows[tile] > 0, "a shape before it is used");
    memset(e_tiles.bytes[tile], 0, sizeof e_tiles.bytes[tile]);
}

static void __attribute__((unused)) e_tile_dpbusd(int c, int a, int b)
{
    const e_shapes *const s = &e_tiles.shapes;
    e_tile_needs(c != a && c != b && a != b, "three tiles");
    e_tile_needs(s->rows[c] > 0 && s->rows[c] == s->rows[a] && s->row_bytes[c] == s->row_bytes[b] &&
                     s->row_bytes[a] == 4 * s->rows[b],
                 "shapes that can be multiplied");
    for (int i = 0; i < s->rows[c]; i++) {
        for (int j = 0; j < s->row_bytes[c] / 4; j++) {
            uint32_t sum;
            memcpy(&sum, &e_tiles.bytes[c][i][4 * j], 4);
            for (int k = 0; k < s->rows[b]; k++)
                sum = e_dot4(sum, &e_tiles.bytes[a][i][4 * k], (const int8_t *)&e_tiles.bytes[b][k][4 * j]);
            memcpy(&e_tiles.bytes[c][i][4 * j], &sum, 4);
        }
    }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd
#define _tile_loadconfig e_tile_loadconfig
#define _tile_release e_tile_release
#define _tile_loadd(tile, from, stride) e_tile_move(tile, (char *)(uintptr_t)(from), stride, 0)
#define _tile_stored(tile, to, stride) e_tile_move(tile, (char *)(to), stride, 1)
#define _tile_zero e_tile_zero
#define _tile_dpbusd e_tile_dpbusd

#endif
