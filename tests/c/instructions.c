/* Calls of fixed networks on fixed rows, for valgrind's callgrind to count instructions of.
 *
 * Invariant: what is computed follows from the case's name and the ISA alone, so that another count means
 * another engine (or compiler). Everything but fnn_forward is left out by --toggle-collect=fnn_forward.
 * tools/harness.py runs the cases and holds the counts against those kept in instructions.json.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { MOST_WIDTHS = 4, MOST_ROWS = 64 };

typedef struct {
    const char *name, *format;
    int n_layers;
    int64_t widths[MOST_WIDTHS];
    int n_rows, zeros; /* of 16 pixels in a run */
} task;

static const task tasks[] = {
    {"small-f32-1", "f32", 2, {784, 128, 10}, 1, 13},
    {"small-f32-64", "f32", 2, {784, 128, 10}, 64, 13},
    {"small-i8-1", "i8", 2, {784, 128, 10}, 1, 13},
    {"small-i8-64", "i8", 2, {784, 128, 10}, 64, 13},
    {"mid-f32-1", "f32", 3, {784, 512, 512, 10}, 1, 13},
    {"mid-f32-64", "f32", 3, {784, 512, 512, 10}, 64, 13},
    {"mid-i8-64", "i8", 3, {784, 512, 512, 10}, 64, 13},
    {"dense-f32-64", "f32", 2, {1024, 1024, 1024}, 64, 0},
};
enum { N_TASKS = sizeof tasks / sizeof tasks[0] };

static void *allocate(size_t n)
{
    void *memory = calloc(n, 1);
    if (memory == NULL) exit(2);
    return memory;
}

static fnn_dense layer_of(const task *t, int i, uint64_t *seed)
{
    const int64_t k = t->widths[i], n = t->widths[i + 1];
    float *weight = allocate((size_t)(k * n) * 4), *bias = allocate((size_t)n * 4), *scale = allocate((size_t)n * 4);
    int8_t *weight_i8 = allocate((size_t)(k * n));
    for (int64_t j = 0; j < k * n; j++) {
        weight[j] = random_float(seed);
        weight_i8[j] = (int8_t)(random_below(seed, 255) - 127);
    }
    for (int64_t j = 0; j < n; j++) scale[j] = 1e-4f;
    return (fnn_dense){.n_inputs = k, .n_outputs = n, .weight = weight, .stride_input = n, .stride_output = 1,
                       .bias = bias, .activation = activation_named(i + 1 < t->n_layers ? "relu" : "identity"),
                       .format = t->format, .weight_i8 = weight_i8, .scale = scale, .offset = bias,
                       .input_scale = i == 0 ? 1.0f : 0.02f};
}

/* Runs case `index` under a ceiling and prints its name. Returns 0 if there is no such case. */
int run_task(int index, const char *isa)
{
    if (index < 0 || index >= N_TASKS) return 0;
    const task *t = &tasks[index];
    uint64_t seed = 1;
    fnn_dense layers[MOST_WIDTHS];
    for (int i = 0; i < t->n_layers; i++) layers[i] = layer_of(t, i, &seed);
    const int64_t k = t->widths[0];
    uint8_t *x = allocate((size_t)(t->n_rows * k));
    for (int64_t i = 0; i < t->n_rows * k; i++) /* runs of zeros, as of pixels around a digit */
        x[i] = (int)(i % 16) < t->zeros ? 0 : (uint8_t)(1 + random_below(&seed, 255));
    int64_t *out = allocate(MOST_ROWS * 8);
    fnn_network *network = create_network(layers, t->n_layers, NULL, isa);
    fnn_call call = {.x = x, .dtype = FNN_U8, .n_rows = t->n_rows, .row_stride = k, .column_stride = 1,
                     .output = FNN_LABELS, .out = out, .n_threads = 1};
    for (int i = 0; i < 2; i++) /* the first allocates the workspace */
        if (fnn_forward(network, &call) != FNN_OK) return 0;
    printf("case %s %s\n", t->name, isa);
    return 1;
}
