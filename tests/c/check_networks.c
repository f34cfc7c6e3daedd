/* Whole networks: random ones against a chain of fmaf row by row; batches, threads, floating-point
 * mode, labels, ranks, softmax.
 *
 * Invariant: what is expected of a row is computed from that row alone, so every comparison also
 * says that batch, position, threads and skipping change nothing. Elementwise activations come from
 * the scalar kernel (check_activations.c judges that one).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
enum { FLUSHES = 0x8040 }; /* flush to zero, denormals are zero */
static uint64_t fp_mode(void) { return _mm_getcsr() & ~0x3fu; }
static void set_fp_mode(uint64_t mode) { _mm_setcsr((unsigned)mode); }
#else
enum { FLUSHES = 1 << 24 };
static uint64_t fp_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_fp_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#endif

enum { MOST_LAYERS = 4, MOST_WIDTH = 320, MOST_ROWS = 260 };

typedef struct {
    int n_layers, has_pixel;
    fnn_dense layers[MOST_LAYERS], pixel;
    float weights[MOST_LAYERS + 1][MOST_WIDTH * MOST_WIDTH], biases[MOST_LAYERS + 1][MOST_WIDTH];
    int64_t n_rows;
    float x[MOST_ROWS * MOST_WIDTH];
    uint8_t pixels[MOST_ROWS * MOST_WIDTH];
    float z[2][MOST_ROWS * MOST_WIDTH], y[2][MOST_ROWS * MOST_WIDTH]; /* last layer; y not softmax */
} problem;

/* ---- problems ---------------------------------------------------------------------------------- */

static void fill_layer(problem *p, int at, fnn_dense *l, int64_t k, int64_t n, const char *activation,
                       uint64_t *seed)
{
    *l = (fnn_dense){.n_inputs = k, .n_outputs = n, .weight = p->weights[at], .bias = p->biases[at],
                     .stride_input = n, .stride_output = 1,
                     .activation = activation_named(activation)};
    for (int64_t i = 0; i < k * n; i++)
        p->weights[at][i] = random_below(seed, 8) ? random_float(seed) * 0.5f : 0.0f;
    for (int64_t i = 0; i < n; i++) p->biases[at][i] = random_float(seed);
    for (int j = 0; j < 2; j++) { /* of clip too, which has no defaults */
        const float usual = fnn_activations[l->activation].defaults[j];
        l->parameters[j] = isnan(usual) ? (float)j - 0.5f : usual;
    }
}

/* n[0] inputs; the layers' outputs follow. */
static void make_problem(problem *p, int n_layers, const int64_t *n, const char *const *activations,
                         int64_t n_rows, int has_pixel, uint64_t *seed)
{
    p->n_layers = n_layers;
    p->has_pixel = has_pixel;
    p->n_rows = n_rows;
    for (int i = 0; i < n_layers; i++)
        fill_layer(p, i, &p->layers[i], n[i], n[i + 1], activations[i], seed);
    if (has_pixel) {
        fill_layer(p, MOST_LAYERS, &p->pixel, n[0], n[1], activations[0], seed);
        for (int64_t i = 0; i < n[0] * n[1]; i++) p->weights[MOST_LAYERS][i] *= 0x1p-7f;
    }
    for (int64_t i = 0; i < n_rows; i++) {
        const int64_t kind = random_below(seed, 12);
        for (int64_t j = 0; j < n[0]; j++) {
            const uint64_t r = next_random(seed);
            float x = random_float(seed);
            if (kind == 0 || (r & 3) == 0) x = 0;
            if (kind == 1 && (r & 4)) x = -0.0f;
            if (kind == 2) x = float_of((uint32_t)(r >> 32 & 0x807fffff));
            p->x[i * n[0] + j] = x;
            p->pixels[i * n[0] + j] = r & 24 ? 0 : (uint8_t)(r >> 32);
        }
        if (kind == 3) p->x[i * n[0] + random_below(seed, n[0])] = NAN;
        if (kind == 4) p->x[i * n[0] + random_below(seed, n[0])] = -INFINITY;
    }
}

