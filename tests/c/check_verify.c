/* Self-verification and packing: sound kernels pass, broken ones are caught, and it costs little.
 *
 * Invariant: a broken kernel is a sound row of the table with one of its functions replaced, each by a
 * fault that real ones have had; it must be convicted on every shape here that lets the fault show.
 * Packing is compared with the plain loop, byte by byte.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"
#include "kernel.h"

enum { MOST_LAYERS = 260, MOST_FAULTS = 16 };

/* ---- packed networks --------------------------------------------------------------------------- */

/* What fnn_network_create makes of layers, as far as fnn_verify looks. */
typedef struct {
    int n;
    fnn_dense dense[MOST_LAYERS];
    fnn_packed packed[MOST_LAYERS];
    void *memory[MOST_LAYERS * 8];
    int n_memory;
} network;

static void *keep(network *net, size_t n_bytes)
{
    void *memory;
    if (posix_memalign(&memory, 64, n_bytes + 64) != 0) exit(2);
    return net->memory[net->n_memory++] = memory;
}

static void forget(network *net)
{
    while (net->n_memory > 0) free(net->memory[--net->n_memory]);
    net->n = 0;
}

static float *random_floats(network *net, int64_t n, int64_t n_padded, float scale, uint64_t *seed)
{
    float *x = keep(net, (size_t)n_padded * 4);
    for (int64_t i = 0; i < n_padded; i++) x[i] = i < n ? random_float(seed) * scale : 0;
    return x;
}

/* A layer of k inputs and n outputs, packed for `row`; i8 gives u8 as well. */
static void append(network *net, const fnn_row *row, int64_t k, int64_t n, const char *activation,
                   uint64_t *seed)
{
    fnn_dense *d = &net->dense[net->n];
    const int64_t n_padded = fnn_panels(n, row->nr) * row->nr;
    *d = (fnn_dense){.n_inputs = k, .n_outputs = n, .stride_input = n, .stride_output = 1,
                     .activation = activation_named(activation), .parameters = {1, 1}, .format = row->format,
                     .input_scale = 1, .input_zero = 0};
    int8_t *bytes = keep(net, (size_t)(k * n));
    for (int64_t i = 0; i < k * n; i++) { /* extremes often: where 16 bits would saturate */
        const int64_t r = random_below(seed, 8);
        bytes[i] = (int8_t)(r == 0 ? 127 : r == 1 ? -127 : random_below(seed, 255) - 127);
    }
    d->weight_i8 = bytes;
    d->weight = random_floats(net, k * n, k * n, 1, seed);
    void *w = keep(net, (size_t)(n_padded * fnn_groups(k, row->kr) * row->kw));
    fnn_pack(row, d, w);
    net->packed[net->n++] = (fnn_packed){.row = row, .from = d, .w = w, .inverse = 1};
    fnn_packed *p = &net->packed[net->n - 1];
    d->bias = p->bias = random_floats(net, n, n_padded, 1, seed);
    if (!fnn_is_i8(row)) return;
    d->scale = p->scale = random_floats(net, n, n_padded, 1, seed);
    p->bias_u8 = random_floats(net, n, n_padded, 100, seed);
    p->scale_u8 = random_floats(net, n, n_padded, 0.01f, seed);
}

static const fnn_row *best_row(const char *isa, const char *format)
{
    const fnn_row *row;
    if (fnn_select(isa, format, &row) != FNN_OK) exit(2);
    return row;
}

/* ---- faults ------------------------------------------------------------------------------------ */

static const fnn_row *honest; /* whose functions the faulty ones call */

static void nudge(float *x) { *x = nextafterf(*x, INFINITY); }
static float *y_of(const fnn_tile *t, int i, int64_t n) { return (float *)((char *)t->y + i * t->ldy) + n; }

/* A result off by the last bit, of tiles of the most rows alone. */
static void off_by_an_ulp(const fnn_tile *t)
{
    honest->gemm(t);
    if (t->m == honest->mr && t->finish != FNN_TO_U8) nudge(y_of(t, t->m - 1, t->n - 1));
}

static void forgets_the_last_group(const fnn_tile *t)
{
    fnn_tile shorter = *t;
    shorter.n_active -= t->n_active > 0;
    honest->gemm(&shorter);
}

