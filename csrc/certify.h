/* Certified labels: which rows of an int8 pass may have another label in float32.
 *
 * What lives here: the constants of the bound, as fastnn/certify.py computes them (same names), and
 * fnn_certify, which evaluates it for a block of rows. The theorem is in docs/certified.md.
 * Invariant: plain C without state. Every rounding goes towards a larger bound, a NaN or an overflow
 * anywhere makes a row doubtful. Assumes round to nearest and no flushing of subnormals.
 * Start with fnn_certify.
 */
#ifndef FNN_CERTIFY_H
#define FNN_CERTIFY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FNN_MAX_STAGES = 256, FNN_MAX_TAPS = 8, FNN_TAP = 4, FNN_N_DIRECTIONS = 16, FNN_N_EACH = 7 };

/* One int8 layer of K inputs and N outputs. Lengths are of vectors; "error" is divided by the
 * layer's units. The caller keeps the arrays. */
typedef struct {
    int64_t n_inputs, n_outputs;
    double input_scale;      /* a float32 */
    int32_t input_zero;
    int32_t n_taps;          /* p[k] = q[k] - sum of tap q[k - lag] / 4; only where q is exact */
    int32_t lag[FNN_MAX_TAPS], tap[FNN_MAX_TAPS];
    double error;            /* z's error: this times the error of its inputs ... */
    double residual;         /* ... and times the length of what rounding its inputs lost ... */
    double noise;            /* ... and times the length of 4 p ... */
    double defect;           /* ... and of q - zero, beside `noise` ... */
    double fixed;            /* ... and this ... */
    double per_q, per_x;     /* ... and times the lengths of q and of float32's inputs */
    const float *directions; /* NULL, or [K, FNN_N_DIRECTIONS] */
    double direction_scale, tail, slop;
    double per_z, per_a, fixed_a; /* activation(z)'s error */
    double largest_unit;
    /* Of the last stage, else NULL, float [FNN_N_EACH, N]: unit, then for each z alone what `error`,
     * `residual`, `noise`, `fixed`, `per_q` and `per_x` are for all. */
    const float *each;
    double each_defect;
    double flat_below, flat_above; /* where the activation is constant */
} fnn_stage;

typedef struct {
    int32_t n_stages;
    const fnn_stage *stages;
    int64_t n_inputs, n_outputs; /* of the last layer: N and C */
    int32_t by_z;            /* labels are those of z; else of the activation, with ... */
    int32_t is_exact;        /* ... no rounding */
    double last_constant;    /* ... its Lipschitz constant */
    const float *weight;     /* [C, N], times its inputs' units */
    const double *pair;      /* [C, C] if by_z and C > 1, else [C] */
    const double *weight_slop, *fixed, *per_a; /* [C] */
    double crude_square, crude_fixed; /* certain where (margin - fixed)^2 > square * sum of q,
                                         the square being infinite where that cannot be said */
    double pair_most, fixed_largest, per_a_largest; /* the largest of each */
} fnn_certificate;

/* Rows of a block, row i at pointer + i * stride; strides in elements. */
typedef struct {
    const uint8_t *q;        /* [M, K] the stage's inputs */
    int64_t q_stride;
    const float *a;          /* [M, K] what q was rounded from; NULL: q is exact */
    int64_t a_stride;
} fnn_stage_rows;

typedef struct {
    const fnn_stage_rows *stages;   /* [n_stages] */
    const float *z;                 /* [M, N] of the last stage, before its activation */
    int64_t z_stride;
    const float *hidden;            /* [M, N] after it */
    int64_t hidden_stride;
    const float *logits;            /* [M, C] of the last layer: z, or if not by_z activation(z) */
    int64_t logits_stride;
} fnn_certify_rows;

/* The loops over inputs: all that most rows take. certify_loops.h has them in x86 vectors. */
typedef struct {
    int64_t (*sum)(const uint8_t *q, int64_t n);
    int64_t (*squares)(const uint8_t *q, int32_t zero, int64_t n); /* of q - zero */
    /* of a * inverse - (q - zero), in float32 */
    float (*residual_squares)(const float *a, const uint8_t *q, float inverse, int32_t zero,
                              int64_t n);
    float (*float_squares)(const float *x, int64_t n);
    /* of 4 p; work: [max(longest lag + n_inputs + 64, 2 n_inputs)], aligned to 2 */
    int64_t (*tapped_squares)(const fnn_stage *stage, const uint8_t *q, uint8_t *work);
    /* of directions' r, r as in residual_squares */
    double (*along)(const fnn_stage *stage, const float *a, const uint8_t *q);
    int64_t (*nonzero)(const uint8_t *q, int64_t n); /* how many */
    /* live[i] = whether z[i] may be off by so much that it is between `below` and `above` */
    void (*live)(const float *each, const float factors[FNN_N_EACH], float rest, float below,
                 float above, const float *z, float *live, int64_t n);
    float (*live_squares)(const float *live, const float *x, const float *y, int64_t n); /* x - y */
} fnn_certify_loops;

extern const fnn_certify_loops fnn_certify_plain;

/* Bytes that fnn_certify needs as `work`, aligned to 64. */
size_t fnn_certify_work_bytes(const fnn_certificate *certificate);

/* is_doubtful[i] = 0 where the label of row i (the argmax of its logits, lowest index first; of one
 * output: z > 0) is certainly float32's, else 1. Returns how many are doubtful. bound: NULL, or
 * double [M]: of the closest other logit, its distance that was certified against (for tests). */
int64_t fnn_certify(const fnn_certificate *certificate, const fnn_certify_loops *loops,
                    const fnn_certify_rows *rows, int64_t n_rows, uint8_t *is_doubtful,
                    double *bound, void *work);

#ifdef __cplusplus
}
#endif
#endif
