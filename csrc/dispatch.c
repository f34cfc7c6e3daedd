/* The ordered list of kernels and the choice of one.
 *
 * What lives here: `rows`, best first; the ISA names in rank order; fnn_select.
 * Invariant: a row is usable iff the CPU has what it needs, the OS permits it and its ISA is at most the
 * ceiling. The scalar row needs nothing, so a choice fails only for a ceiling that is unknown, missing or not
 * permitted. No state.
 */
#include <string.h>

#include "kernel.h"

static const fnn_row *const rows[] = {
#ifdef HAVE_AMX
    &fnn_row_i8_amx,
#endif
#ifdef HAVE_AVX512BF16
    &fnn_row_bf16_avx512bf16,
#endif
#ifdef HAVE_AVX512VNNI
    &fnn_row_i8_avx512vnni,
#endif
#ifdef HAVE_AVX512
    &fnn_row_f32_avx512, &fnn_row_bf16_avx512, &fnn_row_i8_avx512,
#endif
#ifdef HAVE_AVXVNNI
    &fnn_row_i8_avxvnni,
#endif
#ifdef HAVE_AVX2
    &fnn_row_f32_avx2, &fnn_row_bf16_avx2, &fnn_row_i8_avx2,
#endif
#ifdef HAVE_NEON
    &fnn_row_f32_neon, &fnn_row_bf16_neon, &fnn_row_i8_neon,
#endif
    &fnn_row_f32_scalar, &fnn_row_bf16_scalar, &fnn_row_i8_scalar,
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

/* In rank order: under a ceiling, this ISA and those above it in the list may be used. */
const fnn_isa fnn_isas[] = {
    {"scalar", 0, "scalar", 0},
#if defined(__x86_64__)
    {"avx2", FNN_NEEDS_AVX2, "avx2", 0},
    {"avxvnni", FNN_NEEDS_AVX2 | FNN_CPU(AVX_VNNI), "avxvnni", 0},
    {"avx512", FNN_NEEDS_AVX512, "avx512", 0},
    {"avx512vnni", FNN_NEEDS_AVX512 | FNN_CPU(AVX512_VNNI), "avx512vnni", 0},
    {"avx512bf16", FNN_NEEDS_AVX512 | FNN_CPU(AVX512_VNNI) | FNN_CPU(AVX512_BF16), "avx512bf16", 0},
    {"amx", FNN_NEEDS_AVX512 | FNN_CPU(AVX512_VNNI) | FNN_CPU(AMX_TILE) | FNN_CPU(AMX_INT8), "amx", 1},
#elif defined(__aarch64__)
    {"neon", FNN_CPU(ASIMD), "neon", 0},
#endif
};
const int fnn_n_isas = sizeof fnn_isas / sizeof fnn_isas[0];

static int rank(const char *isa)
{
    for (int i = 0; i < fnn_n_isas; i++)
        if (strcmp(fnn_isas[i].name, isa) == 0) return i;
    return -1;
}

int fnn_isa_is_available(const fnn_isa *isa)
{
    if ((isa->needs & ~fnn_cpu_features()) != 0) return 0;
    for (int i = 0; i < N_ROWS; i++)
        if (strcmp(rows[i]->isa, isa->kernel) == 0) return 1;
    return 0; /* the compiler was too old for it */
}

fnn_status fnn_select(const char *isa, const char *format, const fnn_row **row)
{
    int ceiling = fnn_n_isas - 1;
    while (fnn_isas[ceiling].is_only_named) ceiling--;
    if (isa != NULL) {
        ceiling = rank(isa);
        if (ceiling < 0) return FNN_UNKNOWN_ISA;
        if (!fnn_isa_is_available(&fnn_isas[ceiling]) || !fnn_cpu_permits(fnn_isas[ceiling].needs))
            return FNN_ISA_MISSING;
    }
    const uint64_t has = fnn_cpu_features();
    for (int i = 0; i < N_ROWS; i++) {
        if ((rows[i]->needs & ~has) == 0 && rank(rows[i]->isa) <= ceiling &&
            strcmp(rows[i]->format, format) == 0 && fnn_cpu_permits(rows[i]->needs)) {
            *row = rows[i];
            return FNN_OK;
        }
    }
    return FNN_BAD_FORMAT;
}

int fnn_n_rows(void) { return N_ROWS; }
const fnn_row *fnn_row_at(int i) { return i >= 0 && i < N_ROWS ? rows[i] : NULL; }
const char *fnn_row_isa(const fnn_row *row) { return row->isa; }
const char *fnn_row_format(const fnn_row *row) { return row->format; }
uint64_t fnn_row_needs(const fnn_row *row) { return row->needs; }
int fnn_row_mr(const fnn_row *row) { return row->mr; }
int fnn_row_nr(const fnn_row *row) { return row->nr; }

const fnn_activation fnn_activations[] = {
#define ENTRY(name, n, p0, d0, p1, d1, last, by_z) {#name, n, {p0, p1}, {d0, d1}, last, by_z},
    FNN_ACTIVATIONS(ENTRY)
#undef ENTRY
};
const int fnn_n_activations = FNN_N_ACTIVATIONS;
