/* Kernels on AVX-VNNI: the template of microkernel.h over vec_avx2.h.
 *
 * Invariant: empty unless HAVE_AVXVNNI is set; then this file alone is compiled for the ISA, and exports
 * one constant row a format. A tile's sums, a panel's weights and an input fit the registers.
 */
#ifdef HAVE_AVXVNNI
#include "kernel.h"
#define FNN_VNNI
#include "vec_avx2.h"

#define FNN_ISA avxvnni
#define FNN_FORMAT i8
#define FNN_ROW_NEEDS FNN_NEEDS_AVX2 | FNN_CPU(AVX_VNNI)
#define FNN_MR 6 /* 6 x 16: 12 sums, 2 weights, 1 input */
#define FNN_NV 2
#define FNN_REGISTERS 16
#define FNN_RATE 100
#include "microkernel.h"
#else
typedef int fnn_empty_avxvnni; /* ISO C wants one declaration */
#endif