/* Two chains of every second group and their sum: as accurate, but other bits. */
static void splits_k(const fnn_tile *t)
{
    static uint32_t list[2][4096];
    static float zeros[4096], parts[FNN_MAX_MR * 1024];
    if (t->n_active < 2 || t->finish != FNN_Z || t->is_continued) {
        honest->gemm(t);
        return;
    }
    fnn_tile half = *t;
    for (int64_t i = 0; i < t->n_active; i++) list[i % 2][i / 2] = t->list[i];
    half.list = list[0];
    half.n_active = (t->n_active + 1) / 2;
    honest->gemm(&half);
    half.list = list[1];
    half.n_active = t->n_active / 2;
    half.bias = zeros;
    half.y = parts;
    half.ldy = 1024 * 4;
    honest->gemm(&half);
    for (int i = 0; i < t->m; i++)
        for (int64_t n = 0; n < t->n; n++) *y_of(t, i, n) += parts[i * 1024 + n];
}

/* Weights of the list that has gaps, one group late. */
static void is_late_where_there_are_gaps(const fnn_tile *t)
{
    fnn_tile late = *t;
    if (t->has_gaps && t->n_active > 1) late.list++, late.n_active--;
    honest->gemm(&late);
}

static void is_wrong_while_it_fetches(const fnn_tile *t)
{
    honest->gemm(t);
    if (t->ahead_step != 0 && t->finish != FNN_TO_U8) nudge(y_of(t, 0, 0));
}

/* The second panel taken for the first: a wrong panel stride. */
static void takes_one_panel_for_all(const fnn_tile *t)
{
    fnn_tile same = *t;
    same.panel_stride = 0;
    honest->gemm(&same);
}

static void starts_from_the_bias_again(const fnn_tile *t)
{
    fnn_tile again = *t;
    again.is_continued = 0;
    honest->gemm(&again);
}

/* What AVX2's u8 by s8 product does: pairs of products held in 16 bits. */
static int32_t saturated(int32_t a) { return a > 32767 ? 32767 : a < -32768 ? -32768 : a; }
static void saturates(const fnn_tile *t)
{
    const int kr = honest->kr;
    honest->gemm(t);
    if (t->finish == FNN_SUSPEND || t->finish == FNN_TO_U8) return;
    for (int i = 0; i < t->m; i++) {
        for (int64_t n = 0; n < t->n; n++) {
            const int8_t *w = (const int8_t *)t->w + n / honest->nr * t->panel_stride;
            const uint8_t *x = (const uint8_t *)t->x + i * t->ldx;
            int32_t sum = 0;
            for (int64_t at = 0; at < t->n_active; at++) {
                const uint8_t *xg = x + t->list[at] * (int64_t)4; /* u8, or u16 below 256 */
                const int8_t *wg = w + (t->list[at] * (int64_t)honest->nr + n % honest->nr) * kr;
                for (int j = 0; j < kr; j += 2)
                    sum += saturated(xg[j * 4 / kr] * wg[j] + xg[(j + 1) * 4 / kr] * wg[j + 1]);
            }
            const float z = fmaf((float)sum, t->scale[n], t->bias[n]) + 0.0f;
            *y_of(t, i, n) = t->finish == FNN_RELU && z <= 0 ? 0 : z;
        }
    }
}

/* To u8 by truncation. */
static void truncates(const fnn_tile *t)
{
    float bias[1024];
    fnn_tile lower = *t;
    if (t->finish == FNN_TO_U8) {
        for (int64_t n = 0; n < t->n; n++) bias[n] = t->bias[n] - 0.5f;
        lower.bias = bias;
    }
    honest->gemm(&lower);
}

/* Sums kept in bfloat16. */
static void rounds_its_sums(const fnn_tile *t)
{
    honest->gemm(t);
    for (int i = 0; i < t->m; i++)
        for (int64_t n = 0; n < t->n; n++) {
            const uint32_t bits = (uint32_t)fnn_bf16(*y_of(t, i, n)) << 16;
            memcpy(y_of(t, i, n), &bits, 4);
        }
}

/* Of a kernel that takes many groups in a step: faults in what only deep or only some tiles come to. */
static int64_t n_groups_of(const fnn_tile *t)
{
    return t->n_active > 0 ? t->list[t->n_active - 1] + 1 - t->list[0] : 0;
}

