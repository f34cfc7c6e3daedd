/* Self-verification: whether the kernels of a network give what the scalar ones do, on its own weights.
 *
 * What lives here: fnn_verify, which fnn_network_create asks before it hands a network out. A CPU, an
 * emulator or a compiler that computes wrongly is then an error and not a wrong label.
 * Invariant: the same rows and pieces at every creation; the reference is packed anew from the caller's
 * weights by fnn_pack_piece and computed by kernels_scalar.c. Bits have to be equal, NaNs being one
 * value; of bf16, which keeps no bits, results within a bound that no sound kernel exceeds. Costs at
 * most about a million multiply-adds, whatever the network.
 * Start with fnn_verify.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

/* A piece has at most so many groups and columns: with the tiles of try_piece, 51,000 multiply-adds for
 * a kernel of 12 x 32. A layer has two; of a network so many layers are tried, evenly spread, and the
 * first of each kind of kernel. */
enum { MOST_GROUPS = 32, MOST_COLUMNS = 256, MOST_PANELS = 8, MOST_LAYERS = 8 };
enum { LD = MOST_GROUPS * 4 + FNN_SLACK * 4, LD_Y = (MOST_COLUMNS + FNN_SLACK) * 4 }; /* bytes */

/* One side of a comparison: rows in a kernel's own format, the groups that matter, what came out. */
typedef struct {
    char x[FNN_MAX_MR * LD];
    char y[FNN_MAX_MR * LD_Y];
    uint32_t list[MOST_GROUPS + FNN_SLACK];
    int64_t n_active;
} side;

