/* Kernels on AVX-512 BF16: the template of microkernel.h over vec_avx512.h.
 *
 * Invariant: empty unless HAVE_AVX512BF16 is set; then this file alone is compiled for the ISA, and exports
 * one constant row a format. A tile's sums, a panel's weights and an input fit the registers.
 */
#ifdef HAVE_AVX512BF16
#include "kernel.h"
#define FNN_BF16
#include "vec_avx512.h"

#define FNN_ISA avx512bf16
#define FNN_FORMAT bf16
#define FNN_ROW_NEEDS FNN_NEEDS_AVX512 | FNN_CPU(AVX512_VNNI) | FNN_CPU(AVX512_BF16)
#define FNN_MR 12 /* 12 x 32: 24 sums, 2 weights, 1 input */
#define FNN_NV 2
#define FNN_REGISTERS 32
#define FNN_RATE 160
#include "microkernel.h"
#else
typedef int fnn_empty_avx512bf16; /* ISO C wants one declaration */
#endif
