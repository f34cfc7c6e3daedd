/* Certified labels: the bound of docs/certified.md, a row at a time.
 *
 * What lives here: fnn_certify and its plain loops. The same formulas in NumPy: fastnn/certify.py.
 * Invariant: scalars are double and end in a factor UP; float32 sums are of terms >= 0 and are
 * enlarged by what n roundings can do; comparisons are written so that NaN is doubtful.
 * A row goes through up to three levels and leaves at the first that certifies it: one sum over its
 * pixels, if there is one hidden layer; lengths; lengths, directions and a mask of the last hidden
 * layer. 784-128-10 needs the second for a tenth of MNIST's rows, the third for 1.5 %.
 * Start with fnn_certify.
 */
#include "certify.h"

#include <math.h>
#include <string.h>

#include "certify_loops.h"

static const double UP = 1 + 0x1p-30, EPSILON = 0x1p-24, LOST = 0x1p-60;
static const double ACTIVATION_ERROR = 0x1p-21, TINY = 0x1p-149;

/* ---- plain loops ----------------------------------------------------------------------------- */

static int64_t sum(const uint8_t *q, int64_t n)
{
    int64_t total = 0;
    for (int64_t k = 0; k < n;) {
        const int64_t end = n - k < 256 ? n : k + 256; /* 256 * 255 fits 16 bits */
        uint16_t part = 0;
        for (; k < end; k++) part = (uint16_t)(part + q[k]);
        total += part;
    }
    return total;
}

static int64_t squares(const uint8_t *q, int32_t zero, int64_t n)
{
    int64_t total = 0;
    for (int64_t k = 0; k < n;) {
        const int64_t end = n - k < 32768 ? n : k + 32768; /* * 255^2 fits 31 bits */
        int32_t part = 0;
        for (; k < end; k++) {
            const int16_t x = (int16_t)(q[k] - zero);
            part += x * x;
        }
        total += part;
    }
    return total;
}

static float residual_squares(const float *a, const uint8_t *q, float inverse, int32_t zero,
                              int64_t n)
{
    float part[16] = {0};
    int64_t k = 0;
    for (; k + 16 <= n; k += 16)
        for (int i = 0; i < 16; i++) {
            const float r = a[k + i] * inverse - (float)(q[k + i] - zero);
            part[i] += r * r;
        }
    for (; k < n; k++) {
        const float r = a[k] * inverse - (float)(q[k] - zero);
        part[0] += r * r;
    }
    for (int i = 1; i < 16; i++) part[0] += part[i];
    return part[0];
}

/* |4 p| <= 255 * (4 + 64), the taps being at most 64 in all (fastnn/certify.py, Taps): 16 bits. */
static int64_t tapped_squares(const fnn_stage *s, const uint8_t *q, uint8_t *work)
{
    const int64_t n = s->n_inputs;
    int16_t *const p = (int16_t *)(void *)work;
    int32_t largest = FNN_TAP;
    for (int64_t k = 0; k < n; k++) p[k] = (int16_t)(FNN_TAP * q[k]);
    for (int t = 0; t < s->n_taps; t++) {
        const int64_t lag = s->lag[t];
        const int16_t tap = (int16_t)s->tap[t];
        for (int64_t k = lag; k < n; k++) p[k] = (int16_t)(p[k] - tap * q[k - lag]);
        largest += tap < 0 ? -tap : tap;
    }
    largest *= 255;
    const int64_t n_safe = INT32_MAX / (largest * largest);
    int64_t total = 0;
    for (int64_t k = 0; k < n;) {
        const int64_t end = n - k < n_safe ? n : k + n_safe;
        int32_t part = 0;
        for (; k < end; k++) part += p[k] * p[k];
        total += part;
    }
    return total;
}

static float float_squares(const float *x, int64_t n)
{
    float part[16] = {0};
    int64_t k = 0;
    for (; k + 16 <= n; k += 16)
        for (int i = 0; i < 16; i++) part[i] += x[k + i] * x[k + i];
    for (; k < n; k++) part[0] += x[k] * x[k];
    for (int i = 1; i < 16; i++) part[0] += part[i];
    return part[0];
}

