/* Kernels on AVX-512: the template of microkernel.h over vec_avx512.h.
 *
 * Invariant: empty unless HAVE_AVX512 is set; then this file alone is compiled for the ISA, and exports
 * one constant row a format. A tile's sums, a panel's weights and an input fit the registers.
 */
#ifdef HAVE_AVX512
#include "kernel.h"
#include "vec_avx512.h"
#include "activations.h"
#include "argmax.h"
#include "certify_loops.h"

static const fnn_certify_loops certify_loops = FNN_CERTIFY_LOOPS;

#define FNN_ISA avx512
#define FNN_FORMAT f32
#define FNN_ROW_NEEDS FNN_NEEDS_AVX512
#define FNN_MR 12 /* 12 x 32: 24 sums, 2 weights, 1 input */
#define FNN_NV 2
#define FNN_REGISTERS 32
#define FNN_RATE 90
#include "microkernel.h"

#define FNN_ISA avx512
#define FNN_FORMAT bf16
#define FNN_ROW_NEEDS FNN_NEEDS_AVX512
#define FNN_MR 8 /* 8 x 32: 16 sums, 2 weights and 1 input in two halves */
#define FNN_NV 2
#define FNN_REGISTERS 32
#define FNN_RATE 60
#include "microkernel.h"

#define FNN_ISA avx512
#define FNN_FORMAT i8
#define FNN_ROW_NEEDS FNN_NEEDS_AVX512
#define FNN_MR 12 /* as f32 */
#define FNN_NV 2
#define FNN_REGISTERS 32
#define FNN_RATE 160
#include "microkernel.h"
#else
typedef int fnn_empty_avx512; /* ISO C wants one declaration */
#endif
