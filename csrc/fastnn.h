/* fastnn: the public C API.
 *
 * What lives here: networks of dense layers (create, forward, free) and the listings that the
 * library keeps of itself (activations, kernels, ISAs, CPU features).
 * Invariant: plain C11, no Python, no global state that a caller can see. A network never changes
 * once created, so any number of threads may call fnn_forward on one at the same time.
 * Names: y[M,N] = act(x[M,K] @ w[K,N] + b[N]); M rows, K inputs, N outputs.
 * Start with fnn_network_create and fnn_forward; then read kernel.h.
 */
#ifndef FASTNN_H
#define FASTNN_H

#include <stddef.h>
#include <stdint.h>

#include "certify.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    FNN_OK = 0,
    FNN_NO_MEMORY,
    FNN_UNKNOWN_ISA,  /* no ISA has this name */
    FNN_ISA_MISSING,  /* the CPU, the OS or this build lacks it */
    FNN_NOT_FINITE,   /* a weight or a bias is NaN or infinite */
    FNN_BAD_SHAPE,    /* a layer is empty, does not fit the one before, or is too large */
    FNN_BAD_FORMAT,   /* no such number format, or its scale, zero or number of inputs is out of range */
    FNN_BAD_ACTIVATION, /* unknown, or softmax / log_softmax before the last layer */
    FNN_INTERRUPTED,  /* `poll` asked to stop; the output is unspecified */
    FNN_BROKEN_KERNEL, /* a kernel computes something else than the scalar one: see verify.c */
} fnn_status;

/* ---- the lists ------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int n_parameters;
    const char *parameter_names[2];
    float defaults[2];        /* NaN: has no default, must be given */
    int last_layer_only;      /* softmax and log_softmax */
    int label_by_z;           /* rises with z (or keeps its order): the label is argmax of z */
} fnn_activation;

extern const fnn_activation fnn_activations[];
extern const int fnn_n_activations;

/* An ISA is a ceiling: x86 ISAs rank scalar < avx2 < avxvnni < avx512 < avx512vnni < avx512bf16 < amx. */
typedef struct {
    const char *name;
    uint64_t needs;     /* fnn_cpu_features() bits */
    const char *kernel; /* whose kernels are the least that this ISA stands for */
    int is_only_named;  /* not taken unless asked for: no CPU that has it has run it yet */
} fnn_isa;

extern const fnn_isa fnn_isas[];
extern const int fnn_n_isas;

int fnn_isa_is_available(const fnn_isa *isa); /* CPU and OS have it, and it was compiled in */

/* Bits of what the CPU has and the OS allows; fnn_cpu_feature_name names bit i, NULL past the end. */
uint64_t fnn_cpu_features(void);
const char *fnn_cpu_feature_name(int i);

/* ---- networks -------------------------------------------------------------------------------- */

/* y = activation(x @ weight + bias), in one of three number formats. "i8" computes in integers:
 * q = x / input_scale + input_zero, rounded half to even and held in 0..255 (uint8 rows: q is x), and
 * z = sum(q * weight_i8) * scale + offset, where scale and offset hold whatever the scales amount to. */
typedef struct {
    int64_t n_inputs, n_outputs;
    const float *weight;              /* [n_inputs, n_outputs], any strides, in elements */
    int64_t stride_input, stride_output;
    const float *bias;                /* [n_outputs] */
    int activation;                   /* index into fnn_activations */
    float parameters[2];
    const char *format;               /* "f32" (also NULL), "bf16" or "i8" */
    /* Of "i8", in place of weight and bias: */
    const int8_t *weight_i8;          /* [n_inputs, n_outputs], C-contiguous */
    const float *scale, *offset;      /* [n_outputs] */
    float input_scale, input_zero;    /* scale > 0, zero an integer in 0..255 */
} fnn_dense;

typedef struct fnn_network fnn_network;

/* Copies and packs everything; the caller keeps its arrays.
 * `pixel_layer`: the first layer as uint8 input should see it (scaling folded in), NULL if uint8
 * input takes layers[0] as it is. `isa`: the ceiling by name, NULL for the best there is but those
 * that are taken only if named.
 * On FNN_NOT_FINITE, FNN_BAD_SHAPE, FNN_BAD_FORMAT and FNN_BAD_ACTIVATION *where is the layer
 * (pixel_layer: -1), on FNN_BROKEN_KERNEL the kernel, as fnn_row_at counts them. */
fnn_status fnn_network_create(const fnn_dense *layers, int n_layers, const fnn_dense *pixel_layer,
                              const char *isa, fnn_network **network, int *where);
void fnn_network_free(fnn_network *network);

int fnn_network_n_layers(const fnn_network *network);
size_t fnn_network_bytes(const fnn_network *network); /* of packed weights and biases */

typedef enum { FNN_U8, FNN_F32 } fnn_dtype;

