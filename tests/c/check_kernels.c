/* The kernel grid: one layer, every shape of tile and edge, against a chain of fmaf written here.
 *
 * Invariant: the oracle knows nothing of tiles, panels or vectors: start at the bias, fuse x[k] w[k]
 * in ascending k, add +0. Outputs have to equal it bit for bit, and it has to be close to float64.
 * The engine's input and output end or begin at a page that faults when touched.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { MOST_M = 16, MOST_N = 513, MOST_K = 4099 };

/* One layer with MOST_M rows, and what they are to give. */
typedef struct {
    int64_t n, k;
    float *weight, bias[MOST_N];     /* weight[k, n] by the strides in `dense` */
    float x[MOST_M * MOST_K];
    uint8_t pixels[MOST_M * MOST_K];
    float z[2][MOST_M * MOST_N];     /* of x, of pixels */
    fnn_dense dense;
} problem;

typedef fnn_status forward_fn(const fnn_network *, const fnn_call *, const fnn_dense *);

/* ---- problems -------------------------------------------------------------------------------- */

enum { DENSE, HALF_ZERO, MINUS_ZERO, SUBNORMAL, HAS_NAN, HAS_INFINITY, ALL_ZERO, TINY, N_KINDS };

/* Rows of every kind side by side; a third of the columns is zero in all of them but where NaN or
 * infinity has to go. */
static void fill_rows(problem *p, uint64_t *seed)
{
    for (int i = 0; i < MOST_M; i++) {
        const int kind = (int)((i + p->n + p->k) % N_KINDS);
        for (int64_t j = 0; j < p->k; j++) {
            const uint64_t r = next_random(seed);
            float x = random_float(seed);
            if (kind == HALF_ZERO && (r & 1)) x = 0;
            if (kind == MINUS_ZERO && (r & 3)) x = -0.0f;
            if (kind == SUBNORMAL) x = float_of((uint32_t)(r & 0x807fffff));
            if (kind == ALL_ZERO) x = 0;
            if (kind == TINY) x *= 0x1p-120f;
            if ((j * 7 + p->n) % 3 == 0) x = r & 4 ? 0.0f : -0.0f;
            p->x[i * p->k + j] = x;
            p->pixels[i * p->k + j] = (j * 7 + p->n) % 3 == 0 || (r & 8) ? 0 : (uint8_t)(r >> 8);
        }
        if (p->k > 0 && kind == HAS_NAN) p->x[i * p->k + random_below(seed, p->k)] = NAN;
        if (p->k > 0 && kind == HAS_INFINITY)
            p->x[i * p->k + random_below(seed, p->k)] = p->n & 1 ? INFINITY : -INFINITY;
    }
}

/* The chain; the same in float64, and the sum of magnitudes that bounds their difference. */
static float chain(const fnn_dense *l, int64_t n, const float *x, double *exact, double *magnitude)
{
    const float *w = l->weight + n * l->stride_output;
    float sum = l->bias[n];
    *exact = sum;
    *magnitude = fabs(*exact);
    for (int64_t k = 0; k < l->n_inputs; k++, w += l->stride_input) {
        sum = fmaf(x[k], *w, sum);
        *exact += (double)x[k] * *w;
        *magnitude += fabs((double)x[k] * *w);
    }
    return sum + 0.0f;
}

static void solve(problem *p, int is_u8)
{
    float row[MOST_K];
    for (int i = 0; i < MOST_M; i++) {
        for (int64_t k = 0; k < p->k; k++)
            row[k] = is_u8 ? p->pixels[i * p->k + k] : p->x[i * p->k + k];
        for (int64_t n = 0; n < p->n; n++) {
            double exact, magnitude;
            const float z = chain(&p->dense, n, row, &exact, &magnitude);
            p->z[is_u8][i * p->n + n] = z;
            if (!isfinite(exact)) continue;
            const double bound = (double)(p->k + 2) * (0x1p-24 * magnitude + 0x1p-150);
            if (!(fabs(z - exact) <= bound))
                fail("N=%ld K=%ld row %d output %ld: %a, float64 has %a, bound %g", (long)p->n,
                     (long)p->k, i, (long)n, (double)z, exact, bound);
        }
    }
}

static void make_problem(problem *p, int64_t n, int64_t k)
{
    uint64_t seed = (uint64_t)n << 20 | (uint64_t)k;
    const int is_transposed = (n + k) & 1;
    p->n = n;
    p->k = k;
    p->dense = (fnn_dense){.n_inputs = k, .n_outputs = n, .weight = p->weight, .bias = p->bias,
                           .stride_input = is_transposed ? 1 : n,
                           .stride_output = is_transposed ? k : 1,
                           .activation = activation_named("relu")};
    for (int64_t i = 0; i < n * k; i++)
        p->weight[i] = random_below(&seed, 16) == 0 ? 0.0f : random_float(&seed);
    for (int64_t i = 0; i < n; i++) {
        const int64_t r = random_below(&seed, 8);
        p->bias[i] = r == 0 ? 0.0f : r == 1 ? -0.0f : random_float(&seed);
    }
    fill_rows(p, &seed);
    solve(p, 0);
    solve(p, 1);
}

