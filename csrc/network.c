/* Networks: creation, and forward(), which takes a block of rows through all layers.
 *
 * What lives here: struct fnn_network; the block loop; the epilogues that need a whole row
 * (softmax, argmax, top-k).
 * Invariant: a network does not change after creation. A block's activations live in the calling
 * thread's workspace, whose size follows from the network alone; each row's bits depend on that row
 * alone. Own buffers have FNN_SLACK spare elements, the caller's memory is touched to the byte.
 * Layers may differ in their number format; each encodes what it is given to its own.
 * Start with run_block().
 */
#define _GNU_SOURCE
#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernel.h"
#include "softmax.h"

/* A layer's own copy of scale and bias for what its kernel is to give. */
typedef struct { const float *scale, *bias; } epilogue;

typedef struct {
    const fnn_row *row;
    int64_t k, n, n_panels, n_groups;
    int64_t ld, ld_u8;       /* bytes between rows of its output in the workspace: floats, u8 */
    const void *w;           /* packed */
    epilogue z, u8;          /* u8: z in units of the next layer's input */
    int is_u8_out;           /* the next layer takes u8, and u8 can do without the activation */
    float inverse, zero;     /* i8: of float inputs */
    int activation;
    float parameters[2];
    double ns_per_row;       /* about */
} layer;

/* The layers that rows take, by their dtype: all but the first are the same. */
typedef struct {
    const layer *first;
    int mr;                  /* rows of whole tiles of all layers: the least common multiple of theirs */
    int64_t block;           /* rows taken through all layers at once */
    int64_t group;           /* rows among which those that are alike may share tiles: some blocks */
    int is_in_l2;            /* all weights are: no tile waits for another to share them */
} path;

struct fnn_network {
    int n_layers;
    path paths[2];           /* [fnn_dtype] */
    int64_t n_madds;         /* dense multiply-adds a row */
    int64_t room;            /* bytes in front of a buffer's rows: a tile of any layer */
    int64_t n_buffer;        /* bytes of one of the two activation buffers */
    int64_t n_list;          /* elements of one tile's list */
    int64_t n_cuts;          /* elements of one tile's cuts: where in its list a K block begins */
    int64_t n_tiles;         /* most tiles of a block */
    int64_t most_shares;     /* that a team may find in a layer, at least 1 */
    double ns_per_row;       /* about, if weights are at hand */
    double ns_to_stream;     /* about: weights from L3 or memory, once; 0 where L2 holds them */
    const fnn_row *floats;   /* whose activations all layers use */
    void *arena;
    size_t n_bytes;
    layer *layers;           /* [n_layers + 1], the last one being the pixel layer if there is one */
};

enum { NS_BRIEF = 5000, NS_SPLIT = 200000, NS_POLL = 20000000 }; /* see estimate_ns */
/* To a core, from L3; half of that from memory, of which half is skipped. Two threads halve one row of
 * 784-2500-2000-1500-1000-500-10 in f32 (0.6 ms), and take a third off in i8 (0.11 ms). */
enum { BYTES_PER_NS = 50 };
enum { DOUBTFUL = -1 }; /* in place of a label, until it is known */
enum { COLUMNS_OF_SHARE = 256, SHARED_WEIGHTS = 1 << 18 }; /* of a layer worth sharing: a round of the team costs about 1 us */

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Of n bytes; an odd number of cache lines: rows of a tile then fall into different sets of L1. */
static int64_t leading_dimension(int64_t n) { return (round_up(n, 64) / 64 | 1) * 64; }

/* Groups whose weights in one panel fill 128 KiB: with several tiles to do, they stay in L2 while the
 * tiles' packed inputs pass, and the next ones come. Pieces that fit L1 lose 3 % on 1024 x 5, to the
 * accumulators' way out and in. */
static int64_t block_of_k(const fnn_row *row)
{
    return 128 * 1024 / (row->nr * (int64_t)row->kw);
}

/* ---- creation -------------------------------------------------------------------------------- */

static const char *format_of(const fnn_dense *l) { return l->format == NULL ? "f32" : l->format; }

/* The sums of an i8 layer must fit 32 bits: K * 255 * 127 < 2^31. */
enum { MOST_INPUTS_I8 = 66051 };

static int has_good_format(const fnn_dense *l)
{
    if (strcmp(format_of(l), "i8") != 0) return 1;
    return l->n_inputs <= MOST_INPUTS_I8 && l->input_scale > 0 && isfinite(l->input_scale) &&
           isfinite(1 / l->input_scale) && l->input_zero >= 0 && l->input_zero <= 255 &&
           l->input_zero == rintf(l->input_zero);
}

static fnn_status check(const fnn_dense *layers, int n_layers, const fnn_dense *pixel, int *where)
{
    const int64_t most = (int64_t)1 << 31; /* lists hold 32-bit indices */
    for (int i = 0; i < n_layers; i++) {
        const fnn_dense *l = &layers[i];
        *where = i;
        if (l->n_outputs < 1 || l->n_outputs >= most || l->n_inputs < 0 || l->n_inputs >= most)
            return FNN_BAD_SHAPE;
        if (l->n_inputs > 0 && l->n_outputs > ((int64_t)1 << 44) / l->n_inputs)
            return FNN_BAD_SHAPE;
        if (i > 0 && l->n_inputs != layers[i - 1].n_outputs) return FNN_BAD_SHAPE;
        if (!has_good_format(l)) return FNN_BAD_FORMAT;
        if (l->activation < 0 || l->activation >= FNN_N_ACTIVATIONS ||
            (fnn_activations[l->activation].last_layer_only && i + 1 < n_layers))
            return FNN_BAD_ACTIVATION;
    }
    *where = -1;
    if (pixel != NULL && (pixel->n_inputs != layers[0].n_inputs ||
                          pixel->n_outputs != layers[0].n_outputs))
        return FNN_BAD_SHAPE;
    return pixel == NULL || has_good_format(pixel) ? FNN_OK : FNN_BAD_FORMAT;
}

/* Where tile i begins of the fewest tiles of mr rows that hold n; tile n_tiles: n. If few rows are left
 * for the last one, it shares with the one before: a tile of one row can take as long as one of
 * eight, for want of independent chains. */
static int64_t start_of_tile(int64_t i, int64_t n_tiles, int64_t n, int mr)
{
    const int64_t left = n - (n_tiles - 1) * mr;
    if (i == n_tiles) return n;
    return i > 0 && i == n_tiles - 1 && 3 * left < mr ? n - (mr + left) / 2 : i * mr;
}

enum { MAX_TILES = 32, MOST_ROWS = FNN_MOST_ORDERED }; /* of a block and a group */
enum { LEAST_GROUP = 128 }; /* sorted; of 64, 128 or 512 at a time the gain differs by half a percent */

/* Whether the kernel applies it to the tile in registers. */
static int is_in_gemm(int activation)
{
    return activation == FNN_act_identity || activation == FNN_act_relu;
}

/* About what a row costs: what decides on splitting, polling and keeping a lock. Beside the
 * multiply-adds there is work an input (encoding), an output (emitting) and an activation; a
 * vector's worth of outputs is computed even if fewer are wanted. Within a factor of 1.4 on ten
 * shapes on AVX-512 and AVX2. */
static double estimate_ns(const layer *l)
{
    const double vector = l->row->nr / 2 > 1 ? l->row->nr / 2 : 1;
    const double n = (double)l->n > vector ? (double)l->n : vector;
    const int is_softmax = fnn_activations[l->activation].last_layer_only;
    const double n_activated = is_in_gemm(l->activation) ? 0 : n;
    const double n_madds = (double)l->k * n + 6.0 * (double)(l->k + l->n) + 60 * n_activated;
    return 5 + n_madds / l->row->rate + (is_softmax ? 2 * n : 0);
}

