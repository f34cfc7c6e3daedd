/* float32 kernels on AVX-512: the template of microkernel.h over vec_avx512.h.
 *
 * Invariant: empty unless HAVE_AVX512 is set; then this file alone is compiled for the ISA, and exports
 * one constant row. Tiles of 12 x 32: 24 accumulators, 2 weight vectors, 1 input, of 32 registers.
 */
#ifdef HAVE_AVX512
#include "vec_avx512.h"

#define FNN_ISA avx512
#define FNN_ROW_NEEDS FNN_NEEDS_AVX512
#define FNN_MR 12
#define FNN_REGISTERS 32
#define FNN_RATE 90
#include "microkernel.h"
#else
typedef int fnn_empty_avx512; /* ISO C wants one declaration */
#endif
