/* What the parts of the C harness share: counting, hashing, numbers, guarded memory.
 *
 * Invariant: everything here is the same on every machine and ISA, down to the bit: generators are
 * integer arithmetic, hashes see NaNs as one value. Start with harness.c.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stddef.h>
#include <stdint.h>

#include "fastnn.h"

typedef struct {
    int is_quick;     /* a few seconds: every n-th case */
    int n_processes;  /* of the exhaustive run */
    const char *only; /* of the exhaustive run: this function, NULL: all */
} options;

/* One failure: printed (the first few), counted. */
__attribute__((format(printf, 1, 2))) void fail(const char *format, ...);
long n_failures(void);

/* FNV-1a over 32-bit words. */
static const uint64_t HASH_START = 1469598103934665603u;
static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
static inline float float_of(uint32_t bits)
{
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
/* NaNs are equal whatever their sign and payload: those follow the CPU. */
static inline uint32_t canonical(float x) { return x != x ? 0x7fc00000u : bits_of(x); }
static inline uint64_t hashed(uint64_t hash, uint32_t word)
{
    return (hash ^ word) * (((uint64_t)1 << 40) + 0x1b3);
}
uint64_t hashed_floats(uint64_t hash, const float *x, int64_t n);
static inline int same_bits(float a, float b) { return canonical(a) == canonical(b); }

/* One group of cases under one ISA. The first ISA's hash is printed as `hash NAME HEX`, that of each
 * other ISA has to equal it; a group without a case fails. */
void report_group(const char *group, const char *isa, uint64_t hash, long n_cases);

/* SplitMix64 (G. Steele, D. Lea, C. Flood, 2014). */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static inline int64_t random_below(uint64_t *state, int64_t n)
{
    return (int64_t)(next_random(state) % (uint64_t)n);
}
/* 24 random bits times a power of two out of eight: sums of these round at every step. */
static inline float random_float(uint64_t *state)
{
    const uint64_t r = next_random(state);
    const float whole = (float)((int64_t)(r & 0x1ffffff) - 0x1000000) * 0x1p-24f;
    return whole * float_of((uint32_t)(127 - (r >> 25 & 7)) << 23);
}

/* Memory between two pages that fault when touched: [start, end), whole pages. */
typedef struct { char *start, *end; } guarded;
guarded guarded_allocate(size_t n_bytes);
void guarded_free(guarded area);

/* The network, or an exit with a message. */
fnn_network *create_network(const fnn_dense *layers, int n_layers, const fnn_dense *pixel,
                            const char *isa);
int activation_named(const char *name);
int is_named(const char *a, const char *b);

/* The parts. */
void check_kernels(const options *o, const char *isa);
void check_networks(const options *o, const char *isa);
void check_activations(const options *o, const char *isa);
void check_int8(const options *o, const char *isa);
void check_verify(const options *o, const char *isa);
void check_every_float(const options *o, const char *isa);
int run_task(int index, const char *isa); /* for counting instructions */
int check_planted(void); /* whether a kernel that splits K is caught */

#endif