const fnn_certify_loops fnn_certify_plain = {
    sum,           squares,         residual_squares, float_squares,        tapped_squares,
    certify_along, certify_nonzero, certify_live,     certify_live_squares,
};

/* ---- lengths --------------------------------------------------------------------------------- */

/* At least the root of an exact sum of squares, or of one of n terms in float32. */
static double root(double squares) { return sqrt(squares) * UP; }
static double root_of_floats(float squares, int64_t n)
{
    return sqrt((double)squares * (1 + 2 * (double)(n + 8) * EPSILON)) * UP;
}

static double length_of(const fnn_certify_loops *loops, const float *x, int64_t n)
{
    return root_of_floats(loops->float_squares(x, n), n) + LOST * (double)n;
}

static double smaller(double a, double b) { return a < b ? a : b; } /* b where either is NaN */

typedef enum { COARSE, FINE } level;

/* Of one row: how far the last layer's inputs may be, and what that was made of. */
typedef struct {
    double error;    /* of the last layer's inputs, in their units */
    double before, z_norm, length_r, length_p, length_x, length_q, length_reference;
    double length_a; /* of the last layer's inputs themselves */
} lengths;

/* What does not depend on the level, by stage; length_x of one more: of the last layer's inputs. */
typedef struct { double length_x, length_q, length_r, inexact, length_p; } kept;

static void measure(const fnn_stage *s, const fnn_certify_loops *loops, const fnn_stage_rows *rows,
                    int64_t row, uint8_t *work, kept *k)
{
    const uint8_t *q = rows->q + row * rows->q_stride;
    const int64_t n = s->n_inputs;
    k->length_x = root((double)loops->squares(q, s->input_zero, n));
    k->length_q = s->input_zero == 0 ? k->length_x : root((double)loops->squares(q, 0, n));
    k->length_p = s->n_taps == 0 ? FNN_TAP * k->length_x
                                 : root((double)loops->tapped_squares(s, q, work));
    if (rows->a != NULL) {
        const float *a = rows->a + row * rows->a_stride;
        const float inverse = (float)(1 / s->input_scale);
        const float squares = loops->residual_squares(a, q, inverse, s->input_zero, n);
        k->length_r = root_of_floats(squares, n);
        k->inexact = 4 * EPSILON * (k->length_x + k->length_r) + LOST * (double)n;
    }
}

static lengths walk(const fnn_certificate *c, const fnn_certify_loops *loops,
                    const fnn_certify_rows *rows, int64_t row, level at, kept *keep, uint8_t *work)
{
    lengths l = {0};
    double unit_before = 0;
    for (int i = 0; i < c->n_stages; i++) {
        const fnn_stage *s = &c->stages[i];
        const fnn_stage_rows *r = &rows->stages[i];
        kept *k = &keep[i];
        if (at == COARSE) measure(s, loops, r, row, work, k);
        double part = 0, share = 1;
        const double length_r = s->input_scale * (k->length_r + k->inexact);
        if (r->a != NULL) {
            part = s->residual * length_r;
            if (at == FINE && s->directions != NULL) {
                const double g = root(loops->along(s, r->a + row * r->a_stride, r->q + row * r->q_stride));
                const double near = s->direction_scale * g + s->slop * (k->length_r + LOST);
                const double far = s->tail * k->length_r;
                const double finer = sqrt(near * near + far * far) + s->residual * k->inexact;
                part = smaller(s->input_scale * finer * UP, part);
            }
        } else if (at == FINE) { /* a product with 0 is added without rounding */
            const uint8_t *q = r->q + row * r->q_stride;
            share = (double)loops->nonzero(q, s->n_inputs) / (double)s->n_inputs;
        }
        l.before = l.error;
        l.length_r = length_r;
        l.length_p = k->length_p;
        l.length_x = k->length_x;
        l.length_q = k->length_q;
        l.length_reference =
            share * (s->input_scale * k->length_x + length_r + unit_before * l.before) * UP;
        const double noise = s->noise * k->length_p + s->defect * k->length_x;
        l.z_norm = (s->error * l.before + part + noise + s->fixed + s->per_q * k->length_q +
                    s->per_x * l.length_reference) * UP;
        const int is_last = i + 1 == c->n_stages;
        if (is_last) { /* activation(z)'s length */
            kept *last = &keep[c->n_stages];
            if (at == COARSE)
                last->length_x =
                    length_of(loops, rows->hidden + row * rows->hidden_stride, c->n_inputs);
            l.length_a = last->length_x;
        } else if (s->per_a > 0) {
            const fnn_stage_rows *next = &rows->stages[i + 1];
            l.length_a = length_of(loops, next->a + row * next->a_stride, s->n_outputs);
        }
        l.error = (s->per_z * l.z_norm + s->per_a * l.length_a + s->fixed_a) * UP;
        unit_before = s->largest_unit;
    }
    return l;
}