/* Bytes of an input in a layer's own format. */
static int64_t size_of(const fnn_row *row) { return 4 / row->kr; }

/* Bytes between encoded rows of a layer that is given inputs of `size` bytes. */
static int64_t ld_of_input(const layer *l, int64_t size)
{
    return leading_dimension(l->k * (size > size_of(l->row) ? size : size_of(l->row)));
}

static int lcm(int a, int b)
{
    int c = a;
    while (c % b != 0) c += a;
    return c;
}

static const layer *layer_at(const fnn_network *net, const path *way, int i)
{
    return i == 0 ? way->first : &net->layers[i];
}

/* Bytes of its packed weights, and of a vector of its scales or biases. */
static int64_t weight_bytes(const layer *l)
{
    return round_up(l->n_panels * l->row->nr * l->n_groups * l->row->kw, 64);
}
static int64_t vector_bytes(const layer *l) { return round_up(l->n_panels * l->row->nr * 4, 64); }

/* Rows that a block may have. While all weights stay in L2, one tile at a time keeps its inputs in
 * L1; where rows are short, several, for with so little to do what a block costs is felt. Otherwise weights come from further away, and as many rows share them as have their inputs in
 * half of L2. */
static int64_t choose_block(const fnn_network *net, path *way, int64_t size)
{
    const int64_t l2 = (int64_t)fnn_l2_bytes();
    int64_t n_bytes = 0, widest = ld_of_input(way->first, size);
    for (int i = 0; i < net->n_layers; i++) {
        const layer *l = layer_at(net, way, i);
        const int64_t ld = l->is_u8_out ? l->ld_u8 : l->ld;
        n_bytes += weight_bytes(l);
        if (ld > widest && i + 1 < net->n_layers) widest = ld;
    }
    way->is_in_l2 = n_bytes <= l2 * 3 / 4;
    if (way->is_in_l2) {
        const int64_t n_tiles = (16 << 10) / widest / way->mr;
        return way->mr * (n_tiles < 1 ? 1 : n_tiles > 8 ? 8 : n_tiles);
    }
    int64_t n_tiles = l2 / 2 / widest / way->mr;
    /* Tiles that are not packed wait for the first pass through a panel, so more of them have to share it,
     * though their inputs come from L3 then (AVX2 on Zen 3: 1024 x 5 5 %, 784-2500-... 10 % faster). */
    if (way->first->row->pack == NULL && MAX_TILES * way->mr * widest <= (int64_t)4 << 20)
        n_tiles = MAX_TILES;
    /* Of wide layers at least 8 tiles, which L3 may hold: with 4, weights from memory are not hidden
     * (784-2500-..., 64 rows: 19 %). Of very wide ones, what is reasonable. */
    if (n_tiles < 8) n_tiles = (int64_t)64 << 20 >= 8 * way->mr * widest ? 8 : 1;
    if (n_tiles > MAX_TILES) n_tiles = MAX_TILES;
    if (n_tiles > MOST_ROWS / way->mr) n_tiles = MOST_ROWS / way->mr; /* 16 and 12 rows make tiles of 48 */
    return n_tiles * way->mr;
}

/* How the network's memory is cut, once its layers are planned. */
static void choose_sizes(fnn_network *net, const layer *pixel)
{
    static const int64_t sizes[] = {[FNN_U8] = 1, [FNN_F32] = 4};
    int64_t most_groups = 0, most_blocks = 0, widest = 0, block = 0, mr = 0;
    for (int dtype = 0; dtype < 2; dtype++) {
        path *way = &net->paths[dtype];
        *way = (path){.first = dtype == FNN_U8 ? pixel : net->layers, .mr = 1};
        int least_mr = FNN_MAX_MR;
        for (int i = 0; i < net->n_layers; i++) {
            const layer *l = layer_at(net, way, i);
            const int64_t n_blocks = l->n_groups / block_of_k(l->row);
            way->mr = lcm(way->mr, l->row->mr);
            if (l->row->mr < least_mr) least_mr = l->row->mr;
            if (l->n_groups > most_groups) most_groups = l->n_groups;
            if (n_blocks > most_blocks) most_blocks = n_blocks;
            if (l->ld > widest) widest = l->ld;
        }
        if (ld_of_input(way->first, 4) > widest) widest = ld_of_input(way->first, 4);
        way->block = choose_block(net, way, sizes[dtype]);
        assert(way->block <= MOST_ROWS);
        way->group = way->is_in_l2 ? round_up(LEAST_GROUP, way->block) : way->block;
        assert(way->group <= MOST_ROWS);
        if (way->block > block) block = way->block;
        if (way->mr > mr) mr = way->mr;
        if (way->block / least_mr > net->n_tiles) net->n_tiles = way->block / least_mr;
    }
    for (int i = 0; i < net->n_layers; i++)
        if (net->layers[i].n / COLUMNS_OF_SHARE > net->most_shares)
            net->most_shares = net->layers[i].n / COLUMNS_OF_SHARE;
    if (net->most_shares < 1) net->most_shares = 1;
    net->room = mr * widest;
    net->n_buffer = net->room + round_up(block * widest + FNN_SLACK * 4, 64);
    net->n_list = round_up(most_groups, 16) + FNN_SLACK;
    net->n_cuts = most_blocks + 2;
}

static void *allocate_arena(size_t n_bytes)
{
    const size_t huge = (size_t)2 << 20; /* large weights on huge pages: fewer TLB misses */
    void *arena;
    if (posix_memalign(&arena, n_bytes >= huge ? huge : 64, n_bytes) != 0) return NULL;
    if (n_bytes >= huge) madvise(arena, n_bytes, MADV_HUGEPAGE); /* a wish; refusal is harmless */
    return arena;
}

/* What can be said of a layer before its weights are packed. `next`: the layer that takes its output,
 * or NULL. relu comes free where u8 holds nothing below zero. */
static layer plan_layer(const fnn_dense *from, const fnn_dense *next, const fnn_row *row)
{
    layer l = {.row = row, .k = from->n_inputs, .n = from->n_outputs,
               .n_panels = fnn_panels(from->n_outputs, row->nr),
               .n_groups = fnn_groups(from->n_inputs, row->kr),
               .activation = from->activation,
               .parameters = {from->parameters[0], from->parameters[1]}};
    l.ld = leading_dimension(l.n_panels * row->nr * 4);
    l.ld_u8 = leading_dimension(l.n_panels * row->nr * size_of(row));
    if (fnn_is_i8(row)) {
        l.inverse = (float)(1 / (double)from->input_scale);
        l.zero = from->input_zero;
        l.is_u8_out = next != NULL && strcmp(format_of(next), "i8") == 0 &&
                      (l.activation == FNN_act_identity ||
                       (l.activation == FNN_act_relu && next->input_zero == 0));
    }
    l.ns_per_row = estimate_ns(&l);
    return l;
}

