/* Weights of any strides to panels (drawn in kernel.h).
 *
 * Invariant: every byte of the target is written, padding with zeros; a value that is NaN or
 * infinite is reported, because 0 * infinity is NaN while a skipped zero is nothing.
 */
#include <math.h>
#include <string.h>

#include "kernel.h"

int64_t fnn_panels(int64_t n, int nr) { return (n + nr - 1) / nr; }
int64_t fnn_groups(int64_t k, int kr) { return (k + kr - 1) / kr; }

uint16_t fnn_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The weight of input k and output j as kw / kr bytes at `to`. Returns 0 if it is not finite. */
static int put(const fnn_row *row, const fnn_dense *layer, int64_t k, int64_t j, char *to)
{
    if (fnn_is_i8(row)) {
        *to = (char)layer->weight_i8[k * layer->n_outputs + j];
        return 1;
    }
    const float w = layer->weight[k * layer->stride_input + j * layer->stride_output];
    const uint16_t half = fnn_bf16(w);
    if (row->kr == 2) {
        memcpy(to, &half, 2);
        return (half & 0x7f80) != 0x7f80; /* rounding may overflow */
    }
    memcpy(to, &w, 4);
    return isfinite(w) != 0;
}

int fnn_pack(const fnn_row *row, const fnn_dense *layer, void *target)
{
    const int64_t n_panels = fnn_panels(layer->n_outputs, row->nr);
    const int64_t n_groups = fnn_groups(layer->n_inputs, row->kr);
    const int size = row->kw / row->kr;
    int is_finite = 1;
    char *to = target;
    for (int64_t panel = 0; panel < n_panels; panel++) {
        for (int64_t group = 0; group < n_groups; group++) {
            for (int64_t j = panel * row->nr; j < (panel + 1) * row->nr; j++) {
                for (int64_t k = group * row->kr; k < (group + 1) * row->kr; k++, to += size) {
                    if (j < layer->n_outputs && k < layer->n_inputs) {
                        is_finite &= put(row, layer, k, j, to);
                    } else {
                        memset(to, 0, (size_t)size);
                    }
                }
            }
        }
    }
    return is_finite;
}

int fnn_pad(const float *from, int64_t n, int64_t n_padded, float *to)
{
    int is_finite = 1;
    for (int64_t j = 0; j < n_padded; j++) {
        to[j] = j < n ? from[j] : 0;
        is_finite &= isfinite(to[j]) != 0;
    }
    return is_finite;
}