typedef struct {
    const fnn_packed *l;
    const fnn_row *scalar;   /* of l's format */
    fnn_piece piece;         /* of l's panels */
    int64_t n_inputs;        /* of the piece */
    uint64_t seed;
    float floats[FNN_MAX_MR * MOST_GROUPS * 4];
    uint8_t pixels[FNN_MAX_MR * MOST_GROUPS * 4];
    char packed[FNN_MAX_MR * LD];                 /* x for gemm_packed */
    char panels[MOST_GROUPS * MOST_COLUMNS * 4];  /* the piece for the scalar kernel */
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

static int encodes_alike(trial *t, int m, int is_u8)
{
    unsigned is_nan[2] = {0, 0};
    encode(t, t->l->row, &t->ours, m, is_u8, &is_nan[0]);
    encode(t, t->scalar, &t->reference, m, is_u8, &is_nan[1]);
    const int64_t n = t->ours.n_active;
    if (n != t->reference.n_active || is_nan[0] != is_nan[1]) return 0;
    if (memcmp(t->ours.list, t->reference.list, (size_t)n * 4) != 0) return 0;
    for (int i = 0; i < m; i++)
        if (memcmp(t->ours.x + i * LD, t->reference.x + i * LD, (size_t)t->piece.n_groups * 4) != 0) return 0;
    return 1;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* The tile of n columns; whose weights and inputs is for the caller to say. */
static fnn_tile tile_of(const trial *t, side *s, int m, int64_t n, fnn_finish finish)
{
    const int64_t first = t->piece.panel * t->l->row->nr;
    const float *const scale = finish == FNN_TO_U8 ? t->l->scale_u8 : t->l->scale;
    return (fnn_tile){.m = m, .n = n, .x = s->x, .ldx = LD, .list = s->list, .n_active = s->n_active,
                      .bias = (finish == FNN_TO_U8 ? t->l->bias_u8 : t->l->bias) + first,
                      .scale = scale == NULL ? NULL : scale + first,
                      .y = s->y, .ldy = LD_Y, .finish = finish};
}

static fnn_tile our_tile(trial *t, int m, int64_t n, fnn_finish finish)
{
    const fnn_row *row = t->l->row;
    fnn_tile tile = tile_of(t, &t->ours, m, n, finish);
    tile.panel_stride = fnn_groups(t->l->from->n_inputs, row->kr) * row->nr * 4;
    tile.w = (const char *)t->l->w + t->piece.panel * tile.panel_stride + t->piece.group * row->nr * 4;
    tile.ahead = (uintptr_t)tile.w;
    return tile;
}

static void run_reference(trial *t, int m, int64_t n, fnn_finish finish)
{
    fnn_tile tile = tile_of(t, &t->reference, m, n, finish);
    tile.panel_stride = t->piece.n_groups * t->scalar->nr * 4;
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
    const uint16_t *w = (const uint16_t *)(t->panels + n / nr * t->piece.n_groups * nr * 4) + n % nr * 2;
    double sum = fabs((double)t->l->bias[t->piece.panel * t->l->row->nr + n]);
    for (int64_t g = 0; g < t->piece.n_groups; g++)
        for (int j = 0; j < 2; j++) sum += fabs((double)widened(x[g * 2 + j]) * widened(w[g * nr * 2 + j]));
    const double n_steps = 2.0 * (double)t->piece.n_groups;
    return sum < 0x1p126 ? n_steps * (5 * 0x1p-24 * sum + 0x1p-117) : INFINITY;
}

static int agree(const trial *t, int m, int64_t n, fnn_finish finish)
{
    for (int i = 0; i < m; i++) {
        const char *a = t->ours.y + i * LD_Y, *b = t->reference.y + i * LD_Y;
        if (finish == FNN_TO_U8) {
            if (memcmp(a, b, (size_t)n) != 0) return 0;
        } else if (t->scalar->kr != 2) {
            if (!same_floats((const float *)a, (const float *)b, n)) return 0;
        } else {
            for (int64_t j = 0; j < n; j++) {
                const double apart = fabs((double)((const float *)a)[j] - ((const float *)b)[j]);
                const double bound = bf16_bound(t, i, j);
                if (!(apart <= bound) && bound < INFINITY) return 0;
            }
        }
    }
    return 1;
}

/* Every way in which network.c has a tile of m rows computed. */
static int multiplies_alike(trial *t, int m, int64_t n)
{
    const fnn_row *row = t->l->row;
    const fnn_finish finish = t->l->from->activation == FNN_act_relu ? FNN_RELU : FNN_Z;
    fnn_tile tile = our_tile(t, m, n, finish);
    run_reference(t, m, n, finish);
    row->gemm(&tile);
    if (!agree(t, m, n, finish)) return 0;
    if (m == row->mr) {
        tile = our_tile(t, m, n, FNN_SUSPEND); /* in two pieces of K */
        tile.n_active /= 2;
        row->gemm(&tile);
        tile.list += tile.n_active;
        tile.n_active = t->ours.n_active - tile.n_active;
        tile.finish = finish;
        tile.is_continued = 1;
        row->gemm(&tile);
        if (!agree(t, m, n, finish)) return 0;
    }
    if (m == row->mr && row->pack != NULL) {
        unsigned is_nan = 0;
        const fnn_encode e = encode_of(t, &t->ours, m, &is_nan);
        row->pack(&e, t->ours.n_active, t->packed);
        tile = our_tile(t, m, n, finish);
        tile.x = t->packed;
        row->gemm_packed(&tile);
        if (!agree(t, m, n, finish)) return 0;
    }
    if (t->l->bias_u8 == NULL) return 1;
    tile = our_tile(t, m, n, FNN_TO_U8);
    run_reference(t, m, n, FNN_TO_U8);
    row->gemm(&tile);
    return agree(t, m, n, FNN_TO_U8);
}

/* One piece: the least and the most rows of a tile and some in between, few rows with many panels. */
static int try_piece(trial *t)
{
    const fnn_row *row = t->l->row;
    const int ratio = row->nr / t->scalar->nr;
    const fnn_piece ours = t->piece;
    const fnn_piece same = {ours.panel * ratio, ours.n_panels * ratio, ours.group, ours.n_groups};
    const int64_t n_left = t->l->from->n_outputs - ours.panel * row->nr;
    const int rows[] = {1, 1 + (int)(next_random(&t->seed) % (uint64_t)row->mr), row->mr};
    fnn_pack_piece(t->scalar, t->l->from, same, t->panels, ours.n_groups * t->scalar->nr * 4);
    for (int i = 0; i < 3; i++) {
        const int m = rows[i], most = row->mr / m + 1;
        const int64_t n = (most < ours.n_panels ? most : ours.n_panels) * row->nr;
        fill_rows(t, m);
        if (!encodes_alike(t, m, i == 1) || !multiplies_alike(t, m, n < n_left ? n : n_left)) return 0;
    }
    return 1;
}

/* ---- networks -------------------------------------------------------------------------------- */

/* Layer `number`: its last panels and inputs, whose edges are padded, and some of the rest. */
static int try_layer(trial *t, const fnn_packed *l, int number)
{
    const fnn_row *row = l->row;
    const int64_t n_panels = fnn_panels(l->from->n_outputs, row->nr);
    const int64_t n_groups = fnn_groups(l->from->n_inputs, row->kr);
    const int64_t panels = MOST_COLUMNS / row->nr < MOST_PANELS ? MOST_COLUMNS / row->nr : MOST_PANELS;
    const int64_t groups = row->kr == 1 ? MOST_GROUPS : MOST_GROUPS / 2;
    t->l = l;
    t->seed = (uint64_t)number;
    t->piece.n_panels = panels < n_panels ? panels : n_panels;
    t->piece.n_groups = groups < n_groups ? groups : n_groups;
    for (int i = 0; i < 2; i++) {
        const uint64_t places = (uint64_t)(n_panels - t->piece.n_panels + 1);
        const uint64_t depths = (uint64_t)(n_groups - t->piece.n_groups + 1);
        t->piece.panel = (int64_t)(i == 0 ? places - 1 : next_random(&t->seed) % places);
        t->piece.group = (int64_t)(i == 0 ? depths - 1 : next_random(&t->seed) % depths);
        const int64_t first = t->piece.group * row->kr, end = first + t->piece.n_groups * row->kr;
        t->n_inputs = (end < l->from->n_inputs ? end : l->from->n_inputs) - first;
        if (!try_piece(t)) return 0;
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
static const fnn_row *scalar_row(int kr)
{
    return kr == 1 ? &fnn_row_f32_scalar : kr == 2 ? &fnn_row_bf16_scalar : &fnn_row_i8_scalar;
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
        t->scalar = scalar_row(l->row->kr);
        if (is_due && l->row != t->scalar && !try_layer(t, l, i)) *broken = l->row;
        else if (activation_at == i && !activates_alike(t, l->from, floats)) *broken = floats;
    }
    fnn_fp_mode_restore(fp_mode);
    free(t);
    return *broken == NULL ? FNN_OK : FNN_BROKEN_KERNEL;
}