/* Packs a layer at `at` and points it there; where that ends. NULL: a value is not finite. */
static char *place_layer(layer *l, const fnn_dense *from, const fnn_dense *next, char *at)
{
    const int64_t n_padded = l->n_panels * l->row->nr, n_vector = vector_bytes(l);
    const int is_i8 = fnn_is_i8(l->row);
    int is_finite = fnn_pack(l->row, from, at);
    l->w = at;
    at += weight_bytes(l);
    float *bias = (float *)at;
    is_finite &= fnn_pad(is_i8 ? from->offset : from->bias, l->n, n_padded, bias);
    l->z.bias = bias;
    at += n_vector;
    if (!is_i8) return is_finite ? at : NULL;
    float *scale = (float *)at;
    is_finite &= fnn_pad(from->scale, l->n, n_padded, scale);
    l->z.scale = scale;
    at += n_vector;
    if (!l->is_u8_out) return is_finite ? at : NULL;
    float *bias_u8 = (float *)at, *scale_u8 = (float *)(at + n_vector);
    for (int64_t j = 0; j < n_padded; j++) {
        scale_u8[j] = (float)((double)scale[j] / next->input_scale);
        bias_u8[j] = j < l->n ? (float)((double)bias[j] / next->input_scale + next->input_zero) : 0;
        is_finite &= isfinite(scale_u8[j]) && isfinite(bias_u8[j]);
    }
    l->u8 = (epilogue){scale_u8, bias_u8};
    return is_finite ? at + 2 * n_vector : NULL;
}

/* Holds the packed layers, [n_layers] and perhaps the pixel layer, against what they came from. */
static fnn_status verify(const fnn_network *net, const fnn_dense *layers, const fnn_dense *pixel, int *where)
{
    const int n = net->n_layers + (pixel != NULL);
    const fnn_row *broken;
    fnn_packed *packed = calloc((size_t)n, sizeof *packed);
    if (packed == NULL) return FNN_NO_MEMORY;
    for (int i = 0; i < n; i++) {
        const layer *l = &net->layers[i];
        packed[i] = (fnn_packed){.row = l->row, .from = i < net->n_layers ? &layers[i] : pixel, .w = l->w,
                                 .bias = l->z.bias, .scale = l->z.scale, .bias_u8 = l->u8.bias,
                                 .scale_u8 = l->u8.scale, .inverse = l->inverse, .zero = l->zero};
    }
    const fnn_status status = fnn_verify(packed, n, net->floats, &broken);
    free(packed);
    *where = 0;
    while (status == FNN_BROKEN_KERNEL && fnn_row_at(*where) != broken) ++*where;
    return status;
}

fnn_status fnn_network_create(const fnn_dense *layers, int n_layers, const fnn_dense *pixel_layer,
                              const char *isa, fnn_network **network, int *where)
{
    *network = NULL;
    *where = 0;
    if (n_layers < 1) return FNN_BAD_SHAPE;
    fnn_status status = check(layers, n_layers, pixel_layer, where);
    if (status != FNN_OK) return status;

    fnn_network *net = calloc(1, sizeof *net);
    if (net != NULL) net->layers = calloc((size_t)n_layers + 1, sizeof *net->layers);
    if (net == NULL || net->layers == NULL) goto no_memory;
    net->n_layers = n_layers;
    net->ns_per_row = 10;
    status = fnn_select(isa, "f32", &net->floats);
    const int n_packed = n_layers + (pixel_layer != NULL);
    int64_t n_bytes = 0;
    for (int i = 0; i < n_packed && status == FNN_OK; i++) {
        const int place = i < n_layers ? i : 0; /* in the chain */
        const fnn_dense *from = i < n_layers ? &layers[i] : pixel_layer;
        const fnn_row *row;
        *where = i < n_layers ? i : -1;
        status = fnn_select(isa, format_of(from), &row);
        if (status != FNN_OK) break;
        layer *l = &net->layers[i];
        *l = plan_layer(from, place + 1 < n_layers ? &layers[place + 1] : NULL, row);
        n_bytes += weight_bytes(l) + vector_bytes(l) * (!fnn_is_i8(row) ? 1 : l->is_u8_out ? 4 : 2);
        if (i < n_layers) {
            net->n_madds += l->k * l->n;
            net->ns_per_row += l->ns_per_row;
        }
    }
    if (status != FNN_OK) {
        fnn_network_free(net);
        return status;
    }
    choose_sizes(net, &net->layers[pixel_layer != NULL ? n_layers : 0]);
    net->n_bytes = (size_t)n_bytes;
    net->ns_to_stream = net->n_bytes > fnn_l2_bytes() ? (double)n_bytes / BYTES_PER_NS : 0;
    net->arena = allocate_arena(net->n_bytes);
    if (net->arena == NULL) goto no_memory;
    char *at = net->arena;
    for (int i = 0; i < n_packed; i++) {
        const int place = i < n_layers ? i : 0;
        at = place_layer(&net->layers[i], i < n_layers ? &layers[i] : pixel_layer,
                         place + 1 < n_layers ? &layers[place + 1] : NULL, at);
        if (at == NULL) {
            *where = i < n_layers ? i : -1;
            fnn_network_free(net);
            return FNN_NOT_FINITE;
        }
    }
    status = verify(net, layers, pixel_layer, where);
    if (status == FNN_OK) *network = net;
    else fnn_network_free(net);
    return status;

no_memory:
    fnn_network_free(net);
    return FNN_NO_MEMORY;
}

void fnn_network_free(fnn_network *net)
{
    if (net == NULL) return;
    free(net->arena);
    free(net->layers);
    free(net);
}

int fnn_network_n_layers(const fnn_network *net) { return net->n_layers; }
size_t fnn_network_bytes(const fnn_network *net) { return net->n_bytes; }
const fnn_row *fnn_network_row(const fnn_network *net, int i) { return net->layers[i].row; }

/* ---- epilogues of a whole row ---------------------------------------------------------------- */

/* y = softmax(y), or its logarithm; `spare` is own memory of y's size. */
static void softmax(const fnn_row *row, float *y, int64_t n, float *spare, int is_log)
{
    const float none[2] = {0, 0};
    softmax_begin(y, spare, n);
    row->activate[FNN_act_exp](none, spare, n);
    if (is_log) log_softmax_end(y, spare, n);
    else softmax_end(y, spare, n);
}

/* a before b: NaN first, else larger; equals stay in order of index. */
static int goes_before(float a, float b) { return a > b || (isnan(a) && !isnan(b)); }

static int ranks_before(const float *key, int64_t a, int64_t b)
{
    if (goes_before(key[a], key[b])) return 1;
    return !goes_before(key[b], key[a]) && a < b;
}

/* heap[0..n) with the lowest rank at its root, but for heap[at], which sinks to its place. */
static void sink(const float *key, int64_t *heap, int64_t n, int64_t at)
{
    const int64_t sinking = heap[at];
    for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && ranks_before(key, heap[child], heap[child + 1])) child++;
        if (!ranks_before(key, sinking, heap[child])) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = sinking;
}

/* labels[k], best first: a heap of the best so far, then heapsort (J. Williams, 1964), N log k. */
static void top_k(const float *key, int64_t n, int64_t k, int64_t *labels)
{
    for (int64_t i = 0; i < k; i++) labels[i] = i;
    for (int64_t i = k / 2; i-- > 0;) sink(key, labels, k, i);
    for (int64_t i = k; i < n; i++) {
        if (!goes_before(key[i], key[labels[0]])) continue;
        labels[0] = i;
        sink(key, labels, k, 0);
    }
    for (int64_t end = k - 1; end > 0; end--) {
        const int64_t worst = labels[0];
        labels[0] = labels[end];
        labels[end] = worst;
        sink(key, labels, end, 0);
    }
}

/* ---- forward --------------------------------------------------------------------------------- */