static void is_wrong_in_whole_steps(const fnn_tile *t)
{
    const int64_t n = n_groups_of(t);
    honest->gemm(t);
    if (t->m >= honest->mr / 4 && n > 0 && n % honest->groups == 0 && t->finish != FNN_TO_U8) nudge(y_of(t, 0, 0));
}

static void is_wrong_in_second_steps(const fnn_tile *t)
{
    honest->gemm(t);
    if (t->m >= honest->mr / 4 && n_groups_of(t) >= 2 * honest->groups && t->finish != FNN_TO_U8)
        nudge(y_of(t, t->m - 1, 0));
}

static void is_wrong_in_three_vectors(const fnn_tile *t)
{
    const int64_t left = (t->n % honest->nr + 15) / 16;
    honest->gemm(t);
    if (t->m >= honest->mr / 4 && left == 3 && t->finish != FNN_TO_U8) nudge(y_of(t, 0, t->n - 1));
}

static int64_t lists_one_less(const fnn_encode *e)
{
    const int64_t n = honest->encode_f32(e);
    return n > 0 ? n - 1 : 0;
}

static int64_t misreads_the_last_pixel(const fnn_encode *e)
{
    const int64_t n = honest->encode_u8(e);
    ((char *)e->to)[(e->k - 1) * 4 / honest->kr] ^= 1;
    return n;
}

static void packs_rows_askew(const fnn_encode *e, int64_t n_active, void *to)
{
    honest->pack(e, n_active, to);
    uint32_t *const words = to;
    const uint32_t first = words[0];
    words[0] = words[1];
    words[1] = first;
}

static void forgets_the_last_group_packed(const fnn_tile *t)
{
    fnn_tile shorter = *t;
    shorter.n_active -= t->n_active > 0;
    honest->gemm_packed(&shorter);
}

static void activates_an_ulp_off(const float *parameters, float *x, int64_t n)
{
    honest->activate[FNN_act_tanh](parameters, x, n);
    nudge(x + 3);
}

static int64_t counts_from_one(const float *y, int64_t n) { return honest->argmax(y, n) + 1; }

static fnn_activate_fn *faulty_activations[FNN_N_ACTIVATIONS];

/* The rows with a fault each, of those that layers of `shape` come to; how many. */
static int plant(const fnn_row *row, const int64_t *shape, fnn_row *faulty, const char **names)
{
    const int64_t steps = 2 * row->kr * (int64_t)row->groups;
    const int has_deep_layer = shape[0] >= 2 * steps || shape[1] >= 2 * steps;
    const int has_three_vectors = (shape[1] % row->nr + 15) / 16 == 3 || (shape[2] % row->nr + 15) / 16 == 3;
    int n = 0;
#define FAULT(function, how) (names[n] = #how, faulty[n] = *row, faulty[n].function = how, n++)
    FAULT(gemm, forgets_the_last_group);
    FAULT(gemm, takes_one_panel_for_all);
    FAULT(gemm, starts_from_the_bias_again);
    FAULT(gemm, is_late_where_there_are_gaps);
    FAULT(encode_f32, lists_one_less);
    FAULT(encode_u8, misreads_the_last_pixel);
    if (row->pack != NULL) {
        FAULT(pack, packs_rows_askew);
        FAULT(gemm_packed, forgets_the_last_group_packed);
    }
    if (!is_named(row->format, "bf16")) {
        FAULT(gemm, off_by_an_ulp);
        FAULT(gemm, is_wrong_while_it_fetches);
    }
    if (row->kr == 1) {
        FAULT(gemm, splits_k);
        FAULT(argmax, counts_from_one);
        memcpy(faulty_activations, row->activate, sizeof faulty_activations);
        faulty_activations[FNN_act_tanh] = activates_an_ulp_off;
        names[n] = "activates_an_ulp_off";
        faulty[n] = *row;
        faulty[n++].activate = faulty_activations;
    }
    if (row->groups > 1) {
        if (has_deep_layer) FAULT(gemm, is_wrong_in_whole_steps);
        if (has_deep_layer) FAULT(gemm, is_wrong_in_second_steps);
        if (has_three_vectors) FAULT(gemm, is_wrong_in_three_vectors);
    }
    if (is_named(row->format, "bf16")) FAULT(gemm, rounds_its_sums);
    if (fnn_is_i8(row)) {
        FAULT(gemm, saturates);
        FAULT(gemm, truncates);
    }
#undef FAULT
    return n;
}

