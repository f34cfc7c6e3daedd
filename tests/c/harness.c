/* The C harness: the engine without Python, within reach of sanitizers and emulators.
 *
 *     harness [quick]                      every check on every ISA that this machine has
 *     harness exhaustive [NAME] [PROCESSES] all 2^32 floats through each activation, or through NAME
 *     harness planted                      show that a kernel which splits K is caught
 *
 * Build: each file of csrc/ with setup.py's flags of its ISA and HAVE_<ISA>, these files with -Icsrc,
 * -pthread -lm; tools/harness.py does it, also with sanitizers and for aarch64 under qemu.
 * Invariant: exit status 0 iff every case passed and every group ran one. stdout carries one line
 * `hash GROUP HEX` a group, which does not depend on ISA or machine: one compares these.
 */
#define _GNU_SOURCE
#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static long failures;

void fail(const char *format, ...)
{
    enum { N_SHOWN = 20 };
    if (++failures > N_SHOWN) return;
    va_list arguments;
    va_start(arguments, format);
    fputs("FAILED ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

long n_failures(void) { return failures; }
int is_named(const char *a, const char *b) { return strcmp(a, b) == 0; }

uint64_t hashed_floats(uint64_t hash, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) hash = hashed(hash, canonical(x[i]));
    return hash;
}

void report_group(const char *group, const char *isa, uint64_t hash, long n_cases)
{
    enum { MOST = 64 };
    static struct { char group[40]; uint64_t hash; } seen[MOST];
    static int n_seen;
    printf("%-24s %-10s %9ld cases\n", group, isa, n_cases);
    if (n_cases == 0) fail("%s on %s: no case ran", group, isa);
    for (int i = 0; i < n_seen; i++) {
        if (!is_named(seen[i].group, group)) continue;
        if (seen[i].hash != hash)
            fail("%s: %s has hash %016llx, another ISA %016llx", group, isa,
                 (unsigned long long)hash, (unsigned long long)seen[i].hash);
        return;
    }
    if (n_seen == MOST) abort();
    snprintf(seen[n_seen].group, sizeof seen[n_seen].group, "%s", group);
    seen[n_seen++].hash = hash;
    printf("hash %s %016llx\n", group, (unsigned long long)hash);
    fflush(stdout);
}

guarded guarded_allocate(size_t n_bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    n_bytes = (n_bytes + page - 1) / page * page;
    char *all = mmap(NULL, n_bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(all + page, n_bytes, PROT_READ | PROT_WRITE) != 0) {
        perror("harness: mmap");
        exit(2);
    }
    return (guarded){all + page, all + page + n_bytes};
}

void guarded_free(guarded area)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(area.start - page, (size_t)(area.end - area.start) + 2 * page);
}

fnn_network *create_network(const fnn_dense *layers, int n_layers, const fnn_dense *pixel,
                            const char *isa)
{
    fnn_network *network;
    int where;
    const fnn_status status = fnn_network_create(layers, n_layers, pixel, isa, &network, &where);
    if (status == FNN_OK) return network;
    fprintf(stderr, "harness: fnn_network_create: status %d, layer %d, %s\n", status, where, isa);
    exit(2);
}

int activation_named(const char *name)
{
    for (int i = 0; i < fnn_n_activations; i++)
        if (is_named(fnn_activations[i].name, name)) return i;
    fprintf(stderr, "harness: no activation %s\n", name);
    exit(2);
}

/* Whether a ceiling gets a kernel of its own for a format: several share one where they differ in others. */
static int has_own_kernel(const fnn_isa *isa, const char *format)
{
    const fnn_row *row;
    return fnn_isa_is_available(isa) && fnn_select(isa->name, format, &row) == FNN_OK &&
           is_named(fnn_row_isa(row), isa->name);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    options o = {.is_quick = is_named(what, "quick"),
                 .n_processes = argc > 3 ? atoi(argv[3]) : (int)sysconf(_SC_NPROCESSORS_ONLN),
                 .only = argc > 2 && !is_named(argv[2], "all") ? argv[2] : NULL};
    const char *best = NULL;
    int n_isas = 0;
    if (is_named(what, "planted")) return check_planted() ? 0 : 1;
    if (is_named(what, "case")) return argc > 3 && run_task(atoi(argv[2]), argv[3]) ? 0 : 3;
    if (*what && !o.is_quick && !is_named(what, "exhaustive")) {
        fprintf(stderr, "usage: harness [quick | planted | case I ISA | exhaustive [NAME|all [PROCESSES]]]\n");
        return 2;
    }
    for (int i = 0; i < fnn_n_isas; i++) {
        const char *isa = fnn_isas[i].name;
        n_isas += fnn_isa_is_available(&fnn_isas[i]);
        if (has_own_kernel(&fnn_isas[i], "f32")) best = isa;
        if (is_named(what, "exhaustive")) continue;
        if (has_own_kernel(&fnn_isas[i], "f32") || has_own_kernel(&fnn_isas[i], "bf16") ||
            has_own_kernel(&fnn_isas[i], "i8"))
            check_verify(&o, isa);
        if (has_own_kernel(&fnn_isas[i], "i8")) check_int8(&o, isa);
        if (best != isa) continue;
        check_kernels(&o, isa);
        check_networks(&o, isa);
        check_activations(&o, isa);
    }
    const fnn_row *unasked; /* not to be AMX, while that has not been measured */
    if (fnn_select(NULL, "i8", &unasked) != FNN_OK || is_named(fnn_row_isa(unasked), "amx"))
        fail("no kernel for int8, or AMX without being named");
    if (is_named(what, "exhaustive")) check_every_float(&o, best);
    for (int i = 0; i < fnn_n_isas; i++)
        if (!fnn_isa_is_available(&fnn_isas[i]))
            printf("NOT TESTED: %s, which this CPU or build lacks\n", fnn_isas[i].name);
    printf("%d ISAs, %ld failures\n", n_isas, failures);
    return failures != 0 || n_isas == 0;
}
