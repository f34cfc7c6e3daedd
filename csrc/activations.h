/* The one list of activations, and their bodies over the vector vocabulary.
 *
 * What lives here: FNN_ACTIVATIONS, from which the enum, the names, the kernel tables, the Python
 * listing and the tests are expanded; and, for files that have included a vec_*.h before, one
 * vector function per elementwise activation and the table `activate` of them.
 * Invariant: a body uses the vocabulary alone (add, sub, mul, div, fma, compare, select: each
 * correctly rounded on every ISA), in one fixed order, so all ISAs give the same bits. NaN gives
 * NaN except in step. Subnormal results are computed, not flushed.
 * Accuracy: at most 2 ULP, gelu and gelu_tanh 4, measured over all 2^32 inputs
 * (make test-exhaustive). The coefficients come from tools/fit_activations.py.
 * To add one: a line here, a body if it needs one, a function in fastnn/reference.py.
 */
#ifndef FNN_ACTIVATIONS_H
#define FNN_ACTIVATIONS_H

#include <stdint.h>

#define FNN_NONE __builtin_nanf("")

/* X(name, number of parameters, their names and defaults, last layer only, label by z) */
#define FNN_ACTIVATIONS(X)                                                \
    X(identity,    0, NULL,    0,            NULL,   0,        0, 1)      \
    X(step,        0, NULL,    0,            NULL,   0,        0, 0)      \
    X(sigmoid,     0, NULL,    0,            NULL,   0,        0, 1)      \
    X(tanh,        0, NULL,    0,            NULL,   0,        0, 1)      \
    X(relu,        0, NULL,    0,            NULL,   0,        0, 0)      \
    X(leaky_relu,  1, "alpha", 0.01f,        NULL,   0,        0, 0)      \
    X(relu6,       0, NULL,    0,            NULL,   0,        0, 0)      \
    X(clip,        2, "lo",    FNN_NONE,     "hi",   FNN_NONE, 0, 0)      \
    X(elu,         1, "alpha", 1,            NULL,   0,        0, 0)      \
    X(selu,        0, NULL,    0,            NULL,   0,        0, 0)      \
    X(gelu,        0, NULL,    0,            NULL,   0,        0, 0)      \
    X(gelu_tanh,   0, NULL,    0,            NULL,   0,        0, 0)      \
    X(silu,        0, NULL,    0,            NULL,   0,        0, 0)      \
    X(hardsigmoid, 2, "alpha", (float)(1 / 6.0), "beta", 0.5f, 0, 0)      \
    X(hardswish,   0, NULL,    0,            NULL,   0,        0, 0)      \
    X(softplus,    0, NULL,    0,            NULL,   0,        0, 0)      \
    X(softsign,    0, NULL,    0,            NULL,   0,        0, 0)      \
    X(exp,         0, NULL,    0,            NULL,   0,        0, 0)      \
    X(softmax,     0, NULL,    0,            NULL,   0,        1, 1)      \
    X(log_softmax, 0, NULL,    0,            NULL,   0,        1, 1)

enum {
#define FNN_ENUM(name, ...) FNN_act_##name,
    FNN_ACTIVATIONS(FNN_ENUM)
#undef FNN_ENUM
    FNN_N_ACTIVATIONS
};

/* y[n] = activation(y), in place and in whole vectors. */
typedef void fnn_activate_fn(const float parameters[2], float *y, int64_t n);

#endif

#if defined(FNN_VEC_WIDTH) && !defined(FNN_ACTIVATION_BODIES)
#define FNN_ACTIVATION_BODIES

#define C(x) v_set1(x)

/* ---- building blocks ------------------------------------------------------------------------- */

static inline vf v_min_keep_nan(vf x, vf hi) { return v_select(v_gt(x, hi), hi, x); }
static inline vf v_max_keep_nan(vf x, vf lo) { return v_select(v_lt(x, lo), lo, x); }

/* Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction. */
static inline vf v_rint(vf x) { return v_sub(v_add(x, C(0x1.8p23f)), C(0x1.8p23f)); }

/* x * 2^n for an integer |n| <= 252, rounded once: 2^(n/2) twice, as 2^n itself may be no float.
 * The bits of n + 127 + 1.5 * 2^23 end in n + 127; shifted left by 23 they are the float 2^n. */
static inline vf v_scale(vf x, vf n)
{
    vf half = v_rint(v_mul(n, C(0.5f)));
    vf low = v_shift_left_23(v_add(half, C(0x1.8p23f + 127)));
    vf high = v_shift_left_23(v_add(v_sub(n, half), C(0x1.8p23f + 127)));
    return v_mul(v_mul(x, low), high);
}

/* e^(x + t) = (head + tail) * 2^n with |t| << |x|; `rest` = e^r - 1 where head + tail = 1 + rest.
 * W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980). x is held in
 * [-150, 128.5]: beyond them e^x * anything a caller multiplies by is 0 or infinite. */
typedef struct { vf head, tail, rest, n; } v_exp_parts;

static inline v_exp_parts v_exp_split(vf x, vf t)
{
    x = v_min_keep_nan(v_max_keep_nan(x, C(-150.0f)), C(128.5f));
    vf n = v_rint(v_mul(x, C(0x1.715476p+0f)));
    vf r = v_fma(n, C(-0x1.63p-1f), x);         /* exact: few bits, and they cancel */
    r = v_add(v_fma(n, C(0x1.bd0106p-13f), r), t); /* 0x1.63p-1 - ln 2 */
    vf q = C(0x1.6a4ef0p-10f);
    q = v_fma(q, r, C(0x1.123982p-7f));
    q = v_fma(q, r, C(0x1.5558aep-5f));
    q = v_fma(q, r, C(0x1.555492p-3f));
    q = v_fma(q, r, C(0x1.fffffcp-2f));
    v_exp_parts e;
    e.n = n;
    e.rest = v_fma(v_mul(r, r), q, r);
    e.head = v_add(C(1.0f), e.rest);
    e.tail = v_sub(e.rest, v_sub(e.head, C(1.0f)));
    return e;
}

/* (head + tail) / (s + s_tail), all tails small: one Newton step on the rounded quotient. */
static inline vf v_div_corrected(vf head, vf tail, vf s, vf s_tail)
{
    vf inverse = v_div(C(1.0f), s);
    vf q = v_mul(head, inverse);
    vf left = v_add(v_fma(v_sub(C(0.0f), q), s, head), v_fma(v_sub(C(0.0f), q), s_tail, tail));
    return v_fma(left, inverse, q);
}

/* 1 / (1 + e^v) for v >= 0 is q * 2^n with e^-v = (head + tail) 2^n, 1 / (1 + e^-v) is 1 - that.
 * Returns sigma(v + t) as q * 2^n: for v < 0 the exponent is left for the caller to apply last,
 * so that a product with a subnormal sigmoid is rounded once. */
typedef struct { vf q, n; } v_scaled;

static inline v_scaled v_sigmoid_split(vf v, vf t)
{
    vm negative = v_lt(v, C(0.0f));
    vf minus_abs = v_select(negative, v, v_sub(C(0.0f), v));
    v_exp_parts e = v_exp_split(minus_abs, v_select(negative, t, v_sub(C(0.0f), t)));
    vf small = v_scale(e.head, e.n), small_tail = v_scale(e.tail, e.n);
    vf s = v_add(C(1.0f), small);
    vf s_tail = v_add(v_sub(small, v_sub(s, C(1.0f))), small_tail);
    vf head = v_select(negative, e.head, C(1.0f));
    vf tail = v_select(negative, e.tail, C(0.0f));
    v_scaled result = {v_div_corrected(head, tail, s, s_tail), v_select(negative, e.n, C(0.0f))};
    return result;
}