typedef struct {
    const fnn_network *net;
    const fnn_call *call;
    int64_t n_rows;            /* in all */
    int64_t n_tiles, n_groups; /* of them; groups of as many tiles each, or one more */
    int is_in_l2;              /* the path's */
    int is_polled;             /* long enough for `poll` to matter */
    int64_t polled_at;         /* when, in ns; the calling thread's */
    atomic_int is_stopped, is_out_of_memory;
    atomic_int_fast64_t executed; /* multiply-adds, if call->work is wanted */
    const int64_t *rows;       /* NULL, or which of the caller's rows these are */
    const fnn_certificate *certificate; /* NULL, or labels that float32's might not be become DOUBTFUL */
    fnn_team *team;            /* NULL, or shares the panels of a layer: one block, several threads */
} pass;

/* Some rows of a pass: first + order[i], or first + i where order is NULL. Behind the m of a block
 * come others that are known to be next. */
typedef struct { int64_t first; const uint16_t *order; int m; int64_t n_known; } row_set;

/* The rows of `from` and `to` begin `room` bytes in: packed tiles move to the front by one tile. */
typedef struct { char *from, *to; uint32_t *lists, *cuts; } buffers;

static size_t workspace_bytes(const fnn_network *net)
{
    return (size_t)(2 * net->n_buffer + round_up(net->n_tiles * (net->n_list + net->n_cuts) * 4, 64));
}

/* What a certificate wants to see of a block, behind the rest of the workspace: the inputs of every
 * int8 layer (stage) as they were rounded, and before that; the z of the last stage. */
typedef struct {
    fnn_stage_rows stages[FNN_MAX_STAGES];
    float *z;
    void *work;
    uint8_t *is_doubtful;
} evidence;

/* Its bytes for a block of so many rows; `e`, where it is wanted, points into `at`. */
static size_t lay_out_evidence(const pass *p, int64_t n_rows, char *at, evidence *e)
{
    const fnn_certificate *c = p->certificate;
    int64_t n = 0;
    if (c == NULL) return 0;
    for (int i = 0; i < c->n_stages; i++) {
        const int64_t k = c->stages[i].n_inputs;
        if (e != NULL) {
            e->stages[i] = (fnn_stage_rows){.q = (uint8_t *)at + n, .q_stride = k, .a_stride = k};
            if (i > 0) e->stages[i].a = (float *)(at + n + round_up(n_rows * k, 64));
        }
        n += round_up(n_rows * k, 64) + (i > 0 ? round_up(n_rows * k * 4, 64) : 0);
    }
    if (e != NULL) e->z = (float *)(at + n);
    n += round_up(n_rows * c->n_inputs * 4, 64);
    if (e != NULL) e->work = at + n;
    n += round_up((int64_t)fnn_certify_work_bytes(c), 64);
    if (e != NULL) e->is_doubtful = (uint8_t *)at + n;
    return (size_t)(n + n_rows);
}

/* Which of the caller's rows is row i of the set. */
static int64_t number_of(const pass *p, const row_set *rows, int64_t i)
{
    const int64_t row = rows->first + (rows->order == NULL ? i : rows->order[i]);
    return p->rows == NULL ? row : p->rows[row];
}

static const char *row_at(const pass *p, const row_set *rows, int64_t i)
{
    return (const char *)p->call->x + number_of(p, rows, i) * p->call->row_stride;
}

/* Bytes of an element of the caller's rows. */
static int64_t size_of_call(const fnn_call *call) { return call->dtype == FNN_U8 ? 1 : 4; }

/* Rows [at, at + m) of the set to the layer's format. Columns that are not contiguous first go to own
 * memory: to the end of where the row is to be in the layer's format, which may be wider, so that
 * encoding may go on from there. */
static int64_t encode_input(const pass *p, const layer *l, const row_set *rows, int64_t at, fnn_encode *e)
{
    const fnn_call *call = p->call;
    const int64_t size = size_of_call(call);
    const char *x[FNN_MAX_MR];
    for (int i = 0; i < e->m; i++) {
        x[i] = row_at(p, rows, at + i);
        if (call->column_stride == size || l->k <= 1) continue;
        char *const own = (char *)e->to + i * e->ld + (size < size_of(l->row) ? (size_of(l->row) - size) * e->k : 0);
        for (int64_t j = 0; j < e->k; j++) memcpy(own + j * size, x[i] + j * call->column_stride, (size_t)size);
        x[i] = own;
    }
    e->x = x;
    return (call->dtype == FNN_U8 ? l->row->encode_u8 : l->row->encode_f32)(e);
}

static int64_t ns_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t now_ns(void) { return ns_of(CLOCK_MONOTONIC_COARSE); } /* to a few ms, costs a few ns */

/* Asks `poll` if NS_POLL have passed since *polled_at: whether to go on. */
static int may_go_on(const fnn_call *call, int64_t *polled_at)
{
    if (call->poll == NULL || now_ns() - *polled_at < NS_POLL) return 1;
    const int is_stopped = call->poll(call->poll_argument);
    *polled_at = now_ns();
    return !is_stopped;
}

/* The same of a pass that is long enough. In the calling thread alone. */
static int go_on(void *context)
{
    pass *p = context;
    if (p->is_polled && !may_go_on(p->call, &p->polled_at)) p->is_stopped = 1;
    return !p->is_stopped;
}

/* m rows of n floats to the caller; those that a NaN was lost from are NaN. */
static void copy_rows(float *to, const char *from, int m, int64_t n, int64_t ld)
{
    for (int i = 0; i < m; i++) memcpy(to + i * n, from + i * ld, (size_t)n * sizeof *to);
}

/* Whether the last layer stays at z, its activation being left to emit() or not wanted. */
static int stays_at_z(const fnn_call *call, const layer *l)
{
    const fnn_activation *activation = &fnn_activations[l->activation];
    if (activation->last_layer_only || call->output == FNN_LOGITS) return 1;
    if (call->output == FNN_LABELS) return l->n == 1 || activation->label_by_z;
    return call->output == FNN_TOP_K && activation->label_by_z;
}

/* The last layer's rows to what was asked for. y has the activation already, except where that is
 * a softmax, or where z was asked for. */
static void emit(const pass *p, const layer *l, float *y, float *spare, const row_set *rows)
{
    const fnn_call *call = p->call;
    const fnn_row *floats = p->net->floats;
    const int64_t n = l->n;
    const int is_log = l->activation == FNN_act_log_softmax;
    const int is_softmax = l->activation == FNN_act_softmax || is_log;
    for (int i = 0; i < rows->m; i++, y += l->ld / 4) {
        const int64_t row = number_of(p, rows, i);
        int64_t *labels = (int64_t *)call->out;
        float *values = (float *)call->out + row * n;
        switch (call->output) {
        case FNN_LABELS:
            labels[row] = n == 1 ? y[0] > 0.0f : floats->argmax(y, n);
            break;
        case FNN_TOP_K:
            labels += row * call->k;
            top_k(y, n, call->k, labels);
            if (is_softmax) {
                softmax(floats, y, n, spare, is_log);
            } else if (stays_at_z(call, l)) {
                floats->activate[l->activation](l->parameters, y, n);
            }
            for (int64_t j = 0; j < call->k; j++) call->scores[row * call->k + j] = y[labels[j]];
            break;
        case FNN_PROBABILITIES:
            if (n == 1 && !is_softmax) {
                values = (float *)call->out + row * 2;
                values[0] = 1.0f - y[0];
                values[1] = y[0];
                break;
            }
            /* fall through */
        case FNN_OUTPUTS:
            if (is_softmax) softmax(floats, y, n, spare, is_log && call->output == FNN_OUTPUTS);
            /* fall through */
        case FNN_LOGITS:
            memcpy(values, y, (size_t)n * sizeof *values);
            break;
        }
    }
}

