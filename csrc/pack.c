/* Weights of any strides to panels (drawn in kernel.h).
 *
 * Invariant: every float of the target is written, padding with zeros; a value that is NaN or
 * infinite is reported, because 0 * infinity is NaN while a skipped zero is nothing.
 */
#include <math.h>

#include "kernel.h"

int64_t fnn_panels(int64_t n, int nr) { return (n + nr - 1) / nr; }

int fnn_pack_f32(const fnn_dense *layer, int nr, float *to, float *to_bias)
{
    const int64_t n = layer->n_outputs, n_panels = fnn_panels(n, nr);
    int is_finite = 1;
    for (int64_t panel = 0; panel < n_panels; panel++) {
        for (int64_t k = 0; k < layer->n_inputs; k++) {
            for (int64_t j = panel * nr; j < (panel + 1) * nr; j++) {
                float w = 0;
                if (j < n) w = layer->weight[k * layer->stride_input + j * layer->stride_output];
                is_finite &= isfinite(w) != 0;
                *to++ = w;
            }
        }
    }
    for (int64_t j = 0; j < n_panels * nr; j++) {
        to_bias[j] = j < n ? layer->bias[j] : 0;
        is_finite &= isfinite(to_bias[j]) != 0;
    }
    return is_finite;
}
