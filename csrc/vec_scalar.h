/* The vector vocabulary, one lane wide, in plain C.
 *
 * Invariant: each word rounds as IEEE 754 says, once; so all vec_*.h agree bit for bit.
 * v_select(m, a, b) is a where m, else b; comparisons with NaN are false.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define FNN_VEC_WIDTH 1
typedef float vf;
typedef int vm;

static inline vf v_set1(float a) { return a; }
static inline vf v_load(const float *p) { return *p; }
static inline void v_store(float *p, vf a) { *p = a; }
static inline vf v_add(vf a, vf b) { return a + b; }
static inline vf v_sub(vf a, vf b) { return a - b; }
static inline vf v_mul(vf a, vf b) { return a * b; }
static inline vf v_div(vf a, vf b) { return a / b; }
static inline vf v_fma(vf a, vf b, vf c) { return fmaf(a, b, c); }
static inline vm v_lt(vf a, vf b) { return a < b; }
static inline vm v_le(vf a, vf b) { return a <= b; }
static inline vm v_gt(vf a, vf b) { return a > b; }
static inline vf v_select(vm m, vf a, vf b) { return m ? a : b; }

static inline vf v_shift_left_23(vf a)
{
    uint32_t bits;
    memcpy(&bits, &a, 4);
    bits <<= 23;
    memcpy(&a, &bits, 4);
    return a;
}