/* ---- layouts: where the caller's arrays lie ---------------------------------------------------- */

typedef struct { int64_t row, column; int at_end; int64_t offset; } layout;

/* `which` in turn: contiguous, padded rows, columns apart, and each reversed; at the page behind or,
 * `offset` bytes on, the page before. */
static layout choose_layout(uint64_t which, int64_t k, int64_t size)
{
    static const int8_t row_signs[] = {1, 1, 1, 1, -1, 1, -1}, gaps[] = {1, 1, 1, 2, 1, -1, -3};
    static const int8_t pads[] = {0, 0, 3, 1, 5, 0, 2};
    const int i = (int)(which % 7);
    const int64_t column = gaps[i] * size;
    const int64_t length = (column < 0 ? -column : column) * k + pads[i] * size;
    return (layout){row_signs[i] * length, column, which % 2 == 0,
                    (int64_t)(which / 14 % 64) / size * size};
}

/* The rows [m, k] from `from` into `area` by `l`; the address of the first element. */
static char *place(guarded area, layout l, const char *from, int64_t m, int64_t k, int64_t size)
{
    int64_t lowest = 0, highest = 0;
    if (m > 0 && k > 0) {
        lowest += (l.row < 0 ? (m - 1) * l.row : 0) + (l.column < 0 ? (k - 1) * l.column : 0);
        highest += (l.row > 0 ? (m - 1) * l.row : 0) + (l.column > 0 ? (k - 1) * l.column : 0) + size;
    }
    char *first = l.at_end ? area.end - highest : area.start + l.offset - lowest;
    for (int64_t i = 0; i < m; i++) {
        char *to = first + i * l.row;
        if (l.column == size) {
            memcpy(to, from + i * k * size, (size_t)(k * size));
        } else {
            for (int64_t j = 0; j < k; j++)
                memcpy(to + j * l.column, from + (i * k + j) * size, (size_t)size);
        }
    }
    return first;
}

static int holds(layout l, const char *first, const char *want, int64_t m, int64_t k, int64_t size)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < k; j++)
            if (memcmp(first + i * l.row + j * l.column, want + (i * k + j) * size, (size_t)size))
                return 0;
    return 1;
}

/* ---- calls ------------------------------------------------------------------------------------- */

typedef struct {
    problem *p;
    guarded in, out;
    forward_fn *forward;
    uint64_t hash[2];  /* float32, uint8 */
    long n_cases[2];
    uint64_t turn;     /* picks layouts */
} grid;

static void check_call(grid *g, const fnn_network *network, int64_t m, int is_u8, int is_relu,
                       int keep_zeros, const char *isa)
{
    const problem *p = g->p;
    const int64_t size = is_u8 ? 1 : 4;
    const char *from = is_u8 ? (const char *)p->pixels : (const char *)p->x;
    const layout l = choose_layout(g->turn, p->k, size);
    const char *x = place(g->in, l, from, m, p->k, size);
    float *out = (float *)(g->turn / 2 % 2 ? g->out.start : g->out.end - m * p->n * 4);
    const fnn_call call = {.x = x, .dtype = is_u8 ? FNN_U8 : FNN_F32, .n_rows = m,
                           .row_stride = l.row, .column_stride = l.column,
                           .output = is_relu ? FNN_OUTPUTS : FNN_LOGITS, .out = out,
                           .n_threads = 1, .keep_zeros = keep_zeros};
    memset(out, 0x55, (size_t)(m * p->n * 4));
    const fnn_status status = g->forward(network, &call, &p->dense);
    g->n_cases[is_u8]++;
    g->hash[is_u8] = hashed_floats(g->hash[is_u8], out, m * p->n);
    if (status != FNN_OK) fail("%s: fnn_forward returned %d", isa, status);
    for (int64_t i = 0; i < m * p->n; i++) {
        float want = p->z[is_u8][i];
        if (is_relu && want <= 0) want = 0;
        if (same_bits(out[i], want)) continue;
        fail("%s M=%ld N=%ld K=%ld %s%s%s layout %d: row %ld output %ld is %a, the chain gives %a",
             isa, (long)m, (long)p->n, (long)p->k, is_u8 ? "uint8" : "float32",
             is_relu ? " relu" : "", keep_zeros ? " zeros kept" : "", (int)(g->turn % 14),
             (long)(i / p->n), (long)(i % p->n), (double)out[i], (double)want);
        break;
    }
    if (g->turn % 16 == 0 && !holds(l, x, from, m, p->k, size))
        fail("%s M=%ld N=%ld K=%ld: the input was written to", isa, (long)m, (long)p->n, (long)p->k);
    g->turn++;
}