static void solve(problem *p, int is_u8)
{
    const fnn_row *scalar;
    float from[MOST_WIDTH], to[MOST_WIDTH];
    const int64_t n_inputs = p->layers[0].n_inputs;
    fnn_select("scalar", "f32", &scalar);
    for (int64_t row = 0; row < p->n_rows; row++) {
        for (int64_t k = 0; k < n_inputs; k++)
            from[k] = is_u8 ? p->pixels[row * n_inputs + k] : p->x[row * n_inputs + k];
        for (int i = 0; i < p->n_layers; i++) {
            const fnn_dense *l = i == 0 && is_u8 && p->has_pixel ? &p->pixel : &p->layers[i];
            for (int64_t n = 0; n < l->n_outputs; n++) {
                float sum = l->bias[n];
                for (int64_t k = 0; k < l->n_inputs; k++)
                    sum = fmaf(from[k], l->weight[k * l->stride_input + n], sum);
                to[n] = sum + 0.0f;
            }
            if (i + 1 == p->n_layers)
                memcpy(p->z[is_u8] + row * l->n_outputs, to, (size_t)l->n_outputs * 4);
            fnn_activate(scalar, l->activation, l->parameters, to, l->n_outputs);
            if (i + 1 == p->n_layers)
                memcpy(p->y[is_u8] + row * l->n_outputs, to, (size_t)l->n_outputs * 4);
            memcpy(from, to, sizeof from);
        }
    }
}

static fnn_network *network_of(const problem *p, const char *isa)
{
    return create_network(p->layers, p->n_layers, p->has_pixel ? &p->pixel : NULL, isa);
}

static int64_t n_outputs(const problem *p) { return p->layers[p->n_layers - 1].n_outputs; }
static int last(const problem *p) { return p->layers[p->n_layers - 1].activation; }

/* The call for all rows of a problem. */
static fnn_call call_of(const problem *p, int is_u8, fnn_output output, void *out)
{
    const int64_t size = is_u8 ? 1 : 4;
    return (fnn_call){.x = is_u8 ? (const void *)p->pixels : (const void *)p->x,
                      .dtype = is_u8 ? FNN_U8 : FNN_F32, .n_rows = p->n_rows,
                      .row_stride = p->layers[0].n_inputs * size, .column_stride = size,
                      .output = output, .out = out, .n_threads = 1};
}

static void forward(const fnn_network *network, const fnn_call *call)
{
    const fnn_status status = fnn_forward(network, call);
    if (status != FNN_OK) fail("fnn_forward returned %d", status);
}

static void check_same(const char *what, const char *isa, const float *got, const float *want,
                       int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (same_bits(got[i], want[i])) continue;
        fail("%s on %s: value %ld of %ld is %a, want %a", what, isa, (long)i, (long)n,
             (double)got[i], (double)want[i]);
        return;
    }
}

/* ---- epilogues, from z and y ------------------------------------------------------------------- */

static int64_t naive_argmax(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (isnan(x[i])) return i;
    int64_t best = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* (4 + |z - max|) 2^-23, relative for softmax; of a float32 that underflows, half its spacing too. */
static void check_softmax(const float *z, const float *got, int64_t n, int is_log, const char *isa)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(z[i])) return;
        if (z[i] > largest) largest = z[i];
    }
    for (int64_t i = 0; i < n; i++) sum += exp(z[i] - largest);
    for (int64_t i = 0; i < n; i++) {
        const double below = z[i] - largest;
        const double exact = is_log ? below - log(sum) : exp(below) / sum;
        const double bound = (4 - below) * 0x1p-23 * (is_log ? 1 : exact) + 0x1p-149;
        if (!(fabs(got[i] - exact) <= bound))
            fail("%s on %s: %a at %g below the largest, exact %a", is_log ? "log_softmax" : "softmax",
                 isa, (double)got[i], -below, exact);
    }
}