/* ---- the last layer -------------------------------------------------------------------------- */

/* live[n] = 0 where activation(z[n]) is certainly the same constant in float32, else 1. */
static void find_live(const fnn_certificate *c, const fnn_certify_loops *loops, const lengths *l,
                      const float *z, float *live)
{
    const fnn_stage *s = &c->stages[c->n_stages - 1];
    const double up = 1 + 0x1p-20; /* a dozen float32 roundings, and those of the factors */
    const float factors[FNN_N_EACH] = {
        (float)(l->z_norm * up),   (float)(l->before * up),   (float)(l->length_r * up),
        (float)(l->length_p * up), 1 + 0x1p-20f,              (float)(l->length_q * up),
        (float)(l->length_reference * up),
    };
    const float rest = (float)(s->each_defect * l->length_x * up) + 0x1p-120f;
    loops->live(s->each, factors, rest, (float)s->flat_below, (float)s->flat_above, z, live,
                s->n_outputs);
}

/* At least |live * (x - y)|. */
static double live_length(const fnn_certify_loops *loops, const float *live, const float *x,
                          const float *y, int64_t n)
{
    return root_of_floats(loops->live_squares(live, x, y, n), n);
}

typedef struct { float first, second; int has_nan; } highest;

static highest highest_of(const float *y, int64_t n)
{
    highest top = {-INFINITY, -INFINITY, 0};
    for (int64_t j = 0; j < n; j++) { /* without branches: they would be guessed wrong */
        const float lower = y[j] < top.first ? y[j] : top.first;
        top.second = lower > top.second ? lower : top.second;
        top.first = y[j] > top.first ? y[j] : top.first;
        top.has_nan |= y[j] != y[j];
    }
    return top;
}