/* e^x - 1 for x <= 0: 2^n (1 + rest) - 1, the subtraction of 1 from 2^n being exact. */
static inline vf v_expm1_negative(vf x)
{
    v_exp_parts e = v_exp_split(v_max_keep_nan(x, C(-30.0f)), C(0.0f));
    vf scale = v_scale(C(1.0f), e.n);
    return v_fma(scale, e.rest, v_sub(scale, C(1.0f)));
}

/* ---- one function per activation; a and b are its parameters --------------------------------- */

#define ACTIVATION(name) static inline vf v_act_##name(vf x, vf a, vf b)
#define UNUSED (void)a, (void)b

ACTIVATION(identity) { UNUSED; return x; }
ACTIVATION(step) { UNUSED; return v_select(v_gt(x, C(0.0f)), C(1.0f), C(0.0f)); }

ACTIVATION(sigmoid)
{
    UNUSED;
    v_scaled s = v_sigmoid_split(x, C(0.0f));
    return v_scale(s.q, s.n);
}

ACTIVATION(tanh)
{
    UNUSED;
    vf s = v_mul(x, x);
    vf q = C(0x1.06e6c8p-9f);
    q = v_fma(q, s, C(-0x1.06e780p-7f));
    q = v_fma(q, s, C(0x1.627f1ep-6f));
    q = v_fma(q, s, C(-0x1.b9d594p-5f));
    q = v_fma(q, s, C(0x1.110fe6p-3f));
    q = v_fma(q, s, C(-0x1.555552p-2f));
    vf near = v_fma(v_mul(x, s), q, x);
    /* tanh a = 1 - 2 / (e^2a + 1); beyond 20 the quotient is lost in the rounding of 1. */
    vm negative = v_lt(x, C(0.0f));
    vf abs = v_select(negative, v_sub(C(0.0f), x), x);
    v_exp_parts e = v_exp_split(v_mul(C(2.0f), v_min_keep_nan(abs, C(20.0f))), C(0.0f));
    vf far = v_sub(C(1.0f), v_div(C(2.0f), v_add(v_scale(e.head, e.n), C(1.0f))));
    far = v_select(negative, v_sub(C(0.0f), far), far);
    return v_select(v_lt(abs, C(0.625f)), near, far);
}

ACTIVATION(relu) { UNUSED; return v_select(v_le(x, C(0.0f)), C(0.0f), x); }
ACTIVATION(leaky_relu) { (void)b; return v_select(v_lt(x, C(0.0f)), v_mul(a, x), x); }
ACTIVATION(relu6) { UNUSED; return v_min_keep_nan(v_max_keep_nan(x, C(0.0f)), C(6.0f)); }
ACTIVATION(clip) { return v_min_keep_nan(v_max_keep_nan(x, a), b); }

ACTIVATION(elu)
{
    (void)b;
    return v_select(v_lt(x, C(0.0f)), v_mul(a, v_expm1_negative(x)), x);
}

/* Constants: G. Klambauer et al., Self-Normalizing Neural Networks (2017); head + tail. */
ACTIVATION(selu)
{
    UNUSED;
    vm negative = v_lt(x, C(0.0f));
    vf y = v_select(negative, v_expm1_negative(x), x);
    vf head = v_select(negative, C(0x1.c212ccp+0f), C(0x1.0cfabep+0f));
    vf tail = v_select(negative, C(0x1.903c0cp-26f), C(-0x1.2adddap-25f));
    vf product = v_fma(y, head, v_mul(y, tail));
    return v_select(v_gt(y, C(0x1p127f)), v_mul(y, head), product); /* infinity - infinity */
}

/* x Phi(x), Phi(-a) = e^(-a^2/2) h(t) / (a + 3), h fitted in t = (a - 3) / (a + 3). a^2 is kept as
 * head + tail: half an ULP of a^2 near 200 would be 2^17 ULP of the result's exponent otherwise. */