/* One N and K, for each M from `m` on, in steps. */
static void check_shape(grid *g, int64_t n, int64_t k, int64_t m, int64_t step, const char *isa)
{
    make_problem(g->p, n, k);
    fnn_network *network = create_network(&g->p->dense, 1, NULL, isa);
    for (; m <= MOST_M; m += step) {
        check_call(g, network, m, 0, 1, 0, isa);
        check_call(g, network, m, 0, 0, 1, isa);
        check_call(g, network, m, 1, 1, 1, isa);
        check_call(g, network, m, 1, 0, 0, isa);
    }
    fnn_network_free(network);
}

static grid new_grid(forward_fn *forward)
{
    grid g = {.p = malloc(sizeof *g.p), .in = guarded_allocate((size_t)1 << 20),
              .out = guarded_allocate(MOST_M * MOST_N * 4), .forward = forward,
              .hash = {HASH_START, HASH_START}};
    if (g.p != NULL) g.p->weight = malloc((size_t)MOST_N * MOST_K * sizeof(float));
    if (g.p == NULL || g.p->weight == NULL) exit(2);
    return g;
}

static void end_grid(grid *g)
{
    guarded_free(g->in);
    guarded_free(g->out);
    free(g->p->weight);
    free(g->p);
}

static fnn_status honest(const fnn_network *network, const fnn_call *call, const fnn_dense *unused)
{
    (void)unused;
    return fnn_forward(network, call);
}

void check_kernels(const options *o, const char *isa)
{
    static const int64_t wide[] = {63, 64, 65, 127, 128, 129, 255, 256, 257, 287, 289, 511, 512, 513};
    static const int64_t deep[] = {1, 3, 4, 5, 64, 127, 784};
    static const int64_t sampled[] = {1, 4, 7, 16, 33, 64, 100, 129}, depths[] = {0, 1024, 4099};
    grid g = new_grid(honest);
    const int64_t skip = o->is_quick ? 37 : 1;
    for (int64_t n = 1; n <= 40; n++)
        for (int64_t k = 1; k <= 70; k++)
            if ((n * 71 + k) % skip == 0) check_shape(&g, n, k, 1, 1, isa);
    for (int i = 0; i < 14; i++)
        for (int j = 0; j < 7; j++)
            if ((i + j) % (o->is_quick ? 7 : 1) == 0) check_shape(&g, wide[i], deep[j], 1, 1, isa);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 3; j++)
            if (!o->is_quick || i == 4) check_shape(&g, sampled[i], depths[j], 1 + (i + j) % 3, 4, isa);
    report_group("kernels-f32", isa, g.hash[0], g.n_cases[0]);
    report_group("kernels-u8", isa, g.hash[1], g.n_cases[1]);
    end_grid(&g);
}

/* ---- the planted error ------------------------------------------------------------------------- */

/* What a kernel with K in two halves would give: as accurate as the chain, but other bits. */
static fnn_status split_k(const fnn_network *network, const fnn_call *call, const fnn_dense *l)
{
    const fnn_status status = fnn_forward(network, call);
    for (int64_t i = 0; i < call->n_rows * l->n_outputs; i++) {
        const char *x = (const char *)call->x + i / l->n_outputs * call->row_stride;
        const float *w = l->weight + i % l->n_outputs * l->stride_output;
        float part[2] = {l->bias[i % l->n_outputs], 0};
        for (int64_t k = 0; k < l->n_inputs; k++) {
            const char *xk = x + k * call->column_stride;
            const float a = call->dtype == FNN_U8 ? *(const uint8_t *)xk : *(const float *)xk;
            float *sum = &part[k >= l->n_inputs / 2];
            *sum = fmaf(a, w[k * l->stride_input], *sum);
        }
        const float z = part[0] + part[1];
        ((float *)call->out)[i] = call->output == FNN_OUTPUTS && z <= 0 ? 0 : z;
    }
    return status;
}

int check_planted(void)
{
    grid honest_grid = new_grid(honest), planted_grid = new_grid(split_k);
    check_shape(&honest_grid, 10, 64, 1, 1, "scalar");
    const long before = n_failures();
    check_shape(&planted_grid, 10, 64, 1, 1, "scalar");
    const int is_caught = before == 0 && n_failures() > 0 &&
                          honest_grid.hash[0] != planted_grid.hash[0];
    printf("a kernel that splits K: %ld of %ld calls convicted, hash %s\n", n_failures() - before,
           planted_grid.n_cases[0] + planted_grid.n_cases[1],
           honest_grid.hash[0] != planted_grid.hash[0] ? "differs" : "is the same");
    end_grid(&honest_grid);
    end_grid(&planted_grid);
    return is_caught;
}
