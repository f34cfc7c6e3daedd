/* Self-verification: whether the kernels of a network give what the scalar ones do, on its own weights.
 *
 * What lives here: fnn_verify, which fnn_network_create asks before it hands a network out. A CPU, an
 * emulator or a compiler that computes wrongly is then an error and not a wrong label.
 * Invariant: the same rows and pieces at every creation; the reference is packed anew from the caller's
 * weights by fnn_pack_piece and computed by kernels_scalar.c. Bits have to be equal, NaNs being one
 * value; of bf16, which keeps no bits, results within a bound that no sound kernel exceeds. Costs at
 * most about a million multiply-adds of the scalar kernel, whatever the network (two of AMX).
 * Start with fnn_verify.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

/* A piece has at most so many inputs and columns: with the tiles of try_piece, 51,000 multiply-adds of the
 * scalar kernel where ours has 12 x 32. A layer has two; of a network so many layers are tried, evenly
 * spread, and the first of each kind of kernel. A kernel that takes many groups in a step gets two steps with
 * and without groups left over, of few rows, and the last columns of a layer, whose vectors it takes at once. */
enum { INPUTS = 32, MOST_INPUTS = 144, MOST_COLUMNS = 256, MOST_PANELS = 8, MOST_LAYERS = 8 };
enum { WHOLE = 4 }; /* inputs: whole groups of every kernel */
enum { LD = MOST_INPUTS * 4 + FNN_SLACK * 4, LD_Y = (MOST_COLUMNS + FNN_SLACK) * 4 }; /* bytes */

/* One side of a comparison: rows in a kernel's own format, the groups that matter, what came out. */
typedef struct {
    char x[FNN_MAX_MR * LD];
    char y[FNN_MAX_MR * LD_Y];
    uint32_t list[MOST_INPUTS + FNN_SLACK];
    int64_t n_active;
} side;

typedef struct {
    const fnn_packed *l;
    const fnn_row *scalar;   /* of l's format */
    int64_t panel, n_panels; /* the piece: of l's panels, and of its inputs */
    int64_t input, n_inputs;
    uint64_t seed;
    float floats[FNN_MAX_MR * MOST_INPUTS];
    uint8_t pixels[FNN_MAX_MR * MOST_INPUTS];
    char packed[FNN_MAX_MR * LD];                 /* x for gemm_packed */
    char panels[MOST_INPUTS * MOST_COLUMNS * 4];  /* the piece for the scalar kernel */
    side ours, reference;
} trial;

static uint64_t next_random(uint64_t *state) /* SplitMix64 (G. Steele, D. Lea, C. Flood, 2014) */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int same_floats(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]))) return 0;
    return 1;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* m rows, a quarter of the inputs zero in all of them: small floats, for i8 what spans 0..255 and goes
 * beyond; and pixels. bf16 is spared subnormals, which its bound knows nothing of. */
static void fill_rows(trial *t, int m)
{
    for (int64_t k = 0; k < t->n_inputs; k++) {
        const int is_zero = (next_random(&t->seed) & 3) == 0;
        for (int i = 0; i < m; i++) {
            const uint64_t r = next_random(&t->seed);
            float x = (float)((int64_t)(r & 0xffffff) - 0x800000) * 0x1p-23f;
            if (t->scalar->kr == 1 && (r >> 24 & 31) == 0) x *= 0x1p-130f;
            if (t->scalar->kr == 4) x = (150.0f * x + 127.0f - t->l->zero) / t->l->inverse;
            t->floats[i * t->n_inputs + k] = is_zero ? (r & 1 << 29 ? 0.0f : -0.0f) : x;
            t->pixels[i * t->n_inputs + k] = is_zero ? 0 : (uint8_t)(r >> 32);
        }
    }
}

static fnn_encode encode_of(const trial *t, side *s, int m, unsigned *is_nan)
{
    return (fnn_encode){.m = m, .k = t->n_inputs, .to = s->x, .ld = LD, .list = s->list,
                        .inverse = t->l->inverse, .zero = t->l->zero, .is_nan = is_nan};
}

static void encode(const trial *t, const fnn_row *row, side *s, int m, int is_u8, unsigned *is_nan)
{
    const char *x[FNN_MAX_MR];
    fnn_encode e = encode_of(t, s, m, is_nan);
    for (int i = 0; i < m; i++)
        x[i] = is_u8 ? (const char *)(t->pixels + i * t->n_inputs)
                     : (const char *)(t->floats + i * t->n_inputs);
    e.x = x;
    s->n_active = (is_u8 ? row->encode_u8 : row->encode_f32)(&e);
}

