/* Kernels on AVX-512 VNNI: the template of microkernel.h over vec_avx512.h.
 *
 * Invariant: empty unless HAVE_AVX512VNNI is set; then this file alone is compiled for the ISA, and exports
 * one constant row a format. A tile's sums, a panel's weights and an input fit the registers.
 */
#ifdef HAVE_AVX512VNNI
#include "kernel.h"
#define FNN_VNNI
#include "vec_avx512.h"

#define FNN_ISA avx512vnni
#define FNN_FORMAT i8
#define FNN_ROW_NEEDS FNN_NEEDS_AVX512 | FNN_CPU(AVX512_VNNI)
#define FNN_MR 4 /* 4 x 64: 16 sums; 6 rows would fit, and skip 4 % less of MNIST's zeros */
#define FNN_NV 4
#define FNN_REGISTERS 32
#define FNN_RATE 200
#include "microkernel.h"
#else
typedef int fnn_empty_avx512vnni; /* ISO C wants one declaration */
#endif
