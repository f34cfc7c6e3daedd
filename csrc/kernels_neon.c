/* float32 kernels on NEON: the template of microkernel.h over vec_neon.h.
 *
 * Invariant: empty unless HAVE_NEON is set; then this file alone is compiled for the ISA, and exports
 * one constant row. Tiles of 12 x 8: 24 accumulators, 2 weight vectors, 1 input, of 32 registers.
 */
#ifdef HAVE_NEON
#include "vec_neon.h"

#define FNN_ISA neon
#define FNN_ROW_NEEDS FNN_CPU(ASIMD)
#define FNN_MR 12
#define FNN_REGISTERS 32
#define FNN_RATE 12
#include "microkernel.h"
#else
typedef int fnn_empty_neon; /* ISO C wants one declaration */
#endif