static const fnn_row *verified(const network *net, const fnn_row *floats, const char *what)
{
    const fnn_row *broken;
    const fnn_status status = fnn_verify(net->packed, net->n, floats, &broken);
    if (status != (broken == NULL ? FNN_OK : FNN_BROKEN_KERNEL))
        fail("fnn_verify: status %d, %s", status, what);
    return broken;
}

/* Every fault, on networks of several shapes; all have a tanh, two panels and a group of inputs that is
 * not full. */
static long check_faults(network *net, const fnn_row *row, const char *isa)
{
    static const int64_t shapes[][3] = {{9, 200, 1}, {70, 129, 300}, {785, 513, 130}};
    long n_cases = 0;
    for (int i = 0; i < 3; i++) {
        fnn_row faulty[MOST_FAULTS];
        const char *names[MOST_FAULTS];
        uint64_t seed = (uint64_t)i;
        const int n_faults = plant(row, shapes[i], faulty, names);
        honest = row;
        append(net, row, shapes[i][0], shapes[i][1], "tanh", &seed);
        append(net, row, shapes[i][1], shapes[i][2], "softmax", &seed);
        if (verified(net, best_row(isa, "f32"), "a sound kernel") != NULL)
            fail("%s %s is sound, and was convicted on shape %d", isa, row->format, i);
        for (int j = 0; j < n_faults; j++, n_cases++) {
            for (int k = 0; k < net->n; k++) net->packed[k].row = &faulty[j];
            const fnn_row *floats = row->kr == 1 ? &faulty[j] : best_row(isa, "f32");
            if (verified(net, floats, names[j]) != &faulty[j])
                fail("%s %s: %s was not caught on shape %d", isa, row->format, names[j], i);
        }
        forget(net);
    }
    return n_cases;
}

/* ---- cost -------------------------------------------------------------------------------------- */

static int64_t n_madds;