/* cuts[i]: the first element of the ascending list that is at least i * kc. */
static void cut(const uint32_t *list, int64_t n_active, int64_t k, int64_t kc, uint32_t *cuts)
{
    int64_t low = 0;
    for (int64_t i = 0; i * kc < k; i++) {
        int64_t high = n_active < i * kc ? n_active : i * kc; /* list[j] >= j */
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (list[middle] < i * kc) low = middle + 1;
            else high = middle;
        }
        cuts[i] = (uint32_t)low;
    }
}

static int n_tiles_of(const layer *l, int m)
{
    return m <= l->row->mr ? 1 : (m + l->row->mr - 1) / l->row->mr;
}

/* Whether tiles of m rows have their inputs packed, given a block of several. Worth it from 8 panels
 * on: packing takes about 3 cycles an input, a panel 12. */
static int is_packed(const pass *p, const layer *l, int m)
{
    if (p->certificate != NULL && l->row->kr == 1) return 0; /* which still wants to see them */
    if (p->is_in_l2) return 0;
    return m == l->row->mr && l->n_panels >= 8 && l->row->pack != NULL;
}

/* One layer for the m rows of a block, from `x` to `y`; `n_active` of each tile is known. Gives u8, if
 * `is_u8_out`, or floats with `activation` applied. */
typedef struct {
    pass *p;
    const layer *l;
    int m, n_tiles;
    char *x, *y;
    int64_t ldx, ldy;        /* bytes */
    char *packed;            /* x, tile by tile, where that is worth while */
    int64_t packed_stride;   /* bytes */
    const buffers *b;
    const int64_t *n_active;
    int activation, is_u8_out;
    int64_t n_at_once;       /* panels */
    int64_t first_panel;     /* of those that a team shares now */
    fnn_layer_work *spent;   /* NULL, or the layer's */
} layer_run;

static void add(int64_t *sum, int64_t n) { __atomic_fetch_add(sum, n, __ATOMIC_RELAXED); }

/* Panels [panel, panel + n_at_once) for all tiles. */
static void run_panels(const layer_run *run, int64_t panel)
{
    pass *p = run->p;
    const layer *l = run->l;
    const fnn_row *row = l->row;
    const int activation = run->activation;
    const epilogue how = run->is_u8_out ? l->u8 : l->z;
    const fnn_finish finish = run->is_u8_out                 ? FNN_TO_U8
                              : activation == FNN_act_relu ? FNN_RELU
                                                             : FNN_Z;
    /* One tile alone, which may be one row, is spared divisions. */
    const int64_t kc = run->n_tiles == 1 || p->is_in_l2 ? l->n_groups : block_of_k(row);
    const int64_t panel_bytes = l->n_groups * row->nr * row->kw;
    /* u8 has no room for what a sum in progress holds. */
    const int64_t n_blocks =
        run->n_tiles == 1 || p->is_in_l2 || l->k == 0 || run->is_u8_out ? 1 : (l->n_groups + kc - 1) / kc;
    const int64_t first = panel * row->nr, last = (panel + run->n_at_once) * row->nr;
    const int64_t n = (last < l->n ? last : l->n) - first;
    for (int64_t block = 0; block < n_blocks; block++) {
        const int is_last = block + 1 == n_blocks;
        for (int tile = 0; tile < run->n_tiles; tile++) {
            const int64_t i = start_of_tile(tile, run->n_tiles, run->m, row->mr);
            const uint32_t *cuts = run->b->cuts + tile * p->net->n_cuts;
            const int64_t from = block == 0 ? 0 : cuts[block];
            const int64_t to = is_last ? run->n_active[tile] : cuts[block + 1];
            const int64_t next = is_last ? l->n_groups : (block + 1) * kc;
            fnn_tile t = {
                .m = (int)(start_of_tile(tile + 1, run->n_tiles, run->m, row->mr) - i),
                .n = n,
                .x = run->x + i * run->ldx,
                .ldx = run->ldx,
                .list = run->b->lists + tile * p->net->n_list + from,
                .n_active = to - from,
                /* One row waits for L3, not for L2. */
                .has_gaps = (to - from) * 4 < (next - block * kc) * 3 && (run->m > 1 || !p->is_in_l2),
                .w = (const char *)l->w + panel * panel_bytes,
                .panel_stride = panel_bytes,
                .bias = how.bias + first,
                .scale = how.scale == NULL ? NULL : how.scale + first,
                .y = run->y + i * run->ldy + first * (run->is_u8_out ? size_of(row) : 4),
                .ldy = run->ldy,
                .finish = is_last ? finish : FNN_SUSPEND,
                .is_continued = block > 0,
                .ahead = 0,
                .ahead_step = 0, /* with a member left out, gcc fills all with "rep stos": 10 ns */
            };
            assert(t.m >= 1 && t.m <= row->mr && t.n >= 1 && t.n_active >= 0);
            assert(t.n_active == 0 || t.list[t.n_active - 1] < l->n_groups);
            t.ahead = (uintptr_t)t.w + (uintptr_t)(next * row->nr * row->kw);
            if (run->n_tiles > 1 && is_packed(p, l, t.m)) {
                t.x = run->packed + tile * run->packed_stride + from * row->mr * 4;
                t.ahead_step = (row->nr * row->kw + run->n_tiles - 1) / run->n_tiles;
                t.ahead += (uintptr_t)(tile * t.ahead_step * (next - block * kc));
                row->gemm_packed(&t);
            } else {
                /* One tile fetches, for two instructions a step. The last two may be small. */
                if (tile + 3 == run->n_tiles && !p->is_in_l2) t.ahead_step = row->nr * row->kw;
                row->gemm(&t);
            }
            if (!is_in_gemm(activation) && is_last)
                for (int r = 0; r < t.m; r++)
                    p->net->floats->activate[activation](
                        l->parameters, (float *)((char *)t.y + r * run->ldy), n);
            const int64_t n_madds = t.m * fnn_multiplied(row, &t) * row->kr * n;
            if (p->call->work != NULL) p->executed += n_madds;
            if (run->spent != NULL) add(&run->spent->executed, n_madds);
        }
    }
}

static void run_share(void *context, int64_t i)
{
    const layer_run *run = context;
    run_panels(run, run->first_panel + i * run->n_at_once);
}

/* All panels. One tile alone, or weights in L2: all at once, or as many as take NS_POLL, so that few rows
 * can have several in registers. More tiles: a panel serves all of them while it is in cache. A team takes some
 * columns at a time; nobody is asked to go on while others work (see fnn_team). */
static int run_layer(layer_run *run, int is_caller)
{
    pass *p = run->p;
    const layer *l = run->l;
    int64_t n_in_time = l->n_panels;
    if (p->is_polled) {
        const double n = NS_POLL / (run->m * l->ns_per_row) * (double)l->n_panels;
        if (n < (double)l->n_panels) n_in_time = 8 + (int64_t)n / 8 * 8;
    }
    if (n_in_time > l->n_panels) n_in_time = l->n_panels;
    run->n_at_once = run->n_tiles > 1 && !p->is_in_l2 ? 1 : n_in_time;
    if (p->team != NULL && l->n * l->k >= SHARED_WEIGHTS) {
        run->n_at_once = COLUMNS_OF_SHARE / l->row->nr;
        for (int64_t panel = 0; panel < l->n_panels; panel += n_in_time) {
            const int64_t end = panel + n_in_time < l->n_panels ? panel + n_in_time : l->n_panels;
            run->first_panel = panel;
            fnn_team_share(p->team, (end - panel + run->n_at_once - 1) / run->n_at_once, run_share, run);
            if (!go_on(p)) return 0;
        }
        return 1;
    }
    for (int64_t panel = 0; panel < l->n_panels; panel += run->n_at_once) {
        run_panels(run, panel);
        if (is_caller ? !go_on(p) : p->is_stopped) return 0;
    }
    return 1;
}