/* The bits of element k of row i of what a row of the table made. */
static uint32_t element(const fnn_row *row, const char *rows, int64_t ld, int i, int64_t k)
{
    const int size = 4 / row->kr;
    uint32_t bits = 0;
    memcpy(&bits, rows + i * ld + k * size, (size_t)size); /* little-endian */
    return bits;
}

/* Whether inputs and list are what they should be: the scalar kernel's inputs, which may lie in another
 * size, and the groups in which one of them is not zero. */
static int encodes_alike(trial *t, int m, int is_u8)
{
    const fnn_row *row = t->l->row, *scalar = t->scalar;
    unsigned is_nan[2] = {0, 0};
    encode(t, row, &t->ours, m, is_u8, &is_nan[0]);
    encode(t, scalar, &t->reference, m, is_u8, &is_nan[1]);
    if (is_nan[0] != is_nan[1]) return 0;
    const uint32_t sign = fnn_is_i8(row) ? 0 : row->kr == 1 ? 0x80000000u : 0x8000u;
    int64_t n_active = 0;
    for (int64_t g = 0; g < fnn_groups(t->n_inputs, row->kr); g++) {
        int is_active = 0;
        for (int64_t k = g * row->kr; k < (g + 1) * row->kr; k++) {
            for (int i = 0; i < m; i++) {
                const uint32_t ours = element(row, t->ours.x, LD, i, k);
                const uint32_t wanted = k < t->n_inputs ? element(scalar, t->reference.x, LD, i, k) : 0;
                if (ours != wanted) return 0;
                is_active |= (ours & ~sign) != 0;
            }
        }
        if (is_active && (n_active >= t->ours.n_active || t->ours.list[n_active] != g)) return 0;
        n_active += is_active;
    }
    return n_active == t->ours.n_active;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* The tile of n columns; whose weights and inputs is for the caller to say. */
static fnn_tile tile_of(const trial *t, side *s, int m, int64_t n, fnn_finish finish)
{
    const int64_t first = t->panel * t->l->row->nr;
    const float *const scale = finish == FNN_TO_U8 ? t->l->scale_u8 : t->l->scale;
    return (fnn_tile){.m = m, .n = n, .x = s->x, .ldx = LD, .list = s->list, .n_active = s->n_active,
                      .bias = (finish == FNN_TO_U8 ? t->l->bias_u8 : t->l->bias) + first,
                      .scale = scale == NULL ? NULL : scale + first,
                      .y = s->y, .ldy = LD_Y, .finish = finish};
}

static fnn_tile our_tile(trial *t, int m, int64_t n, fnn_finish finish)
{
    const fnn_row *row = t->l->row;
    const int64_t group_bytes = row->nr * row->kw;
    fnn_tile tile = tile_of(t, &t->ours, m, n, finish);
    tile.panel_stride = fnn_groups(t->l->from->n_inputs, row->kr) * group_bytes;
    tile.w = (const char *)t->l->w + t->panel * tile.panel_stride + t->input / row->kr * group_bytes;
    tile.ahead = (uintptr_t)tile.w;
    return tile;
}

static int64_t scalar_panel_stride(const trial *t)
{
    return fnn_groups(t->n_inputs, t->scalar->kr) * t->scalar->nr * t->scalar->kw;
}

static void run_reference(trial *t, int m, int64_t n, fnn_finish finish)
{
    fnn_tile tile = tile_of(t, &t->reference, m, n, finish);
    tile.panel_stride = scalar_panel_stride(t);
    tile.w = t->panels;
    t->scalar->gemm(&tile);
}

static float widened(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* How far apart two sound bf16 kernels may be in output n of row i. Each of the K multiply-adds rounds
 * at most twice, product and sum, by 2^-24 of what is at most S = |bias| + sum |x w|, in both kernels:
 * 4 K 2^-24 S; 5 K for the growth of the partial sums. Subnormals may be flushed: 2^-126 |x|, x up to 255.
 * Infinite where a sum might overflow in one kernel alone. */
static double bf16_bound(const trial *t, int i, int64_t n)
{
    const int nr = t->scalar->nr;
    const uint16_t *x = (const uint16_t *)(t->reference.x + i * LD);
    const uint16_t *w = (const uint16_t *)(t->panels + n / nr * scalar_panel_stride(t)) + n % nr * 2;
    double sum = fabs((double)t->l->bias[t->panel * t->l->row->nr + n]);
    for (int64_t k = 0; k < t->n_inputs; k++)
        sum += fabs((double)widened(x[k]) * widened(w[k / 2 * nr * 2 + k % 2]));
    return sum < 0x1p126 ? (double)t->n_inputs * (5 * 0x1p-24 * sum + 0x1p-117) : INFINITY;
}

static int agree(const trial *t, int m, int64_t n, fnn_finish finish)
{
    const fnn_row *row = t->l->row;
    for (int i = 0; i < m; i++) {
        const float *a = (const float *)(t->ours.y + i * LD_Y);
        const float *b = (const float *)(t->reference.y + i * LD_Y);
        if (finish != FNN_TO_U8 && t->scalar->kr != 2) {
            if (!same_floats(a, b, n)) return 0;
            continue;
        }
        for (int64_t j = 0; j < n; j++) {
            if (finish == FNN_TO_U8) {
                const uint32_t wanted = element(t->scalar, t->reference.y, LD_Y, i, j);
                if (element(row, t->ours.y, LD_Y, i, j) != wanted) return 0;
            } else {
                const double apart = fabs((double)a[j] - b[j]), bound = bf16_bound(t, i, j);
                if (!(apart <= bound) && bound < INFINITY) return 0;
            }
        }
    }
    return 1;
}

static int computes_alike(trial *t, const fnn_tile *tile)
{
    t->l->row->gemm(tile);
    return agree(t, tile->m, tile->n, tile->finish);
}

/* What only tiles of the most rows are put to: K in two pieces, weights fetched ahead, packed inputs. */
static int multiplies_whole_tiles_alike(trial *t, int64_t n, fnn_finish finish)
{
    const fnn_row *row = t->l->row;
    fnn_tile tile = our_tile(t, row->mr, n, FNN_SUSPEND);
    tile.n_active /= 2;
    row->gemm(&tile);
    tile.list += tile.n_active;
    tile.n_active = t->ours.n_active - tile.n_active;
    tile.finish = finish;
    tile.is_continued = 1;
    if (!computes_alike(t, &tile)) return 0;
    tile = our_tile(t, row->mr, n < row->nr ? n : row->nr, finish);
    tile.ahead_step = row->nr * row->kw;
    if (!computes_alike(t, &tile)) return 0;
    if (row->pack == NULL) return 1;
    unsigned is_nan = 0;
    const fnn_encode e = encode_of(t, &t->ours, row->mr, &is_nan);
    row->pack(&e, t->ours.n_active, t->packed);
    tile = our_tile(t, row->mr, n, finish);
    tile.x = t->packed;
    row->gemm_packed(&tile);
    return agree(t, row->mr, n, finish);
}

/* Every way in which network.c has a tile of m rows computed. */
static int multiplies_alike(trial *t, int m, int64_t n)
{
    const fnn_finish finish = t->l->from->activation == FNN_act_relu ? FNN_RELU : FNN_Z;
    fnn_tile tile = our_tile(t, m, n, finish);
    run_reference(t, m, n, finish);
    if (!computes_alike(t, &tile)) return 0;
    tile.has_gaps = 1;
    if (!computes_alike(t, &tile)) return 0;
    if (m == t->l->row->mr && !multiplies_whole_tiles_alike(t, n, finish)) return 0;
    if (t->l->bias_u8 == NULL || t->n_inputs > INPUTS) return 1; /* what finishes sums is not deeper for them */
    tile = our_tile(t, m, n, FNN_TO_U8);
    run_reference(t, m, n, FNN_TO_U8);
    return computes_alike(t, &tile);
}

/* One piece, for tiles of so many rows: few with many panels. */
static int try_piece(trial *t, const int *rows, int n_rows)
{
    const fnn_row *row = t->l->row, *scalar = t->scalar;
    const int ratio = row->nr / scalar->nr;
    const fnn_piece same = {t->panel * ratio, t->n_panels * ratio, t->input / scalar->kr,
                            fnn_groups(t->n_inputs, scalar->kr)};
    const int64_t n_left = t->l->from->n_outputs - t->panel * row->nr;
    fnn_pack_piece(scalar, t->l->from, same, t->panels, scalar_panel_stride(t));
    for (int i = 0; i < n_rows; i++) {
        const int m = rows[i], most = row->groups > 1 ? (int)t->n_panels : row->mr / m + 1;
        const int64_t n = (most < t->n_panels ? most : t->n_panels) * row->nr;
        fill_rows(t, m);
        if (!encodes_alike(t, m, i == 1) || !multiplies_alike(t, m, n < n_left ? n : n_left)) return 0;
    }
    return 1;
}

/* ---- networks -------------------------------------------------------------------------------- */

/* Layer `number`: its last panels and inputs, whose edges are padded, and some of the rest; the least and the
 * most rows of a tile and some in between. */
static int try_layer(trial *t, const fnn_packed *l, int number)
{
    const fnn_row *row = l->row;
    const int64_t k = l->from->n_inputs, n_panels = fnn_panels(l->from->n_outputs, row->nr);
    const int64_t panels = MOST_COLUMNS / row->nr < MOST_PANELS ? MOST_COLUMNS / row->nr : MOST_PANELS;
    const int has_steps = row->groups > 1;
    const int64_t step = row->kr * (int64_t)row->groups;
    const int64_t deep[] = {2 * step + step / 4, 2 * step};
    t->l = l;
    t->seed = (uint64_t)number;
    for (int i = 0; i < 2; i++) {
        const int64_t inputs = has_steps ? deep[i] : INPUTS, most = has_steps ? 2 - i : panels;
        t->n_panels = most < n_panels ? most : n_panels;
        const uint64_t places = (uint64_t)(n_panels - t->n_panels + 1);
        const uint64_t depths = (uint64_t)(k > inputs ? (k - inputs + WHOLE - 1) / WHOLE : 0) + 1;
        t->panel = (int64_t)(i == 0 ? places - 1 : next_random(&t->seed) % places);
        t->input = (int64_t)(i == 0 ? depths - 1 : next_random(&t->seed) % depths) * WHOLE;
        t->n_inputs = k - t->input < inputs ? k - t->input : inputs;
        assert(t->n_inputs <= MOST_INPUTS);
        int rows[] = {1, 1 + (int)(next_random(&t->seed) % (uint64_t)row->mr), row->mr}, n_rows = 3;
        if (has_steps) { /* of which a kernel takes all rows as it takes a quarter of them */
            rows[1] = row->mr / 4 + i;
            if (!try_piece(t, rows + 1, 1)) return 0;
            if (t->n_inputs > INPUTS) t->n_inputs = INPUTS;
            rows[1] = row->mr;
            n_rows = 2;
        }
        if (!try_piece(t, rows, n_rows)) return 0;
    }
    return 1;
}

/* A layer's activation, and the choice of a label. */
static int activates_alike(trial *t, const fnn_dense *from, const fnn_row *floats)
{
    enum { N = 64 };
    const fnn_row *const scalar = &fnn_row_f32_scalar;
    const int activation = fnn_activations[from->activation].last_layer_only ? FNN_act_exp : from->activation;
    float *const ours = (float *)t->ours.y, *const reference = (float *)t->reference.y;
    for (int i = 0; i < N; i++)
        ours[i] = reference[i] = (float)((int64_t)(next_random(&t->seed) & 0xffffff) - 0x800000) * 0x1p-19f;
    floats->activate[activation](from->parameters, ours, N);
    scalar->activate[activation](from->parameters, reference, N);
    return same_floats(ours, reference, N) && floats->argmax(ours, N) == scalar->argmax(reference, N);
}

/* Not by fnn_select, which asks the CPU anew each time: some 50 us on a virtual machine. */
static const fnn_row *scalar_row(const fnn_row *row)
{
    return fnn_is_i8(row) ? &fnn_row_i8_scalar : row->kr == 1 ? &fnn_row_f32_scalar : &fnn_row_bf16_scalar;
}

fnn_status fnn_verify(const fnn_packed *layers, int n, const fnn_row *floats, const fnn_row **broken)
{
    const int step = (n + MOST_LAYERS - 1) / MOST_LAYERS;
    trial *t;
    *broken = NULL;
    if (posix_memalign((void **)&t, 64, sizeof *t) != 0) return FNN_NO_MEMORY;
    memset(t, 0, sizeof *t);
    const uint64_t fp_mode = fnn_fp_mode_default();
    for (int i = 0; i < n && *broken == NULL; i++) {
        const fnn_packed *l = &layers[i];
        int row_at = 0, activation_at = 0; /* where these come first */
        while (layers[row_at].row != l->row) row_at++;
        while (layers[activation_at].from->activation != l->from->activation) activation_at++;
        const int is_due = row_at == i || i % step == 0;
        t->scalar = scalar_row(l->row);
        if (is_due && l->row != t->scalar && !try_layer(t, l, i)) *broken = l->row;
        else if (activation_at == i && !activates_alike(t, l->from, floats)) *broken = floats;
    }
    fnn_fp_mode_restore(fp_mode);
    free(t);
    return *broken == NULL ? FNN_OK : FNN_BROKEN_KERNEL;
}