/* Every kind of output. Returns their hash. */
static uint64_t check_outputs(const problem *p, const fnn_network *network, int is_u8, int n_threads,
                              int keep_zeros, const char *isa)
{
    static float out[MOST_ROWS * MOST_WIDTH], scores[MOST_ROWS * MOST_WIDTH];
    static int64_t labels[MOST_ROWS * MOST_WIDTH];
    const int64_t n = n_outputs(p), total = p->n_rows * n;
    const fnn_activation *a = &fnn_activations[last(p)];
    const float *z = p->z[is_u8], *key = a->label_by_z ? z : p->y[is_u8];
    uint64_t hash = HASH_START;
    fnn_call call = call_of(p, is_u8, FNN_LOGITS, out);
    call.n_threads = n_threads;
    call.keep_zeros = keep_zeros;
    forward(network, &call);
    check_same("logits", isa, out, z, total);

    call.output = FNN_OUTPUTS;
    forward(network, &call);
    hash = hashed_floats(hash, out, total);
    if (!a->last_layer_only) {
        check_same(a->name, isa, out, p->y[is_u8], total);
    } else {
        for (int64_t i = 0; i < p->n_rows; i++)
            check_softmax(z + i * n, out + i * n, n, is_named(a->name, "log_softmax"), isa);
    }

    call.output = FNN_LABELS;
    call.out = labels;
    forward(network, &call);
    for (int64_t i = 0; i < p->n_rows; i++) {
        const int64_t want = n == 1 ? z[i] > 0 : naive_argmax(key + i * n, n);
        hash = hashed(hash, (uint32_t)labels[i]);
        if (labels[i] != want)
            fail("label on %s: row %ld has %ld, want %ld", isa, (long)i, (long)labels[i], (long)want);
    }

    if (n > 1) {
        call.output = FNN_TOP_K;
        call.k = n < 5 ? n : 5;
        call.scores = scores;
        forward(network, &call);
        for (int64_t i = 0; i < p->n_rows * call.k; i++) {
            const float *row = key + i / call.k * n;
            const int64_t *mine = labels + i / call.k * call.k, rank = i % call.k;
            int64_t n_before = 0; /* of the values that go before this one */
            for (int64_t j = 0; j < n; j++) {
                const float own = row[mine[rank]];
                const int is_equal = row[j] == own || (isnan(row[j]) && isnan(own));
                n_before += row[j] > own || (isnan(row[j]) && !isnan(own)) ||
                            (is_equal && j < mine[rank]);
            }
            if (n_before != rank)
                fail("top_k on %s: rank %ld of row %ld is label %ld, %ld go before", isa, (long)rank,
                     (long)(i / call.k), (long)mine[rank], (long)n_before);
            if (!same_bits(scores[i], out[i / call.k * n + mine[rank]]))
                fail("top_k on %s: score %a is not the output", isa, (double)scores[i]);
        }
    }
    return hash;
}

/* ---- groups ------------------------------------------------------------------------------------ */

static void check_random(const options *o, problem *p, const char *isa)
{
    uint64_t seed = 1, hash = HASH_START;
    long n_cases = 0;
    for (int trial = 0; trial < (o->is_quick ? 40 : 400); trial++) {
        int64_t n[MOST_LAYERS + 1];
        const char *activations[MOST_LAYERS];
        const int n_layers = 1 + (int)random_below(&seed, MOST_LAYERS);
        for (int i = 0; i <= n_layers; i++)
            n[i] = 1 + random_below(&seed, random_below(&seed, 3) ? 40 : 150);
        for (int i = 0; i < n_layers; i++) {
            int a;
            do {
                a = (int)random_below(&seed, fnn_n_activations);
            } while (i + 1 < n_layers && fnn_activations[a].last_layer_only);
            activations[i] = random_below(&seed, 3) ? fnn_activations[a].name
                                                    : i + 1 < n_layers ? "relu" : "softmax";
        }
        make_problem(p, n_layers, n, activations, 1 + random_below(&seed, 40), trial % 2, &seed);
        fnn_network *network = network_of(p, isa);
        for (int is_u8 = 0; is_u8 < 2; is_u8++) {
            uint64_t hashes[2];
            solve(p, is_u8);
            for (int keep = 0; keep < 2; keep++)
                hashes[keep] = check_outputs(p, network, is_u8, 1, keep, isa);
            if (hashes[0] != hashes[1]) fail("skipping zeros changes bits on %s", isa);
            hash = hashed(hashed(hash, (uint32_t)hashes[0]), (uint32_t)(hashes[0] >> 32));
            n_cases++;
        }
        fnn_network_free(network);
    }
    report_group("networks", isa, hash, n_cases);
}

