/* Weights of any strides to panels (drawn in kernel.h).
 *
 * Invariant: every byte of the target is written, padding with zeros; a value that is NaN or
 * infinite is reported, because 0 * infinity is NaN while a skipped zero is nothing. What a panel
 * holds is said once, weight by weight, in fnn_pack_piece; whole panels of contiguous rows are done
 * faster by fnn_pack, to the same bytes.
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

/* NaN or infinity; on integers, so that loops of it become vectors. */
static inline int is_wild(int32_t bits) { return (bits & 0x7fffffff) > 0x7f7fffff; }

int fnn_all_finite(const float *x, int64_t n)
{
    int is_bad = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        is_bad |= is_wild(bits);
    }
    return !is_bad;
}

void fnn_scale_rows(const float *from, const double *factor, int64_t k, int64_t n, float *to)
{
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++) to[i * n + j] = (float)(from[i * n + j] * factor[i]);
}

/* ---- weight by weight ------------------------------------------------------------------------ */

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

int fnn_pack_piece(const fnn_row *row, const fnn_dense *layer, fnn_piece piece, void *target,
                   int64_t panel_stride)
{
    const int size = row->kw / row->kr;
    int is_finite = 1;
    for (int64_t panel = 0; panel < piece.n_panels; panel++) {
        const int64_t first = (piece.panel + panel) * row->nr, first_input = piece.group * row->kr;
        char *to = (char *)target + panel * panel_stride;
        for (int64_t group = 0; group < piece.n_groups; group++) {
            for (int64_t j = first; j < first + row->nr; j++) {
                for (int i = 0; i < row->kr; i++, to += size) {
                    const int64_t k = first_input + group * row->kr + i;
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

/* ---- whole groups of whole panels, outputs contiguous ---------------------------------------- */

/* One group: n columns from `from`, whose inputs are `stride` elements apart. Loops that the compilers
 * turn into vectors of any baseline, with Python's -fwrapv only if the index is 64 bits wide. Return 0 if
 * a value is not finite. */
static int copy_f32(const float *from, int64_t n, char *to)
{
    int is_bad = 0;
    for (int64_t j = 0; j < n; j++) {
        int32_t bits;
        memcpy(&bits, from + j, 4);
        memcpy(to + j * 4, &bits, 4);
        is_bad |= is_wild(bits);
    }
    return !is_bad;
}

static int copy_bf16(const float *from, int64_t stride, int64_t n, char *to)
{
    int is_bad = 0;
    for (int64_t j = 0; j < n; j++) {
        int32_t a, b;
        memcpy(&a, from + j, 4);
        memcpy(&b, from + stride + j, 4);
        is_bad |= (a & 0x7fffffff) > 0x7f7f7fff; /* what lies above rounds to infinity, or is NaN */
        is_bad |= (b & 0x7fffffff) > 0x7f7f7fff;
        const uint32_t low = ((uint32_t)a + 0x7fff + ((uint32_t)a >> 16 & 1)) >> 16;
        const uint32_t high = ((uint32_t)b + 0x7fff + ((uint32_t)b >> 16 & 1)) & 0xffff0000u;
        const uint32_t two = low | high;
        memcpy(to + j * 4, &two, 4);
    }
    return !is_bad;
}

static void copy_i8(const int8_t *from, int64_t stride, int64_t n, int kr, char *to)
{
    if (kr == 4) {
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < 4; i++) to[j * 4 + i] = (char)from[i * stride + j];
    } else {
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < 2; i++) to[j * 2 + i] = (char)from[i * stride + j];
    }
}

/* A block of so many groups at a time for all panels: their rows are read once, in order, and each
 * panel gets a few cache lines in a row. */
enum { GROUPS_AT_ONCE = 8 };

/* Of the panels before n_panels, the groups before n_groups. */
static int pack_whole(const fnn_row *row, const fnn_dense *layer, int64_t n_panels, int64_t n_groups,
                      char *target, int64_t panel_stride)
{
    const int nr = row->nr;
    int is_finite = 1;
    for (int64_t first = 0; first < n_groups; first += GROUPS_AT_ONCE) {
        const int64_t end = first + GROUPS_AT_ONCE < n_groups ? first + GROUPS_AT_ONCE : n_groups;
        for (int64_t panel = 0; panel < n_panels; panel++) {
            for (int64_t group = first; group < end; group++) {
                char *const to = target + panel * panel_stride + group * nr * row->kw;
                const int64_t k = group * row->kr, j = panel * nr, n = layer->n_outputs;
                if (fnn_is_i8(row)) {
                    copy_i8(layer->weight_i8 + k * n + j, n, nr, row->kr, to);
                    continue;
                }
                const float *const from = layer->weight + k * layer->stride_input + j;
                is_finite &= row->kr == 1 ? copy_f32(from, nr, to)
                                          : copy_bf16(from, layer->stride_input, nr, to);
            }
        }
    }
    return is_finite;
}

int fnn_pack(const fnn_row *row, const fnn_dense *layer, void *target)
{
    const int64_t n_panels = fnn_panels(layer->n_outputs, row->nr);
    const int64_t n_groups = fnn_groups(layer->n_inputs, row->kr);
    const int64_t panel_stride = n_groups * row->nr * row->kw;
    const int is_contiguous = fnn_is_i8(row) || layer->stride_output == 1;
    const int64_t whole_panels = is_contiguous ? layer->n_outputs / row->nr : 0;
    const int64_t whole_groups = layer->n_inputs / row->kr;
    char *const to = target;
    int is_finite = pack_whole(row, layer, whole_panels, whole_groups, to, panel_stride);
    const fnn_piece last_group = {0, whole_panels, whole_groups, n_groups - whole_groups};
    is_finite &= fnn_pack_piece(row, layer, last_group, to + whole_groups * row->nr * row->kw,
                                panel_stride);
    const fnn_piece last_panels = {whole_panels, n_panels - whole_panels, 0, n_groups};
    is_finite &= fnn_pack_piece(row, layer, last_panels, to + whole_panels * panel_stride, panel_stride);
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