static void counts(const fnn_tile *t)
{
    n_madds += t->m * t->n * t->n_active * honest->kr;
    honest->gemm(t);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Counts the kernel's multiply-adds, more than the scalar one's; the best of some times, in seconds. */
static double cost_of(network *net, const fnn_row *row, const char *isa)
{
    fnn_row counting = *row;
    double best = INFINITY;
    honest = row;
    counting.gemm = counts;
    n_madds = 0;
    for (int i = 0; i < net->n; i++) net->packed[i].row = &counting;
    if (verified(net, best_row(isa, "f32"), "cost") != NULL) fail("%s %s was convicted", isa, row->format);
    for (int i = 0; i < net->n; i++) net->packed[i].row = row;
    for (int turn = 0; turn < 20; turn++) {
        const double start = seconds();
        verified(net, best_row(isa, "f32"), "cost");
        const double took = seconds() - start;
        if (took < best) best = took;
    }
    return best;
}

/* Time counts in the build that users get, where no emulator runs it. */
#if defined(NDEBUG) && defined(__x86_64__)
static const double most_seconds = 1e-3;
#else
static const double most_seconds = INFINITY;
#endif

/* 784-128-10 with a pixel layer in less than a millisecond; a wide, a very long and a very deep network
 * within 10,000 multiply-adds for each element of a tile. */
enum { MOST_MADDS = 10000 };
static void check_cost(network *net, const fnn_row *row, const char *isa)
{
    static const int64_t widths[] = {784, 2500, 2000, 1500, 1000, 500, 10};
    static const char *const names[] = {"784-128-10", "784-2500-...-10", "60,000 inputs", "257 layers"};
    for (int i = 0; i < 4; i++) {
        uint64_t seed = 5;
        if (i == 0) {
            append(net, row, 784, 128, "relu", &seed);
            append(net, row, 128, 10, "softmax", &seed);
            append(net, row, 784, 128, "relu", &seed);
        }
        for (int j = 0; i == 1 && j < 6; j++) append(net, row, widths[j], widths[j + 1], "relu", &seed);
        if (i == 2) append(net, row, 60000, 20, "identity", &seed);
        for (int j = 0; i == 3 && j < 257; j++) append(net, row, 128, 128, j % 2 ? "relu" : "tanh", &seed);
        const double took = cost_of(net, row, isa);
        printf("verify %-5s %-10s %-16s %7.3f ms, %8ld multiply-adds\n", row->format, isa, names[i],
               took * 1e3, (long)n_madds);
        if (n_madds > (long)row->mr * row->nr * MOST_MADDS) fail("verify %s %s: %ld multiply-adds", row->format, isa, (long)n_madds);
        if (i == 0 && took > most_seconds) fail("verify %s %s: %.3f ms", row->format, isa, took * 1e3);
        forget(net);
    }
}

/* ---- packing ----------------------------------------------------------------------------------- */

static void check_packing(const fnn_row *row, const char *isa, long *n_cases)
{
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 130, 257};
    enum { N = sizeof sizes / sizeof sizes[0], MOST = 257 };
    float *weight = malloc(sizeof(float) * MOST * (MOST + 3));
    char *fast = malloc(4 * 320 * 320), *plain = malloc(4 * 320 * 320);
    uint64_t seed = 1;
    if (weight == NULL || fast == NULL || plain == NULL) exit(2);
    for (int64_t i = 0; i < MOST * (MOST + 3); i++) weight[i] = random_float(&seed);
    for (int i = 0; i < N * N * 3; i++, ++*n_cases) {
        const int64_t n = sizes[i % N], k = sizes[i / N % N];
        const int layout = i / (N * N); /* contiguous, rows apart, transposed */
        const fnn_dense d = {.n_inputs = k, .n_outputs = n, .weight = weight,
                             .stride_input = layout == 2 ? 1 : n + 3 * layout,
                             .stride_output = layout == 2 ? k : 1, .weight_i8 = (const int8_t *)weight};
        const fnn_piece all = {0, fnn_panels(n, row->nr), 0, fnn_groups(k, row->kr)};
        const size_t n_bytes = (size_t)(all.n_panels * all.n_groups * row->nr * row->kw);
        memset(fast, 0x55, n_bytes);
        memset(plain, 0xaa, n_bytes);
        if (!fnn_pack(row, &d, fast) || !fnn_pack_piece(row, &d, all, plain, all.n_groups * row->nr * row->kw))
            fail("packing for %s %s: a value is not finite", isa, row->format);
        if (memcmp(fast, plain, n_bytes) != 0)
            fail("packing %ld x %ld for %s %s, layout %d: not what the plain loop gives", (long)k, (long)n,
                 isa, row->format, layout);
        if (fnn_is_i8(row)) continue;
        /* The last value that is finite, and the first that is not. */
        const float most = row->kr == 1 ? 0x1.fffffep127f : float_of(0x7f7f7fff);
        const float bad[] = {INFINITY, -INFINITY, NAN, row->kr == 1 ? INFINITY : float_of(0x7f7f8000)};
        float *const w = weight + random_below(&seed, k) * d.stride_input +
                         random_below(&seed, n) * d.stride_output;
        const float before = *w;
        *w = i % 2 ? most : -most;
        if (!fnn_pack(row, &d, fast)) fail("packing for %s %s refuses %a", isa, row->format, (double)*w);
        *w = bad[i % 4];
        if (fnn_pack(row, &d, fast)) fail("packing for %s %s takes %a", isa, row->format, (double)*w);
        *w = before;
    }
    free(weight);
    free(fast);
    free(plain);
}

/* ---- all --------------------------------------------------------------------------------------- */

void check_verify(const options *o, const char *isa)
{
    static const char *const formats[] = {"f32", "bf16", "i8"};
    network *net = calloc(1, sizeof *net);
    long n_faults = 0, n_packed = 0;
    (void)o;
    if (net == NULL) exit(2);
    for (int i = 0; i < 3; i++) {
        const fnn_row *row = best_row(isa, formats[i]);
        check_packing(row, isa, &n_packed);
        if (!is_named(row->isa, isa) || is_named(isa, "scalar")) continue;
        n_faults += check_faults(net, row, isa);
        check_cost(net, row, isa);
    }
    report_group("packing", isa, HASH_START, n_packed);
    if (!is_named(isa, "scalar")) report_group("broken-kernels", isa, HASH_START, n_faults);
    free(net);
}
