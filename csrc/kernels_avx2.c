/* Kernels on AVX2 + FMA: the template of microkernel.h over vec_avx2.h.
 *
 * Invariant: empty unless HAVE_AVX2 is set; then this file alone is compiled for the ISA, and exports
 * one constant row a format. A tile's sums, a panel's weights and an input fit the registers.
 */
#ifdef HAVE_AVX2
#include "kernel.h"
#include "vec_avx2.h"
#include "activations.h"
#include "argmax.h"
#include "certify_loops.h"

static const fnn_certify_loops certify_loops = FNN_CERTIFY_LOOPS;

#define FNN_ISA avx2
#define FNN_FORMAT f32
#define FNN_ROW_NEEDS FNN_NEEDS_AVX2
#define FNN_MR 6 /* 6 x 16: 12 sums, 2 weights, 1 input */
#define FNN_NV 2
#define FNN_REGISTERS 16
#define FNN_RATE 45
#include "microkernel.h"

#define FNN_ISA avx2
#define FNN_FORMAT bf16
#define FNN_ROW_NEEDS FNN_NEEDS_AVX2
#define FNN_MR 4 /* 4 x 16: 8 sums, 2 weights and 1 input in two halves */
#define FNN_NV 2
#define FNN_REGISTERS 16
#define FNN_RATE 30
#include "microkernel.h"

#define FNN_ISA avx2
#define FNN_FORMAT i8
#define FNN_ROW_NEEDS FNN_NEEDS_AVX2
#define FNN_MR 6 /* as f32 */
#define FNN_NV 2
#define FNN_REGISTERS 16
#define FNN_RATE 90
#include "microkernel.h"
#else
typedef int fnn_empty_avx2; /* ISO C wants one declaration */
#endif