/* Whether the caller's rows are what the layer's kernel reads: whole groups of u8. */
static int is_ready(const pass *p, const layer *l, const row_set *rows)
{
    return l->row->kr == 4 && p->call->dtype == FNN_U8 && p->call->column_stride == 1 &&
           p->rows == NULL && rows->order == NULL && l->k % 4 == 0;
}

/* Fetches m of the caller's rows from row i of the set on, for the tile after this one: 10 % of
 * 784-128-10 in int8. */
static void fetch_rows(const pass *p, const layer *l, const row_set *rows, int64_t i, int m)
{
    const int64_t size = size_of_call(p->call);
    if (p->call->column_stride != size) return;
    for (const int64_t end = i + m < rows->n_known ? i + m : rows->n_known; i < end; i++)
        fnn_fetch(row_at(p, rows, i), l->k * size);
}

/* k inputs of an i8 layer, of 1 or 2 bytes, to bytes. */
static void keep_u8(uint8_t *to, const char *from, int64_t k, int64_t size)
{
    if (size == 1) memcpy(to, from, (size_t)k);
    else for (int64_t j = 0; j < k; j++) to[j] = (uint8_t)from[2 * j]; /* little-endian */
}

/* The rows of run->x to the layer's own format, tile by tile; run->x may become the caller's rows.
 * `size`: bytes of an input where they are floats of the layer before (4), what it gave to u8 (1 or 2),
 * or the caller's (0). */
static void encode_rows(layer_run *run, const row_set *rows, int size, const fnn_stage_rows *kept,
                        int64_t *n_active, uint64_t *is_lost)
{
    pass *p = run->p;
    const layer *l = run->l;
    const int mr = l->row->mr, m = run->m, n_tiles = run->n_tiles;
    const buffers *b = run->b;
    if (size == 0 && is_ready(p, l, rows)) {
        run->x = (char *)row_at(p, rows, 0);
        run->ldx = p->call->row_stride;
    }
    char *const x = run->x;
    const int64_t ldx = run->ldx;
    for (int tile = 0; tile < n_tiles; tile++) {
        const int64_t r = start_of_tile(tile, n_tiles, m, mr);
        unsigned is_nan = 0;
        fnn_encode e = {.m = (int)(start_of_tile(tile + 1, n_tiles, m, mr) - r),
                        .k = l->k, .to = x + r * ldx, .ld = ldx,
                        .list = b->lists + tile * p->net->n_list,
                        .keep_zeros = p->call->keep_zeros, .inverse = l->inverse,
                        .zero = l->zero, .is_nan = &is_nan};
        assert(tile < p->net->n_tiles);
        if (kept != NULL && kept->a != NULL)
            copy_rows((float *)kept->a + r * l->k, e.to, e.m, l->k, ldx);
        if (size == 0) {
            if (is_ready(p, l, rows)) n_active[tile] = l->row->encode_f32(&e);
            else n_active[tile] = encode_input(p, l, rows, r, &e);
            if (p->n_rows > 1) fetch_rows(p, l, rows, r + mr, mr);
        } else {
            const char *own[FNN_MAX_MR];
            if (size > size_of(l->row)) { /* floats to something else, in place */
                for (int i = 0; i < e.m; i++) own[i] = (char *)e.to + i * ldx;
                e.x = own;
            }
            n_active[tile] = l->row->encode_f32(&e);
        }
        assert(n_active[tile] <= l->n_groups);
        for (int i = 0; kept != NULL && i < e.m; i++)
            keep_u8((uint8_t *)kept->q + (r + i) * l->k, (char *)e.to + i * ldx, l->k, size_of(l->row));
        for (int i = 0; is_nan != 0; i++, is_nan >>= 1)
            if (is_nan & 1) is_lost[(r + i) / 64] |= (uint64_t)1 << (r + i) % 64;
        if (n_tiles > 1) {
            if (is_packed(p, l, e.m))
                l->row->pack(&e, n_active[tile], run->packed + tile * run->packed_stride);
            cut(e.list, n_active[tile], l->n_groups, block_of_k(l->row),
                b->cuts + tile * p->net->n_cuts);
        }
    }
}

/* Rows of floats whose bit in `is_lost` is set become NaN. */
static void restore_nan(float *y, int m, int64_t n, int64_t ld, const uint64_t *is_lost)
{
    for (int i = 0; i < m; i++) {
        if (is_lost[i / 64] == 0) i |= 63;
        else if (is_lost[i / 64] >> i % 64 & 1)
            for (int64_t j = 0; j < n; j++) y[i * (ld / 4) + j] = NAN;
    }
}

/* z and activation of layer i to the caller's arrays; leaves nothing in the buffers. */
static void emit_trace(pass *p, int i, const layer *l, int64_t first, int m, buffers *b,
                       const uint64_t *is_lost)
{
    const fnn_call *call = p->call;
    char *const y = b->to + p->net->room;
    restore_nan((float *)y, m, l->n, l->ld, is_lost);
    copy_rows(call->trace_z[i] + first * l->n, y, m, l->n, l->ld);
    for (int r = 0; r < m; r++) {
        float *a = (float *)(y + r * l->ld);
        p->net->floats->activate[l->activation](l->parameters, a, l->n);
        if (fnn_activations[l->activation].last_layer_only)
            softmax(p->net->floats, a, l->n, (float *)b->from,
                    l->activation == FNN_act_log_softmax);
    }
    copy_rows(call->trace_a[i] + first * l->n, y, m, l->n, l->ld);
}

/* ---- order ----------------------------------------------------------------------------------- */

enum { SORT_MADDS = 1 << 15 /* of a row, from which on sorting pays */ };

/* Where the first layer copies its rows anyway: whole groups of u8 are read where they lie, and copying
 * them costs more than it gains. */
static int may_sort(const pass *p, int m)
{
    const fnn_call *call = p->call;
    const layer *l = p->net->paths[call->dtype].first;
    return m >= 2 * l->row->mr && p->net->n_madds >= SORT_MADDS && !call->keep_zeros &&
           l->row->kr < 4 && call->trace_z == NULL && call->column_stride == size_of_call(call);
}

/* The rows in an order in which neighbours are alike. Returns 0, and no order, if they show no difference. */
static int sort_rows(const pass *p, const row_set *rows, uint16_t *order)
{
    const layer *l = p->net->paths[p->call->dtype].first;
    const char *x[MOST_ROWS];
    for (int i = 0; i < rows->m; i++) x[i] = row_at(p, rows, i);
    return fnn_order_rows(x, rows->m, l->k * size_of_call(p->call), l->row->mr, order);
}

/* Adds the time since `since`; what the time is now. */
static int64_t add_ns(fnn_layer_work *spent, int64_t since)
{
    const int64_t now = ns_of(CLOCK_MONOTONIC);
    add(&spent->ns, now - since);
    return now;
}