typedef enum {
    FNN_OUTPUTS,       /* float [M, N]: the last layer's activation */
    FNN_LOGITS,        /* float [M, N]: the last layer's z, before its activation */
    FNN_PROBABILITIES, /* float [M, N]: as outputs, log_softmax exponentiated;
                          N = 1: float [M, 2], 1 - p and p */
    FNN_LABELS,        /* int64 [M]: np.argmax (first NaN, else first largest); N = 1: z > 0 */
    FNN_TOP_K,         /* int64 [M, k] into out and float [M, k] outputs into scores, descending,
                          the lower index first where equal, NaN before all; needs N >= k >= 1 */
} fnn_output;

typedef struct {
    int64_t n_threads; /* threads that computed at least one block of rows */
    int64_t executed;  /* multiply-adds done; zeros that were skipped are not among them */
    int64_t effective; /* multiply-adds that a dense pass does: M * sum of K * N */
    int64_t n_doubtful; /* fnn_forward_certified: rows that went through `exact` as well */
} fnn_work;

/* What a layer took of a call, its inputs' encoding included. With several threads: all of theirs. */
typedef struct { int64_t ns, executed; } fnn_layer_work;

typedef struct {
    const void *x;         /* [M, K] of dtype, elements aligned to their size */
    fnn_dtype dtype;
    int64_t n_rows;
    int64_t row_stride, column_stride; /* in bytes, may be negative */
    fnn_output output;
    void *out;             /* rows contiguous; must not overlap x */
    float *scores;         /* of FNN_TOP_K, else unused */
    int64_t k;             /* of FNN_TOP_K, else unused */
    int n_threads;         /* at most so many; work below about 200 us is never split */
    int keep_zeros;        /* do not skip zero inputs (for measurements; same bits) */
    int (*poll)(void *);   /* NULL, or called in the calling thread at least every 50 ms or so of
                              work; non-zero stops */
    void *poll_argument;
    float *const *trace_z; /* NULL, or per layer float [M, N_layer]: z ... */
    float *const *trace_a; /* ... and activation */
    fnn_work *work;        /* NULL, or filled */
    fnn_layer_work *layer_work; /* NULL, or [layers + 1], to which is added: each layer; then labels,
                              softmax and certificate. Costs two readings of the clock a block and layer */
} fnn_call;

/* Nothing is allocated after the first call of a thread (workspace belongs to the thread, its size
 * depends on the network only). The floating-point mode is set to the default and restored. */
fnn_status fnn_forward(const fnn_network *network, const fnn_call *call);

/* What two ways to the same labels take, certified [0] and float32 alone [1], by samples. Zeroed to begin; the
 * caller keeps it, threads may share it: what they count at once may make the slower way look faster, until the
 * samples are taken anew. */
typedef struct {
    int64_t n_begun[2], n_rows[2]; /* of the samples: rows begun, and done ... */
    int64_t ns[2];                 /* ... which took so long */
    int64_t n_since;               /* rows that relied on them */
    int64_t faster;                /* the way, by the last samples */
    int64_t n_taken[2];            /* rows, since the beginning */
} fnn_race;

/* The labels of `exact`, a float32 network, mostly computed by `fast`: the same layers with all but the
 * last in int8. Rows that `certificate` is not sure of go through `exact`. So do all of them, but for samples,
 * while that takes less time by `race`; NULL: never, nor where call->work is wanted. For uint8 rows and
 * FNN_LABELS alone. */
fnn_status fnn_forward_certified(const fnn_network *fast, const fnn_network *exact,
                                 const fnn_certificate *certificate, fnn_race *race,
                                 const fnn_call *call);

/* Whether the call is worth so little (a few microseconds) that releasing a lock costs more. */
int fnn_is_brief(const fnn_network *network, int64_t n_rows);
/* Whether it is worth so much that n_threads matters. */
int fnn_may_split(const fnn_network *network, int64_t n_rows);

/* ---- kernels, for listings and tests --------------------------------------------------------- */

typedef struct fnn_row fnn_row;

int fnn_n_rows(void);
const fnn_row *fnn_row_at(int i); /* best first */
const fnn_row *fnn_network_row(const fnn_network *network, int layer);
const char *fnn_row_isa(const fnn_row *row);
const char *fnn_row_format(const fnn_row *row);
uint64_t fnn_row_needs(const fnn_row *row);
int fnn_row_mr(const fnn_row *row);
int fnn_row_nr(const fnn_row *row);

/* The best row of `format` under the ceiling `isa` (NULL: none but ISAs that are taken only if named). */
fnn_status fnn_select(const char *isa, const char *format, const fnn_row **row);

/* x[i] = activation(x[i]) for the elementwise activations, as `row` computes it. */
void fnn_activate(const fnn_row *row, int activation, const float parameters[2], float *x,
                  int64_t n);

/* Does n steps of independent multiply-adds, enough to keep the CPU busy, and returns the floating-point
 * operations done. */
double fnn_burn(const fnn_row *row, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