/* Batches of 1..257 of the same rows. */
static void check_batches(const options *o, problem *p, const char *isa)
{
    static const char *const activations[] = {"relu", "gelu", "identity"};
    static const int64_t n[] = {64, 48, 20, 10};
    static float out[MOST_ROWS * MOST_WIDTH];
    uint64_t seed = 2;
    long n_cases = 0;
    make_problem(p, 3, n, activations, 257, 0, &seed);
    fnn_network *network = network_of(p, isa);
    for (int is_u8 = 0; is_u8 < 2; is_u8++) {
        solve(p, is_u8);
        for (int64_t n_rows = 1; n_rows <= 257; n_rows += o->is_quick ? 51 : 1) {
            fnn_call call = call_of(p, is_u8, FNN_OUTPUTS, out);
            const int64_t first = 257 - n_rows; /* rows change their place in the batch */
            call.n_rows = n_rows;
            call.x = (const char *)call.x + first * call.row_stride;
            forward(network, &call);
            check_same("batch", isa, out, p->y[is_u8] + first * 10, n_rows * 10);
            n_cases++;
        }
    }
    fnn_network_free(network);
    report_group("batches", isa, hashed_floats(HASH_START, out, 257 * 10), n_cases);
}

/* Threads 1..8, and a caller that flushes subnormals: its mode is neither used nor lost, nor do pool
 * threads, who inherit it when the call with the most threads yet starts them, compute in it. */
static void check_threads(problem *p, const char *isa)
{
    static const char *const activations[] = {"relu", "relu", "softmax"};
    static const int64_t n[] = {100, 310, 310, 10}; /* worth splitting: see estimate_ns */
    static float out[MOST_ROWS * MOST_WIDTH];
    uint64_t seed = 3;
    long n_cases = 0;
    int64_t most_threads = 0;
    make_problem(p, 3, n, activations, MOST_ROWS, 0, &seed);
    /* The first rows give z that are subnormal before the bias, and labels that hang on it. */
    for (int i = 0; i < 4 * 100; i++) p->x[i] = float_of((uint32_t)(next_random(&seed) & 0x807fffff));
    for (int i = 0; i < 310; i += 2) p->biases[0][i] = 0;
    solve(p, 0);
    fnn_network *network = network_of(p, isa);
    const uint64_t before = fp_mode();
    for (int flushes = 1; flushes >= 0; flushes--) {
        for (int n_threads = 8; n_threads >= 1; n_threads--) {
            fnn_work work;
            fnn_call call = call_of(p, 0, FNN_LOGITS, out);
            call.n_threads = n_threads;
            call.work = &work;
            set_fp_mode(before | (flushes ? FLUSHES : 0));
            const uint64_t asked = fp_mode();
            const fnn_status status = fnn_forward(network, &call);
            if (fp_mode() != asked) fail("floating-point mode on %s: not restored", isa);
            set_fp_mode(before);
            if (status != FNN_OK) fail("threads on %s: status %d", isa, status);
            check_same("threads", isa, out, p->z[0], MOST_ROWS * 10);
            if (work.n_threads > most_threads) most_threads = work.n_threads;
            if (work.n_threads > n_threads || work.n_threads < 1)
                fail("%ld threads worked, %d were allowed", (long)work.n_threads, n_threads);
            n_cases++;
        }
    }
    const uint64_t hash = check_outputs(p, network, 0, 8, 0, isa);
    for (int attempt = 0; attempt < 1000 && most_threads < 2; attempt++) { /* the CPUs may be busy */
        fnn_work work;
        fnn_call call = call_of(p, 0, FNN_LOGITS, out);
        call.n_threads = 8;
        call.work = &work;
        forward(network, &call);
        most_threads = work.n_threads;
    }
    if (most_threads < 2) fail("threads on %s: never did two work on one call", isa);
    fnn_network_free(network);
    report_group("threads", isa, hash, n_cases);
}

void check_networks(const options *o, const char *isa)
{
    problem *p = malloc(sizeof *p);
    if (p == NULL) exit(2);
    check_threads(p, isa);
    check_random(o, p, isa);
    check_batches(o, p, isa);
    free(p);
}