/* At most a block's rows through all layers. Returns 0 to stop. */
static int run_block(pass *p, const row_set *rows, int is_caller)
{
    const fnn_network *net = p->net;
    const fnn_call *call = p->call;
    const path *way = &net->paths[call->dtype];
    const int m = rows->m;
    const size_t n_workspace = workspace_bytes(net);
    char *workspace = fnn_workspace_take(n_workspace + lay_out_evidence(p, way->block, NULL, NULL));
    if (workspace == NULL) {
        p->is_out_of_memory = 1;
        return 0;
    }
    assert(m <= way->block);
    buffers b = {.from = workspace, .to = workspace + net->n_buffer,
                 .lists = (uint32_t *)(workspace + 2 * net->n_buffer)};
    b.cuts = b.lists + net->n_tiles * net->n_list;
    const uint64_t fp_mode = fnn_fp_mode_default();
    int64_t ldx = ld_of_input(way->first, call->dtype == FNN_U8 ? 1 : 4);
    evidence seen;
    lay_out_evidence(p, way->block, workspace + n_workspace, &seen);
    uint64_t is_lost[MOST_ROWS / 64]; /* rows that had a NaN when they became u8 */
    for (int i = 0; i < (m + 63) / 64; i++) is_lost[i] = 0;
    int size = 0, is_done = 1;
    int64_t at_ns = call->layer_work == NULL ? 0 : ns_of(CLOCK_MONOTONIC);

    for (int i = 0; i < net->n_layers && is_done; i++) {
        const int is_last = i + 1 == net->n_layers;
        const layer *l = layer_at(net, way, i);
        int64_t n_active[MOST_ROWS / 4]; /* no tile has fewer rows */
        const int n_stages = p->certificate == NULL ? 0 : p->certificate->n_stages;
        const int is_u8_out = l->is_u8_out && n_stages == 0; /* a certificate wants floats as well */
        const int is_plain = call->trace_z != NULL || (is_last && stays_at_z(call, l)) ||
                             i + 1 == n_stages;
        layer_run run = {.p = p, .l = l, .m = m, .n_tiles = n_tiles_of(l, m),
                         .x = b.from + net->room, .y = b.to + net->room, .ldx = ldx, .ldy = l->ld,
                         .packed = b.from + net->room - l->row->mr * ldx,
                         .packed_stride = l->row->mr * ldx, .b = &b, .n_active = n_active,
                         .activation = is_plain ? FNN_act_identity : l->activation,
                         .spent = call->layer_work == NULL ? NULL : call->layer_work + i};
        encode_rows(&run, rows, size, i < n_stages ? &seen.stages[i] : NULL, n_active, is_lost);
        if (!is_u8_out || call->trace_z != NULL) is_done = run_layer(&run, is_caller);
        if (call->trace_z != NULL && is_done) emit_trace(p, i, l, rows->first, m, &b, is_lost);
        if (is_u8_out && is_done) {
            run.ldy = l->ld_u8;
            run.activation = FNN_act_identity;
            run.is_u8_out = 1;
            is_done = run_layer(&run, is_caller);
        }
        if (i + 1 == n_stages) {
            copy_rows(seen.z, run.y, m, l->n, l->ld);
            for (int r = 0; r < m; r++)
                net->floats->activate[l->activation](l->parameters, (float *)(run.y + r * l->ld), l->n);
        }
        if (run.spent != NULL) at_ns = add_ns(run.spent, at_ns);
        if (is_last && is_done && call->trace_z == NULL) {
            float *const y = (float *)run.y;
            restore_nan(y, m, l->n, l->ld, is_lost);
            emit(p, l, y, (float *)b.from, rows);
            if (n_stages > 0) {
                const fnn_certify_rows facts = {
                    .stages = seen.stages, .z = seen.z, .z_stride = p->certificate->n_inputs,
                    .hidden = (float *)run.x, .hidden_stride = run.ldx / 4,
                    .logits = y, .logits_stride = l->ld / 4};
                if (fnn_certify(p->certificate, net->floats->certify, &facts, m, seen.is_doubtful, NULL,
                                seen.work) > 0)
                    for (int r = 0; r < m; r++)
                        if (seen.is_doubtful[r]) ((int64_t *)call->out)[number_of(p, rows, r)] = DOUBTFUL;
            }
            if (run.spent != NULL) add_ns(run.spent + 1, at_ns);
        }
        char *const swap = b.from;
        b.from = b.to;
        b.to = swap;
        ldx = is_u8_out ? l->ld_u8 : l->ld;
        size = is_u8_out ? (int)size_of(l->row) : 4;
    }
    fnn_fp_mode_restore(fp_mode);
    fnn_workspace_give_back(workspace);
    return is_done;
}

/* Block or group `i` of `n`, of as many tiles each or one more, begins with this row of m. */
static int64_t start_of_part(int64_t i, int64_t n, int64_t m, int mr)
{
    const int64_t n_tiles = (m + mr - 1) / mr;
    return start_of_tile(n_tiles * i / n, n_tiles, m, mr);
}

/* Rows of group `index`, block by block. Returns 0 to stop. */
static int run_group(void *context, int64_t index, int is_caller)
{
    pass *p = context;
    const path *way = &p->net->paths[p->call->dtype];
    const int is_only = p->n_groups == 1; /* spares divisions, which one row feels */
    const int64_t first = is_only ? 0 : start_of_part(index, p->n_groups, p->n_rows, way->mr);
    const int64_t end = is_only ? p->n_rows : start_of_part(index + 1, p->n_groups, p->n_rows, way->mr);
    const int m = (int)(end - first);
    uint16_t order[MOST_ROWS];
    row_set rows = {.first = first, .m = m, .n_known = (p->n_rows < first + 2 * m ? p->n_rows : first + 2 * m) - first};
    if (may_sort(p, m) && sort_rows(p, &rows, order)) {
        rows.order = order;
        rows.n_known = m;
    }
    if (m <= way->block) return run_block(p, &rows, is_caller);
    const int64_t n_blocks = (m + way->block - 1) / way->block;
    for (int64_t block = 0; block < n_blocks; block++) {
        const int64_t at = start_of_part(block, n_blocks, m, way->mr);
        row_set some = rows;
        some.m = (int)(start_of_part(block + 1, n_blocks, m, way->mr) - at);
        some.n_known -= at;
        if (rows.order != NULL) some.order += at;
        else some.first += at;
        if (!run_block(p, &some, is_caller)) return 0;
    }
    return 1;
}

int fnn_is_brief(const fnn_network *net, int64_t n_rows)
{
    return (double)n_rows * net->ns_per_row < NS_BRIEF;
}

/* One block, by a team: the caller leads, whoever else turns up helps. */
static int run_in_team(void *context, int64_t unused, int is_caller)
{
    pass *p = context;
    (void)unused;
    if (!is_caller) {
        const uint64_t fp_mode = fnn_fp_mode_default();
        fnn_team_help(p->team);
        fnn_fp_mode_restore(fp_mode);
    } else if (!fnn_team_is_over(p->team)) {
        run_group(p, 0, 1);
        fnn_team_end(p->team);
    }
    return 1;
}

int fnn_may_split(const fnn_network *net, int64_t n_rows)
{
    return (double)n_rows * net->ns_per_row + net->ns_to_stream >= NS_SPLIT;
}

