/* Kernels on NEON: the template of microkernel.h over vec_neon.h.
 *
 * Invariant: empty unless HAVE_NEON is set; then this file alone is compiled for the ISA, and exports
 * one constant row a format. A tile's sums, a panel's weights and an input fit the registers.
 */
#ifdef HAVE_NEON
#include "kernel.h"
#include "vec_neon.h"
#include "activations.h"
#include "argmax.h"

#define certify_loops fnn_certify_plain

#define FNN_ISA neon
#define FNN_FORMAT f32
#define FNN_ROW_NEEDS FNN_CPU(ASIMD)
#define FNN_MR 12 /* 12 x 8: 24 sums, 2 weights, 1 input */
#define FNN_NV 2
#define FNN_REGISTERS 32
#define FNN_RATE 12
#include "microkernel.h"

#define FNN_ISA neon
#define FNN_FORMAT bf16
#define FNN_ROW_NEEDS FNN_CPU(ASIMD)
#define FNN_MR 8 /* 8 x 8: 16 sums, 2 weights and 1 input in two halves */
#define FNN_NV 2
#define FNN_REGISTERS 32
#define FNN_RATE 8
#include "microkernel.h"

#define FNN_ISA neon
#define FNN_FORMAT i8
#define FNN_ROW_NEEDS FNN_CPU(ASIMD)
#define FNN_MR 4 /* 4 x 16: 16 sums, 4 weights in two halves, 1 input */
#define FNN_NV 4
#define FNN_REGISTERS 32
#define FNN_RATE 12
#include "microkernel.h"
#else
typedef int fnn_empty_neon; /* ISO C wants one declaration */
#endif