/* Whether the row's label is certain at this level; *bound as in fnn_certify. */
static int is_certain(const fnn_certificate *c, const lengths *l,
                      const fnn_certify_loops *loops, const float *y, const highest *top,
                      const float *live, double *bound)
{
    const int64_t n = c->n_inputs, n_outputs = c->n_outputs;
    const float *const zeros = live != NULL ? live + n : NULL;
    const double length = 2 * l->length_a + c->stages[c->n_stages - 1].largest_unit * l->error;
    if (n_outputs == 1) {
        double own = c->pair[0];
        if (live != NULL)
            own = smaller(live_length(loops, live, c->weight, zeros, n) + c->weight_slop[0], own);
        *bound = (own * l->error + c->fixed[0] + length * c->per_a[0]) * UP;
        return fabs((double)y[0]) > *bound;
    }
    if (top->has_nan) return 0;
    int64_t best = 0;
    if (c->by_z && live == NULL) { /* most rows: one comparison for all others */
        *bound = (c->pair_most * l->error + 2 * (c->fixed_largest + length * c->per_a_largest)) * UP;
        if ((double)top->first - (double)top->second > *bound) return 1;
    }
    while (y[best] != top->first) best++;
    const float *w = c->weight;
    double best_each = 0, least = INFINITY;
    int certain = 1;
    for (int64_t turn = 0; turn <= n_outputs; turn++) { /* the best itself first, if it counts */
        const int64_t j = turn == 0 ? best : turn - 1;
        if (turn > 0 && j == best) continue;
        if (turn == 0 && c->by_z) continue;
        const double rounding = c->fixed[j] + length * c->per_a[j];
        const double margin = (double)y[best] - (double)y[j];
        double possible;
        if (c->by_z) {
            const double both = rounding + c->fixed[best] + length * c->per_a[best];
            double own = c->pair[best * n_outputs + j];
            possible = (own * l->error + both) * UP;
            if (!(margin > possible) && live != NULL) {
                const double slop = c->weight_slop[best] + c->weight_slop[j];
                own = smaller(live_length(loops, live, w + best * n, w + j * n, n) + slop, own);
                possible = (own * l->error + both) * UP;
            }
        } else {
            double own = c->pair[j];
            if (live != NULL)
                own = smaller(live_length(loops, live, w + j * n, zeros, n) + c->weight_slop[j], own);
            double each = c->last_constant * (own * l->error + rounding) * UP;
            if (!c->is_exact)
                each += (ACTIVATION_ERROR * (2 * fabs((double)y[j]) + each) + 8 * TINY) * UP;
            if (turn == 0) {
                best_each = each;
                continue;
            }
            possible = (best_each + each) * UP;
        }
        certain &= margin > possible;
        if (margin - possible < least) {
            least = margin - possible;
            *bound = possible;
        }
    }
    return certain;
}

size_t fnn_certify_work_bytes(const fnn_certificate *c)
{
    int64_t most = 2 * c->n_inputs * (int64_t)sizeof(float); /* live, and zeros */
    for (int i = 0; i < c->n_stages; i++) {
        const fnn_stage *s = &c->stages[i];
        int64_t n = 2 * s->n_inputs; /* p: 16 bits */
        for (int t = 0; t < s->n_taps; t++) /* or a row between zeros */
            if (s->lag[t] + s->n_inputs + 64 > n) n = s->lag[t] + s->n_inputs + 64;
        if (n > most) most = n;
    }
    return (size_t)most + (size_t)(c->n_stages + 1) * sizeof(kept) + 64;
}

int64_t fnn_certify(const fnn_certificate *c, const fnn_certify_loops *loops,
                    const fnn_certify_rows *rows, int64_t n_rows, uint8_t *is_doubtful,
                    double *bound, void *work)
{
    kept *keep = work;
    void *const rest = keep + c->n_stages + 1;
    int64_t n_doubtful = 0;
    for (int64_t row = 0; row < n_rows; row++) {
        const float *y = rows->logits + row * rows->logits_stride;
        const highest top = highest_of(y, c->n_outputs);
        double distance = INFINITY;
        int certain = 0;
        if (c->crude_square < INFINITY) { /* n_stages == 1, its q exact: |q|^2 <= 255 sum q */
            const fnn_stage_rows *r = rows->stages;
            const double q = (double)loops->sum(r->q + row * r->q_stride, c->stages->n_inputs);
            const double beyond = (double)top.first - (double)top.second - c->crude_fixed;
            certain = !top.has_nan && beyond > 0 && beyond * beyond > c->crude_square * q;
        }
        if (!certain) memset(keep, 0, (size_t)(c->n_stages + 1) * sizeof *keep);
        for (int at = COARSE; at <= FINE && !certain; at++) {
            const lengths l = walk(c, loops, rows, row, (level)at, keep, rest);
            float *live = NULL;
            if (at == FINE) {
                live = rest;
                memset(live + c->n_inputs, 0, (size_t)c->n_inputs * sizeof *live);
                find_live(c, loops, &l, rows->z + row * rows->z_stride, live);
            }
            certain = is_certain(c, &l, loops, y, &top, live, &distance);
        }
        is_doubtful[row] = !certain;
        n_doubtful += !certain;
        if (bound != NULL) bound[row] = distance;
    }
    return n_doubtful;
}