/* `p` says what is to be done; of the caller's rows, n_rows. */
static fnn_status forward(pass *p, int64_t n_rows)
{
    const fnn_network *net = p->net;
    const fnn_call *call = p->call;
    const path *way = &net->paths[call->dtype];
    int64_t n_worked = 0;
    p->n_rows = n_rows;
    p->is_in_l2 = way->is_in_l2;
    p->n_tiles = (n_rows + way->mr - 1) / way->mr;
    p->n_groups = 1;
    p->is_polled = call->poll != NULL && (double)n_rows * net->ns_per_row >= NS_SPLIT;
    if (p->is_polled) p->polled_at = now_ns();
    if (n_rows > 0) {
        const int64_t n_threads = fnn_may_split(net, n_rows) ? call->n_threads : 1;
        if (n_rows > way->group || n_threads > 1) {
            int64_t n_groups = (n_rows + way->group - 1) / way->group;
            if (n_threads > 1) { /* every thread as many; several, or the last to come decides */
                const int64_t n_blocks = (n_rows + way->block - 1) / way->block;
                const int64_t n_wanted = n_blocks < 4 * n_threads ? n_blocks : 4 * n_threads;
                n_groups = round_up(n_groups > n_wanted ? n_groups : n_wanted, n_threads);
            }
            p->n_groups = n_groups < p->n_tiles ? n_groups : p->n_tiles;
        }
        fnn_team team = {0};
        if (n_threads > 1 && p->n_tiles == 1) { /* too few rows to share them out */
            const int64_t n_members = n_threads < net->most_shares ? n_threads : net->most_shares;
            p->team = &team;
            n_worked = fnn_parallel_for(n_members, (int)n_members, run_in_team, go_on, p);
            p->team = NULL;
        } else {
            n_worked = fnn_parallel_for(p->n_groups, (int)n_threads, run_group, go_on, p);
        }
    }
    if (call->work != NULL) {
        if (n_worked > call->work->n_threads) call->work->n_threads = n_worked;
        call->work->executed += p->executed;
        call->work->effective += n_rows * net->n_madds;
    }
    if (p->is_out_of_memory) return FNN_NO_MEMORY;
    return p->is_stopped ? FNN_INTERRUPTED : FNN_OK;
}

fnn_status fnn_forward(const fnn_network *net, const fnn_call *call)
{
    pass p = {.net = net, .call = call};
    if (call->work != NULL) *call->work = (fnn_work){0};
    return forward(&p, call->n_rows);
}

/* ---- certified labels ------------------------------------------------------------------------ */

/* Of all rows. Between passes may_go_on is asked, as each may be too short to ask. */
static fnn_status certify_all(const fnn_network *fast, const fnn_network *exact,
                              const fnn_certificate *certificate, const fnn_call *call)
{
    enum { AT_ONCE = 1024 };
    int64_t doubtful[AT_ONCE], *const labels = call->out;
    pass p = {.net = fast, .call = call, .certificate = certificate};
    if (call->work != NULL) *call->work = (fnn_work){0};
    fnn_status status = forward(&p, call->n_rows);
    int64_t polled_at = now_ns();
    for (int64_t row = 0; row < call->n_rows && status == FNN_OK;) {
        int64_t n = 0;
        for (; row < call->n_rows && n < AT_ONCE; row++)
            if (labels[row] == DOUBTFUL) doubtful[n++] = row;
        if (!may_go_on(call, &polled_at)) return FNN_INTERRUPTED;
        pass again = {.net = exact, .call = call, .rows = doubtful};
        if (n > 0) status = forward(&again, n);
        if (call->work != NULL) call->work->n_doubtful += n;
    }
    return status;
}

/* Rows of a sample of each way, and how many take the faster one until the next: samples of the slower one are
 * then 1.5 % of the rows. */
enum { SAMPLE = 256, SAMPLE_HOLDS = 64 * SAMPLE };
enum { CERTIFIED, FLOATS };

static int64_t load(const int64_t *from) { return __atomic_load_n(from, __ATOMIC_RELAXED); }
static void store(int64_t *to, int64_t n) { __atomic_store_n(to, n, __ATOMIC_RELAXED); }

/* The way that the next rows take; *n: how many do, of so many. Both ways are sampled in turns, with as many
 * rows, as a row in a small call costs more than one in a large call. While other threads are at the samples, the
 * last ones count. */
static int choose_way(fnn_race *race, int64_t *n, int *is_sample)
{
    const int64_t begun = load(&race->n_begun[CERTIFIED]), behind = begun - load(&race->n_begun[FLOATS]);
    *is_sample = behind > 0 || begun < SAMPLE;
    if (*is_sample) {
        const int way = behind > 0 ? FLOATS : CERTIFIED;
        int64_t most = behind;
        if (way == CERTIFIED) most = SAMPLE - begun < (*n + 1) / 2 ? SAMPLE - begun : (*n + 1) / 2;
        if (*n > most) *n = most;
        add(&race->n_begun[way], *n);
        return way;
    }
    if (*n > SAMPLE_HOLDS) *n = SAMPLE_HOLDS;
    const int64_t n_certified = load(&race->n_rows[CERTIFIED]), n_floats = load(&race->n_rows[FLOATS]);
    if (n_certified >= SAMPLE && n_floats >= SAMPLE)
        store(&race->faster, (double)load(&race->ns[CERTIFIED]) / (double)n_certified <=
                                     (double)load(&race->ns[FLOATS]) / (double)n_floats ? CERTIFIED : FLOATS);
    const int way = (int)load(&race->faster);
    const int64_t since = __atomic_fetch_add(&race->n_since, *n, __ATOMIC_RELAXED);
    if (since < SAMPLE_HOLDS && since + *n >= SAMPLE_HOLDS) { /* one thread's */
        for (int i = CERTIFIED; i <= FLOATS; i++) {
            store(&race->ns[i], 0);
            store(&race->n_rows[i], 0);
        }
        store(&race->n_since, 0);
        for (int i = CERTIFIED; i <= FLOATS; i++) store(&race->n_begun[i], 0);
    }
    return way;
}

fnn_status fnn_forward_certified(const fnn_network *fast, const fnn_network *exact,
                                 const fnn_certificate *certificate, fnn_race *race,
                                 const fnn_call *call)
{
    assert(call->output == FNN_LABELS && call->dtype == FNN_U8);
    if (race == NULL || call->work != NULL) return certify_all(fast, exact, certificate, call);
    /* A thread's own time, so that what else the machine does counts for neither way; of several threads one may
     * do next to nothing. */
    const clockid_t clock = call->n_threads > 1 ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
    fnn_status status = FNN_OK;
    int64_t polled_at = now_ns();
    for (int64_t first = 0, n; first < call->n_rows && status == FNN_OK; first += n) {
        if (!may_go_on(call, &polled_at)) return FNN_INTERRUPTED;
        int is_sample;
        n = call->n_rows - first;
        const int way = choose_way(race, &n, &is_sample);
        fnn_call part = *call;
        part.x = (const char *)call->x + first * call->row_stride;
        part.out = (int64_t *)call->out + first;
        part.n_rows = n;
        const int64_t since = is_sample ? ns_of(clock) : 0;
        status = way == CERTIFIED ? certify_all(fast, exact, certificate, &part) : fnn_forward(exact, &part);
        if (status != FNN_OK) {
            if (is_sample) add(&race->n_begun[way], -n); /* cut short: of no sample */
            break;
        }
        add(&race->n_taken[way], n);
        if (!is_sample) continue;
        add(&race->ns[way], ns_of(clock) - since);
        add(&race->n_rows[way], n);
    }
    return status;
}

/* ---- single pieces, for tests and measurements ----------------------------------------------- */

void fnn_activate(const fnn_row *row, int activation, const float parameters[2], float *x,
                  int64_t n)
{
    enum { CHUNK = 256 };
    float own[CHUNK + FNN_SLACK] = {0};
    const uint64_t fp_mode = fnn_fp_mode_default();
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t some = n - i < CHUNK ? n - i : CHUNK;
        memcpy(own, x + i, (size_t)some * 4);
        row->activate[activation](parameters, own, some);
        memcpy(x + i, own, (size_t)some * 4);
    }
    fnn_fp_mode_restore(fp_mode);
}

double fnn_burn(const fnn_row *row, int64_t n) { return row->burn(n); }