ACTIVATION(gelu)
{
    UNUSED;
    vm negative = v_lt(x, C(0.0f));
    vf abs = v_min_keep_nan(v_select(negative, v_sub(C(0.0f), x), x), C(14.5f));
    vf sum = v_add(abs, C(3.0f));
    vf sum_tail = v_add(v_sub(C(3.0f), v_sub(sum, abs)), v_sub(abs, v_sub(sum, v_sub(sum, abs))));
    vf t = v_div_corrected(v_sub(abs, C(3.0f)), C(0.0f), sum, sum_tail);
    vf h = C(0x1.16b044p-14f);
    h = v_fma(h, t, C(-0x1.933212p-13f));
    h = v_fma(h, t, C(-0x1.fcab70p-11f));
    h = v_fma(h, t, C(0x1.064abep-10f));
    h = v_fma(h, t, C(0x1.c77c46p-8f));
    h = v_fma(h, t, C(-0x1.569908p-7f));
    h = v_fma(h, t, C(-0x1.83293cp-5f));
    h = v_fma(h, t, C(0x1.d712fep-3f));
    h = v_fma(h, t, C(-0x1.04c72ap-1f));
    h = v_fma(h, t, C(0x1.754a76p-1f));
    vf square = v_mul(abs, abs);
    vf square_tail = v_fma(abs, abs, v_sub(C(0.0f), square));
    v_exp_parts e = v_exp_split(v_mul(square, C(-0.5f)), v_mul(square_tail, C(-0.5f)));
    vf product = v_mul(abs, h);
    vf product_tail = v_fma(abs, h, v_sub(C(0.0f), product));
    vf q = v_div_corrected(product, product_tail, sum, sum_tail);
    vf lost = v_scale(v_fma(q, e.tail, v_mul(q, e.head)), e.n); /* a Phi(-a) */
    return v_select(negative, v_sub(C(0.0f), lost), v_sub(x, lost));
}

/* x sigma(v), v = 2 sqrt(2/pi) (x + 0.044715 x^3) as head + tail.
 * D. Hendrycks and K. Gimpel, Gaussian Error Linear Units (2016). */
ACTIVATION(gelu_tanh)
{
    UNUSED;
    vf limited = v_min_keep_nan(v_max_keep_nan(x, C(-16.0f)), C(16.0f));
    vf square = v_mul(limited, limited);
    vf square_tail = v_fma(limited, limited, v_sub(C(0.0f), square));
    vf cubic = v_mul(C(0x1.2444f2p-4f), square);
    vf cubic_tail = v_fma(C(0x1.2444f2p-4f), square, v_sub(C(0.0f), cubic));
    cubic_tail = v_fma(C(0x1.49b16ap-29f), square, cubic_tail);
    cubic_tail = v_fma(C(0x1.2444f2p-4f), square_tail, cubic_tail);
    vf w = v_add(C(0x1.988454p+0f), cubic); /* two-sum (D. Knuth), as either may be larger */
    vf part = v_sub(w, C(0x1.988454p+0f));
    vf w_tail = v_add(v_sub(C(0x1.988454p+0f), v_sub(w, part)), v_sub(cubic, part));
    w_tail = v_add(v_add(w_tail, C(-0x1.857936p-25f)), cubic_tail);
    vf v = v_mul(limited, w);
    vf v_tail = v_fma(limited, w_tail, v_fma(limited, w, v_sub(C(0.0f), v)));
    v_scaled s = v_sigmoid_split(v, v_tail);
    vm negative = v_lt(x, C(0.0f));
    return v_scale(v_mul(v_select(negative, limited, x), s.q), s.n);
}

ACTIVATION(silu)
{
    UNUSED;
    vf limited = v_max_keep_nan(x, C(-150.0f)); /* -infinity * 0 is to be 0 */
    v_scaled s = v_sigmoid_split(limited, C(0.0f));
    return v_scale(v_mul(limited, s.q), s.n);
}

