/* Activations against libm's float64, in units of the last place of float32.
 *
 * Invariant: each activation that the engine lists has a line in `functions`, or the run fails; the
 * formulas are those of the definition, arranged so that float64 loses nothing that float32 shows.
 * An ULP is the distance of floats about the exact value; 0.5 is the best a float can do.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* ---- definitions --------------------------------------------------------------------------- */

typedef double definition(double x, const float *p);
#define DEFINE(name) static double exact_##name(double x, const float *p)
#define UNUSED (void)p

static double sigmoid(double x)
{
    const double e = exp(-fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}
static double held(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }
static double times_gate(double x, double gate) { return x == -INFINITY ? 0 : x * gate; }

DEFINE(identity) { UNUSED; return x; }
DEFINE(step) { UNUSED; return x > 0 ? 1 : 0; }
DEFINE(sigmoid) { UNUSED; return sigmoid(x); }
DEFINE(tanh) { UNUSED; return tanh(x); }
DEFINE(relu) { UNUSED; return x <= 0 ? 0 : x; }
DEFINE(leaky_relu) { return x < 0 ? p[0] * x : x; }
DEFINE(relu6) { UNUSED; return held(x, 0, 6); }
DEFINE(clip) { return held(x, p[0], p[1]); }
DEFINE(elu) { return x < 0 ? p[0] * expm1(x) : x; }
DEFINE(selu)
{
    const double scale = 1.0507009873554804934193349852946;
    const double alpha = 1.6732632423543772848170429916717;
    UNUSED;
    return scale * (x < 0 ? alpha * expm1(x) : x);
}
DEFINE(gelu) { UNUSED; return times_gate(x, 0.5 * erfc(-x * 0.70710678118654752440)); }
DEFINE(gelu_tanh)
{
    UNUSED;
    return times_gate(x, sigmoid(2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}
DEFINE(silu) { UNUSED; return times_gate(x, sigmoid(x)); }
DEFINE(hardsigmoid) { return held(p[0] * x + p[1], 0, 1); }
DEFINE(hardswish) { UNUSED; return times_gate(x, held(x + 3, 0, 6) / 6); }
DEFINE(softplus) { UNUSED; return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
DEFINE(softsign) { UNUSED; return isinf(x) ? copysign(1, x) : x / (1 + fabs(x)); }
DEFINE(exp) { UNUSED; return exp(x); }

static const struct {
    const char *name;
    definition *exact;
    double bound;       /* ULP */
    float required[2];  /* parameters without a default */
} functions[] = {
    {"identity", exact_identity, 0.5, {0, 0}},
    {"step", exact_step, 0.5, {0, 0}},
    {"sigmoid", exact_sigmoid, 2, {0, 0}},
    {"tanh", exact_tanh, 2, {0, 0}},
    {"relu", exact_relu, 0.5, {0, 0}},
    {"leaky_relu", exact_leaky_relu, 0.5, {0, 0}},
    {"relu6", exact_relu6, 0.5, {0, 0}},
    {"clip", exact_clip, 0.5, {-1.5f, 2.25f}},
    {"elu", exact_elu, 2, {0, 0}},
    {"selu", exact_selu, 2, {0, 0}},
    {"gelu", exact_gelu, 4, {0, 0}},
    {"gelu_tanh", exact_gelu_tanh, 4, {0, 0}},
    {"silu", exact_silu, 2, {0, 0}},
    {"hardsigmoid", exact_hardsigmoid, 2, {0, 0}},
    {"hardswish", exact_hardswish, 2, {0, 0}},
    {"softplus", exact_softplus, 2, {0, 0}},
    {"softsign", exact_softsign, 2, {0, 0}},
    {"exp", exact_exp, 2, {0, 0}},
};
enum { N_FUNCTIONS = sizeof functions / sizeof functions[0] };

/* The line of an elementwise activation, with its parameters. */
static int function_of(int activation, float parameters[2])
{
    const fnn_activation *a = &fnn_activations[activation];
    for (int i = 0; i < N_FUNCTIONS; i++) {
        if (!is_named(functions[i].name, a->name)) continue;
        for (int j = 0; j < 2; j++) {
            const float usual = j < a->n_parameters ? a->defaults[j] : 0;
            parameters[j] = isnan(usual) ? functions[i].required[j] : usual;
        }
        return i;
    }
    fail("activation %s: has no definition in check_activations.c", a->name);
    return -1;
}

/* |got - exact| in ULP of float32 at `exact`; 2^128 stands for infinity. */
static double ulps(float got, double exact)
{
    if (isnan(got) || isnan(exact)) return isnan(got) && isnan(exact) ? 0 : INFINITY;
    if (got == (float)exact) return 0.5; /* at most */
    const double limited = held(exact, -0x1p128, 0x1p128);
    int exponent = ilogb(limited);
    if (limited == 0 || exponent < -126) exponent = -126;
    if (exponent > 127) exponent = 127;
    return fabs(held(got, -0x1p128, 0x1p128) - limited) * ldexp(1, 23 - exponent);
}

/* ---- one stretch of floats ------------------------------------------------------------------- */

typedef struct { double worst; uint32_t at; uint64_t hash; long n; } finding;

enum { CHUNK = 4096 };

static void check_chunk(const fnn_row *row, int activation, int function, const float *p,
                        const float *x, int n, finding *f, int is_hashed)
{
    float y[CHUNK];
    memcpy(y, x, (size_t)n * sizeof *y);
    fnn_activate(row, activation, p, y, n);
    for (int i = 0; i < n; i++) {
        const double error = ulps(y[i], functions[function].exact(x[i], p));
        if (error > f->worst) {
            f->worst = error;
            f->at = bits_of(x[i]);
        }
    }
    if (is_hashed) f->hash = hashed_floats(f->hash, y, n);
    f->n += n;
}

static void check_bound(int function, const finding *f, const char *isa)
{
    if (!(f->worst <= functions[function].bound))
        fail("activation %s on %s: %.3f ULP at %a (%08x), bound %g", functions[function].name, isa,
             f->worst, (double)float_of(f->at), (unsigned)f->at, functions[function].bound);
}

/* ---- the sample ------------------------------------------------------------------------------ */

static void check_sample(const options *o, const fnn_row *row, int activation, const char *isa)
{
    /* Exponents about which something happens, at every few mantissas. */
    static const float corners[] = {0,     0x1p-149f, 0x1p-126f, 0x1.fffffcp-127f, 1e-30f, 1e-9f, 0x1p-24f,
                                    0x1p-12f, 0.5f,   0.625f,    1,        3,         6,      9,
                                    13.5f, 14.5f,     16,        17.4f,    20,        30,     87.3f,
                                    88.72284f, 103.97208f, 104, 128.5f,   150,       0x1p25f, 0x1p26f,
                                    0x1p127f, 0x1.fffffep127f, INFINITY, NAN};
    const uint32_t step = o->is_quick ? 100003 : 1009;
    float p[2], x[CHUNK];
    char group[40];
    finding f = {.worst = 0, .hash = HASH_START};
    const int function = function_of(activation, p);
    int n = 0;
    if (function < 0) return;
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += step) {
        x[n++] = float_of((uint32_t)bits);
        if (n == CHUNK) check_chunk(row, activation, function, p, x, n, &f, 1), n = 0;
    }
    check_chunk(row, activation, function, p, x, n, &f, 1);
    for (size_t c = 0; c < sizeof corners / sizeof corners[0]; c++) {
        const uint32_t middle = bits_of(corners[c]);
        n = 0;
        for (uint32_t sign = 0; sign < 2; sign++)
            for (uint32_t i = 0; i < 256; i++) x[n++] = float_of((middle + i - 128) ^ sign << 31);
        check_chunk(row, activation, function, p, x, n, &f, 1);
    }
    check_bound(function, &f, isa);
    snprintf(group, sizeof group, "activation-%s", functions[function].name);
    report_group(group, isa, f.hash, f.n);
}

void check_activations(const options *o, const char *isa)
{
    const fnn_row *row;
    fnn_select(isa, "f32", &row);
    for (int i = 0; i < fnn_n_activations; i++)
        if (!fnn_activations[i].last_layer_only) check_sample(o, row, i, isa);
}

/* ---- every float ----------------------------------------------------------------------------- */

/* Slice `index` of n: floats from a common counter, so that slow stretches are shared out. */
static void check_slices(const fnn_row *row, int activation, int function, const float *p,
                         uint32_t *next, finding *f)
{
    enum { N_SLICES = 1 << 12 };
    float x[CHUNK];
    for (;;) {
        const uint32_t slice = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (slice >= N_SLICES) return;
        for (uint32_t chunk = 0; chunk < (1u << 20) / CHUNK; chunk++) {
            for (uint32_t i = 0; i < CHUNK; i++) x[i] = float_of((slice << 20) + chunk * CHUNK + i);
            check_chunk(row, activation, function, p, x, CHUNK, f, 0);
        }
    }
}

void check_every_float(const options *o, const char *isa)
{
    enum { MOST = 256 };
    const int n_processes = o->n_processes < 1 ? 1 : o->n_processes > MOST ? MOST : o->n_processes;
    struct { uint32_t next; finding found[MOST]; } *shared;
    const fnn_row *row;
    fnn_select(isa, "f32", &row);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int a = 0; a < fnn_n_activations; a++) {
        float p[2];
        finding all = {.worst = 0};
        if (fnn_activations[a].last_layer_only) continue;
        if (o->only != NULL && !is_named(o->only, fnn_activations[a].name)) continue;
        const int function = function_of(a, p);
        if (function < 0) continue;
        memset(shared, 0, sizeof *shared);
        fflush(NULL);
        for (int i = 0; i < n_processes; i++) {
            if (fork() != 0) continue;
            check_slices(row, a, function, p, &shared->next, &shared->found[i]);
            _exit(0);
        }
        while (wait(NULL) > 0) {}
        for (int i = 0; i < n_processes; i++) {
            const finding *f = &shared->found[i];
            all.n += f->n;
            if (f->worst > all.worst) all.worst = f->worst, all.at = f->at;
        }
        printf("%-12s %-8s %10ld floats, worst %.3f ULP at %a (%08x), bound %g\n",
               functions[function].name, isa, all.n, all.worst, (double)float_of(all.at),
               (unsigned)all.at, functions[function].bound);
        fflush(stdout);
        if (all.n != 1l << 32) fail("%s: %ld floats, want 2^32", functions[function].name, all.n);
        check_bound(function, &all, isa);
    }
    munmap(shared, sizeof *shared);
}
