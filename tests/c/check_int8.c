/* int8 networks: every shape of tile and edge, chains of layers, against sums written out here.
 *
 * Invariant: the oracle knows nothing of groups, panels or tiles: quantize, sum in 64 bits, one fmaf,
 * round half to even, hold in 0..255. Outputs have to equal it bit for bit on every ISA. The engine's
 * input and output end or begin at a page that faults when touched.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { MOST_M = 27, MOST_WIDTH = 1100, MOST_LAYERS = 3 };

/* What a layer hands to the next is float or u8; what the oracle holds is wide enough for both. */
typedef struct {
    int n_layers;
    int64_t widths[MOST_LAYERS + 1];
    fnn_dense layers[MOST_LAYERS], pixel;
    float x[MOST_M * MOST_WIDTH], want[MOST_M * MOST_WIDTH];
    uint8_t pixels[MOST_M * MOST_WIDTH];
} problem;

static float held(float q) { return rintf(q > 0 ? (q < 255 ? q : 255) : 0); }

static float quantized(const fnn_dense *l, float x)
{
    return held(fmaf(x, (float)(1 / (double)l->input_scale), l->input_zero));
}

static const fnn_row *scalar_row(void)
{
    const fnn_row *row = NULL;
    fnn_select("scalar", "f32", &row);
    return row;
}

/* Whether the kernel gives u8 without going through floats. */
static int is_direct(const fnn_dense *l, const fnn_dense *next)
{
    const char *name = fnn_activations[l->activation].name;
    return next != NULL && (is_named(name, "identity") || (is_named(name, "relu") && next->input_zero == 0));
}

/* One row through all layers: q holds a layer's u8 inputs, `out` the last z. */
static void solve_row(const problem *p, const fnn_dense *first, const float *x, int is_u8, float *out)
{
    float q[MOST_WIDTH], y[MOST_WIDTH];
    int is_lost = 0;
    for (int64_t k = 0; k < p->widths[0]; k++) {
        q[k] = is_u8 ? x[k] : quantized(first, x[k]);
        is_lost |= isnan(x[k]);
    }
    for (int i = 0; i < p->n_layers; i++) {
        const fnn_dense *l = i == 0 ? first : &p->layers[i];
        const fnn_dense *next = i + 1 < p->n_layers ? &p->layers[i + 1] : NULL;
        for (int64_t n = 0; n < l->n_outputs; n++) {
            int64_t sum = 0;
            for (int64_t k = 0; k < l->n_inputs; k++)
                sum += (int64_t)q[k] * l->weight_i8[k * l->n_outputs + n];
            if (is_direct(l, next)) {
                const float scale = (float)((double)l->scale[n] / next->input_scale);
                const float offset = (float)((double)l->offset[n] / next->input_scale + next->input_zero);
                y[n] = held(fmaf((float)(int32_t)sum, scale, offset));
            } else {
                y[n] = fmaf((float)(int32_t)sum, l->scale[n], l->offset[n]) + 0.0f;
            }
        }
        if (next != NULL && !is_direct(l, next)) {
            fnn_activate(scalar_row(), l->activation, l->parameters, y, l->n_outputs);
            for (int64_t n = 0; n < l->n_outputs; n++) y[n] = quantized(next, y[n]);
        }
        memcpy(q, y, sizeof q);
    }
    for (int64_t n = 0; n < p->widths[p->n_layers]; n++) out[n] = is_lost ? NAN : q[n];
}

static fnn_dense make_layer(int64_t k, int64_t n, int which, float input_scale, float zero, uint64_t *seed)
{
    static const char *const names[] = {"relu", "identity", "tanh"};
    int8_t *w = malloc((size_t)(k * n));
    float *scale = malloc((size_t)n * 4), *offset = malloc((size_t)n * 4);
    if (w == NULL || scale == NULL || offset == NULL) exit(2);
    for (int64_t i = 0; i < k * n; i++) {
        const int64_t r = random_below(seed, 20); /* extremes often: where 16 bits would saturate */
        w[i] = (int8_t)(r == 0 ? 127 : r == 1 ? -127 : r == 2 ? 0 : random_below(seed, 255) - 127);
    }
    for (int64_t i = 0; i < n; i++) {
        scale[i] = input_scale * (0.01f + 0.001f * (float)random_below(seed, 9));
        offset[i] = random_float(seed);
    }
    return (fnn_dense){.n_inputs = k, .n_outputs = n, .format = "i8", .weight_i8 = w, .scale = scale,
                       .offset = offset, .input_scale = input_scale, .input_zero = zero,
                       .activation = activation_named(names[which % 3])};
}

