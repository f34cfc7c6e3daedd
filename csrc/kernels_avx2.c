/* float32 kernels on AVX2 + FMA: the template of microkernel.h over vec_avx2.h.
 *
 * Invariant: empty unless HAVE_AVX2 is set; then this file alone is compiled for the ISA, and exports
 * one constant row. Tiles of 6 x 16: 12 accumulators, 2 weight vectors, 1 input, of 16 registers.
 */
#ifdef HAVE_AVX2
#include "vec_avx2.h"

#define FNN_ISA avx2
#define FNN_ROW_NEEDS FNN_NEEDS_AVX2
#define FNN_MR 6
#define FNN_REGISTERS 16
#define FNN_RATE 45
#include "microkernel.h"
#else
typedef int fnn_empty_avx2; /* ISO C wants one declaration */
#endif