ACTIVATION(hardsigmoid)
{
    return v_min_keep_nan(v_max_keep_nan(v_fma(a, x, b), C(0.0f)), C(1.0f));
}

/* x (x + 3) / 6 between -3 and 3; the roundings of sum and product are carried along. */
ACTIVATION(hardswish)
{
    UNUSED;
    vf sum = v_add(x, C(3.0f));
    vf part = v_sub(sum, C(3.0f));
    vf sum_tail = v_add(v_sub(x, part), v_sub(C(3.0f), v_sub(sum, part)));
    vf product = v_mul(x, sum);
    vf tail = v_fma(x, sum_tail, v_fma(x, sum, v_sub(C(0.0f), product)));
    vf y = v_div(v_add(product, tail), C(6.0f));
    y = v_select(v_le(x, C(-3.0f)), C(0.0f), y);
    return v_select(v_gt(x, C(3.0f)), x, y);
}

/* max(x, 0) + log1p(e), e = e^-|x|; log1p e = t + t^3 (..) with t = e / (1 + e/2). */
ACTIVATION(softplus)
{
    UNUSED;
    vm positive = v_gt(x, C(0.0f));
    v_exp_parts parts = v_exp_split(v_select(positive, v_sub(C(0.0f), x), x), C(0.0f));
    vf e = v_scale(parts.head, parts.n), e_tail = v_scale(parts.tail, parts.n);
    vf s = v_fma(e, C(0.5f), C(1.0f));
    vf s_tail = v_fma(C(0.5f), e, v_sub(C(1.0f), s));
    vf t = v_div_corrected(e, e_tail, s, v_fma(C(0.5f), e_tail, s_tail));
    vf square = v_mul(t, t);
    vf q = C(0x1.f08d12p-14f);
    q = v_fma(q, square, C(0x1.b72b5ap-12f));
    q = v_fma(q, square, C(0x1.250512p-9f));
    q = v_fma(q, square, C(0x1.9996d8p-7f));
    q = v_fma(q, square, C(0x1.555558p-4f));
    vf log1p = v_fma(v_mul(t, square), q, t);
    return v_select(positive, v_add(x, log1p), log1p);
}

ACTIVATION(softsign)
{
    UNUSED;
    vm negative = v_lt(x, C(0.0f));
    /* Held below infinity / infinity; from 2^25 on the quotient rounds to 1 anyway. */
    vf limited = v_min_keep_nan(v_max_keep_nan(x, C(-0x1p26f)), C(0x1p26f));
    vf abs = v_select(negative, v_sub(C(0.0f), limited), limited);
    return v_div(limited, v_add(C(1.0f), abs));
}

ACTIVATION(exp)
{
    UNUSED;
    v_exp_parts e = v_exp_split(x, C(0.0f));
    return v_scale(e.head, e.n);
}

/* These two need the whole row (network.c); their elementwise step is none. */
ACTIVATION(softmax) { UNUSED; return x; }
ACTIVATION(log_softmax) { UNUSED; return x; }

#undef ACTIVATION
#undef UNUSED
#undef C

/* ---- the table of a row ---------------------------------------------------------------------- */

#define DEFINE(name, ...)                                                          \
    static void activate_##name(const float parameters[2], float *y, int64_t n)    \
    {                                                                              \
        const vf a = v_set1(parameters[0]), b = v_set1(parameters[1]);             \
        for (int64_t i = 0; i < n; i += FNN_VEC_WIDTH)                             \
            v_store(y + i, v_act_##name(v_load(y + i), a, b));                     \
    }
FNN_ACTIVATIONS(DEFINE)
#undef DEFINE

static fnn_activate_fn *const activate[FNN_N_ACTIVATIONS] = {
#define ENTRY(name, ...) activate_##name,
    FNN_ACTIVATIONS(ENTRY)
#undef ENTRY
};
#endif