static void free_layer(const fnn_dense *l)
{
    free((void *)l->weight_i8);
    free((void *)l->scale);
    free((void *)l->offset);
}

/* Layers of `widths`; `which` picks activations, zero points and what the rows are like. */
static void make_problem(problem *p, int which, uint64_t *seed)
{
    for (int i = 0; i < p->n_layers; i++) {
        const int before = which + i - 1;
        /* tanh gives -1..1: a zero point; relu none; identity one as well, now and then. */
        const float zero = i == 0 ? (which % 2 ? 77 : 0) : before % 3 == 0 && which % 5 ? 0 : 128;
        const float scale = i == 0 ? 0.01f : before % 3 == 2 ? 1 / 127.0f : 0.5f * (float)(1 + which % 7);
        p->layers[i] = make_layer(p->widths[i], p->widths[i + 1], which + i, scale, zero, seed);
    }
    p->pixel = make_layer(p->widths[0], p->widths[1], which, 1, 0, seed);
    for (int64_t i = 0; i < MOST_M * p->widths[0]; i++) {
        const uint64_t r = next_random(seed);
        p->pixels[i] = i / p->widths[0] % 4 != 3 && r & 3 ? 0 : r & 64 ? 255 : (uint8_t)(r >> 8);
        p->x[i] = random_float(seed) * (r & 128 ? 100.0f : 1.0f);
        if (r % 1009 == 0) p->x[i] = INFINITY;
        if (r % 2003 == 0) p->x[i] = NAN;
    }
}

typedef struct {
    problem *p;
    guarded in, out;
    uint64_t hash;
    long n_cases;
} grid;

static void check_rows(grid *g, const fnn_network *network, int m, int is_u8, int keep_zeros,
                       int is_apart, const char *isa)
{
    const problem *p = g->p;
    const int64_t k = p->widths[0], n = p->widths[p->n_layers], size = is_u8 ? 1 : 4;
    const int64_t column = is_apart ? -2 * size : size, row = k * size * (is_apart ? 2 : 1) + size * (m % 3);
    const int64_t span = (m - 1) * row + (k - 1) * (is_apart ? 2 : 1) * size + size;
    char *lowest = g->n_cases % 2 ? g->in.start : g->in.end - span;
    char *first = lowest + (is_apart ? (k - 1) * 2 * size : 0);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < k; j++)
            memcpy(first + i * row + j * column,
                   is_u8 ? (const void *)&p->pixels[i * k + j] : (const void *)&p->x[i * k + j], (size_t)size);
    float *out = (float *)(g->n_cases % 3 ? g->out.end - m * n * 4 : g->out.start);
    const fnn_call call = {.x = first, .dtype = is_u8 ? FNN_U8 : FNN_F32, .n_rows = m, .row_stride = row,
                           .column_stride = column, .output = FNN_LOGITS, .out = out, .n_threads = 1,
                           .keep_zeros = keep_zeros};
    memset(out, 0x55, (size_t)(m * n * 4));
    if (fnn_forward(network, &call) != FNN_OK) fail("%s: fnn_forward failed", isa);
    g->n_cases++;
    g->hash = hashed_floats(g->hash, out, m * n);
    for (int64_t i = 0; i < m * n; i++) {
        if (same_bits(out[i], p->want[i])) continue;
        fail("%s int8 %d layers, K=%ld N=%ld M=%d %s%s%s: row %ld output %ld is %a, wanted %a", isa,
             p->n_layers, (long)k, (long)n, m, is_u8 ? "uint8" : "float32", keep_zeros ? " zeros kept" : "",
             is_apart ? " columns apart" : "", (long)(i / n), (long)(i % n), (double)out[i], (double)p->want[i]);
        return;
    }
}

static void check_problem(grid *g, int which, const char *isa)
{
    static const int counts[] = {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 26, 27};
    problem *p = g->p;
    uint64_t seed = (uint64_t)which * 1000003 + (uint64_t)(p->widths[0] * 4099 + p->widths[1]);
    make_problem(p, which, &seed);
    fnn_network *network = create_network(p->layers, p->n_layers, &p->pixel, isa);
    for (int is_u8 = 0; is_u8 < 2; is_u8++) {
        for (int64_t i = 0; i < MOST_M; i++) {
            float row[MOST_WIDTH];
            for (int64_t k = 0; k < p->widths[0]; k++)
                row[k] = is_u8 ? p->pixels[i * p->widths[0] + k] : p->x[i * p->widths[0] + k];
            solve_row(p, is_u8 ? &p->pixel : &p->layers[0], row, is_u8,
                      p->want + i * p->widths[p->n_layers]);
        }
        for (int i = which % 3; i < 12; i += 3)
            check_rows(g, network, counts[i], is_u8, i % 2, (which + i) % 5 == 0, isa);
    }
    fnn_network_free(network);
    for (int i = 0; i < p->n_layers; i++) free_layer(&p->layers[i]);
    free_layer(&p->pixel);
}

