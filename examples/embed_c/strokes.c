/* The engine in a C program, without Python: a network is created, asked, and freed.
 *
 * Which of four strokes does a picture of 3 x 3 pixels show? The weights are written down here, where
 * a real program reads its own. Built by the Makefile beside this file.
 */
#include <stdio.h>
#include <string.h>

#include "fastnn.h"

enum { N_PIXELS = 9, N_STROKES = 4, N_PICTURES = 5 };

static const char strokes[N_STROKES] = {'|', '-', '/', '\\'};

static const uint8_t pictures[N_PICTURES][N_PIXELS] = {
    {0, 255, 0, 0, 255, 0, 0, 255, 0},
    {0, 0, 0, 255, 255, 255, 0, 0, 0},
    {0, 10, 250, 20, 240, 0, 200, 0, 0},
    {255, 0, 0, 0, 255, 0, 0, 0, 255},
    {0, 0, 90, 0, 255, 0, 255, 0, 0},
};

/* weight[pixel][stroke]: for the pixels of the stroke, against the others. */
static const float weight[N_PIXELS][N_STROKES] = {
    {-1, -1, -1, 2}, {2, -1, -1, -1}, {-1, -1, 2, -1},
    {-1, 2, -1, -1}, {2, 2, 2, 2},    {-1, 2, -1, -1},
    {-1, -1, 2, -1}, {2, -1, -1, -1}, {-1, -1, -1, 2},
};
static const float bias[N_STROKES] = {0};

static int index_of(const char *activation)
{
    for (int i = 0; i < fnn_n_activations; i++)
        if (strcmp(fnn_activations[i].name, activation) == 0) return i;
    return -1;
}

int main(void)
{
    /* Floats are grey values 0 to 1; bytes are 255 times that, which their own first layer undoes. */
    float weight_of_bytes[N_PIXELS][N_STROKES];
    for (int i = 0; i < N_PIXELS; i++)
        for (int j = 0; j < N_STROKES; j++) weight_of_bytes[i][j] = weight[i][j] / 255;
    fnn_dense layer = {.n_inputs = N_PIXELS, .n_outputs = N_STROKES, .weight = weight[0],
                       .stride_input = N_STROKES, .stride_output = 1, .bias = bias,
                       .activation = index_of("softmax")};
    fnn_dense layer_of_bytes = layer;
    layer_of_bytes.weight = weight_of_bytes[0];

    fnn_network *network;
    int where;
    fnn_status status = fnn_network_create(&layer, 1, &layer_of_bytes, NULL, &network, &where);
    if (status != FNN_OK) {
        fprintf(stderr, "strokes: layer %d: status %d\n", where, (int)status);
        return 1;
    }
    printf("kernel: %s\n", fnn_row_isa(fnn_network_row(network, 0)));

    int64_t found[N_PICTURES];
    float probabilities[N_PICTURES][N_STROKES];
    fnn_call call = {.x = pictures, .dtype = FNN_U8, .n_rows = N_PICTURES, .row_stride = N_PIXELS,
                     .column_stride = 1, .output = FNN_LABELS, .out = found, .n_threads = 1};
    status = fnn_forward(network, &call);
    call.output = FNN_PROBABILITIES;
    call.out = probabilities;
    if (status == FNN_OK) status = fnn_forward(network, &call);
    fnn_network_free(network);
    if (status != FNN_OK) {
        fprintf(stderr, "strokes: status %d\n", (int)status);
        return 1;
    }
    for (int i = 0; i < N_PICTURES; i++)
        printf("picture %d: %c (%.1f %%)\n", i, strokes[found[i]], 100 * probabilities[i][found[i]]);
    return 0;
}