/* Formats mixed, weights beyond L2 and more rows than a block has, beside plain C: where tiles of 16 and of
 * 12 rows meet, blocks are of 48. */
static void check_mixed(const char *isa)
{
    enum { WIDTH = 600, N_ROWS = 1100, N_OUT = 10 };
    uint64_t seed = 9;
    float *floats = malloc(WIDTH * WIDTH * 4), *x = malloc(N_ROWS * WIDTH * 4), *out[2], bias[WIDTH];
    for (int i = 0; i < 2; i++) out[i] = malloc(N_ROWS * N_OUT * 4);
    if (floats == NULL || x == NULL || out[0] == NULL || out[1] == NULL) exit(2);
    for (int i = 0; i < WIDTH * WIDTH; i++) floats[i] = random_float(&seed) / 16;
    for (int i = 0; i < WIDTH; i++) bias[i] = random_float(&seed);
    for (int i = 0; i < N_ROWS * WIDTH; i++) x[i] = next_random(&seed) & 3 ? 0 : random_float(&seed) * 100;
    const fnn_dense layers[] = {
        make_layer(WIDTH, WIDTH, 0, 0.5f, 3, &seed),
        {.n_inputs = WIDTH, .n_outputs = WIDTH, .weight = floats, .stride_input = WIDTH, .stride_output = 1,
         .bias = bias, .activation = activation_named("relu")},
        make_layer(WIDTH, N_OUT, 1, 0.5f, 0, &seed),
    };
    const char *const isas[] = {"scalar", isa};
    for (int i = 0; i < 2; i++) {
        fnn_network *network = create_network(layers, 3, NULL, isas[i]);
        const fnn_call call = {.x = x, .dtype = FNN_F32, .n_rows = N_ROWS, .row_stride = WIDTH * 4,
                               .column_stride = 4, .output = FNN_LOGITS, .out = out[i], .n_threads = 1};
        if (fnn_forward(network, &call) != FNN_OK) fail("%s: fnn_forward failed", isas[i]);
        fnn_network_free(network);
    }
    for (int i = 0; i < N_ROWS * N_OUT; i++) {
        if (same_bits(out[0][i], out[1][i])) continue;
        fail("%s: of mixed formats, row %d output %d is %a, wanted %a", isa, i / N_OUT, i % N_OUT,
             (double)out[1][i], (double)out[0][i]);
        break;
    }
    free_layer(&layers[0]);
    free_layer(&layers[2]);
    free(floats);
    free(x);
    for (int i = 0; i < 2; i++) free(out[i]);
}

void check_int8(const options *o, const char *isa)
{
    if (!is_named(isa, "scalar")) check_mixed(isa);
    static const int64_t wide[] = {31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 193, 255, 257, 513, 784, 1099};
    grid g = {.p = malloc(sizeof(problem)), .in = guarded_allocate((size_t)1 << 19),
              .out = guarded_allocate((size_t)MOST_M * MOST_WIDTH * 4), .hash = HASH_START};
    if (g.p == NULL) exit(2);
    int which = 0;
    for (int64_t k = 1; k <= 70; k++) {
        for (int64_t n = 1; n <= 70; n += o->is_quick ? 23 : 3, which++) {
            g.p->n_layers = 1 + which % 3;
            memcpy(g.p->widths, ((int64_t[]){k, n, 1 + which % 37, 1 + which % 11}), 32);
            check_problem(&g, which, isa);
        }
    }
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 16; j += o->is_quick ? 7 : 1, which++) {
            g.p->n_layers = 1 + which % 3;
            memcpy(g.p->widths, ((int64_t[]){wide[i], wide[j], wide[(i + j) % 16], 10}), 32);
            check_problem(&g, which, isa);
        }
    }
    report_group("int8", isa, g.hash, g.n_cases);
    guarded_free(g.in);
    guarded_free(g.out);
    free(g.p);
}
