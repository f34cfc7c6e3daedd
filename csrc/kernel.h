/* The contract between network.c and the kernels: the table row and the packed-panel layout.
 *
 * What lives here: struct fnn_row, one constant per (ISA, number format), exported by the
 * kernels_<isa>.c files and listed by dispatch.c; the tile contract; the limits on sizes.
 * Invariant: a row is constant data; which one a layer uses is decided when it is packed.
 *
 * Packed weights: N is cut into panels of nr columns, the last padded with zeros. A panel holds its
 * columns of all K inputs, one input's nr weights side by side:
 *
 *            panel 0            panel 1                     in memory
 *        +- nr columns -+   +- nr columns -+
 *   k=0  | w00 w01 ...  |   |              |      panel 0: k=0 | k=1 | ... | k=K-1
 *   k=1  | w10 w11 ...  |   |              |      panel 1: k=0 | k=1 | ... | k=K-1
 *   ...  |              |   |              |
 *
 * so the weights of an input that is zero are one piece that need not be touched.
 *
 * Same row, same bits: every output is fma(x[k], w[k], .. fma(x[0], w[0], bias)), one chain in
 * ascending k; a vector runs along outputs, K is never split. x[k] = 0 may be left out: fma(0, w, c)
 * is c for finite w, but for the sign of a zero c, and adding +0.0 at the end gives zeros one sign.
 */
#ifndef FNN_KERNEL_H
#define FNN_KERNEL_H

#include "activations.h"
#include "fastnn.h"

/* Bits of fnn_row.needs, fnn_isa.needs and fnn_cpu_features(). X(bit, name as in /proc/cpuinfo). */
#define FNN_CPU_FEATURES(X)                                                                        \
    X(AVX2, "avx2") X(FMA, "fma") X(AVX_VNNI, "avx_vnni") X(AVX512F, "avx512f")                    \
    X(AVX512BW, "avx512bw") X(AVX512DQ, "avx512dq") X(AVX512VL, "avx512vl")                        \
    X(AVX512_VNNI, "avx512_vnni") X(AVX512_BF16, "avx512_bf16") X(ASIMD, "asimd")

enum {
#define FNN_BIT(id, name) FNN_BIT_##id,
    FNN_CPU_FEATURES(FNN_BIT)
#undef FNN_BIT
    FNN_N_CPU_FEATURES
};
#define FNN_CPU(id) ((uint64_t)1 << FNN_BIT_##id)
#define FNN_NEEDS_AVX2 (FNN_CPU(AVX2) | FNN_CPU(FMA))
#define FNN_NEEDS_AVX512 (FNN_NEEDS_AVX2 | FNN_CPU(AVX512F) | FNN_CPU(AVX512BW) | \
                          FNN_CPU(AVX512DQ) | FNN_CPU(AVX512VL))

/* Own buffers end in so many spare elements: kernels may read and write whole vectors there. */
enum { FNN_SLACK = 64, FNN_MAX_MR = 16 };

/* One tile: y[m, n] = act(x[m, K] @ w[K, n] + bias[n]) for m <= mr rows and n columns of panels. */
typedef struct {
    int m;                 /* rows, 1..mr */
    int64_t n;             /* columns, from the first panel on; y is written up to whole vectors */
    const float *x;        /* [m, K], own memory */
    int64_t ldx;           /* floats between its rows */
    const uint32_t *list;  /* [n_active] the inputs that are not zero in all m rows, ascending */
    int64_t n_active;
    const float *w;        /* first panel, [panels, K, nr] */
    int64_t panel_stride;  /* floats between panels: K * nr */
    const float *bias;     /* [panels * nr] */
    float *y;              /* own memory, [m, panels * nr], not x */
    int64_t ldy;
    int is_relu;           /* act is relu, else identity */
    int is_continued;      /* the chain starts from y, not from the bias ... */
    int is_unfinished;     /* ... and y is to hold it as it is: K in several calls, same bits */
    uintptr_t ahead;       /* gemm_packed: address of weights needed next, fetched on the way ... */
    int64_t ahead_step;    /* ... so many bytes an input */
} fnn_tile;

/* Input rows to own floats, and the list of inputs that matter. */
typedef struct {
    int m;
    int64_t k;
    const void *x;         /* caller's [m, k], columns contiguous; NULL: `to` is filled */
    int64_t row_stride;    /* bytes */
    float *to;             /* own [m, k] */
    int64_t ld;
    uint32_t *list;        /* own [k + FNN_SLACK] */
    int keep_zeros;        /* list all */
} fnn_encode;

struct fnn_row {
    const char *isa, *format;
    uint64_t needs;
    int mr, nr;
    double rate; /* multiply-adds a nanosecond, roughly: of one core, for estimates */
    int64_t (*encode_u8)(const fnn_encode *);  /* return the length of the list */
    int64_t (*encode_f32)(const fnn_encode *);
    void (*gemm)(const fnn_tile *);
    /* Many outputs: NULL, or pack turns e->to of m = mr rows into to[n_active, mr], the listed inputs
     * alone, not in place, and gemm_packed takes that as x, whatever ldx. */
    void (*pack)(const fnn_encode *, int64_t n_active, float *to);
    void (*gemm_packed)(const fnn_tile *);
    fnn_activate_fn *const *activate; /* [FNN_N_ACTIVATIONS]; on own memory: whole vectors */
    double (*burn)(int64_t n);
};

/* dispatch.c */
extern const fnn_row fnn_row_f32_scalar, fnn_row_f32_avx2, fnn_row_f32_avx512, fnn_row_f32_neon;

/* cpu.c */
size_t fnn_l2_bytes(void);                  /* of one core; a guess where nobody says */
uint64_t fnn_fp_mode_default(void);         /* to nearest, no flushing, no traps; returns */
void fnn_fp_mode_restore(uint64_t mode);    /* what was set before, for this */

/* pack.c: w[K, N] of any strides and the bias to panels of nr; to_bias[ceil(N/nr) * nr].
 * Returns 0 if a value is NaN or infinite. */
int64_t fnn_panels(int64_t n, int nr);
int fnn_pack_f32(const fnn_dense *layer, int nr, float *to, float *to_bias);

/* threads.c: `body(context, i, is_caller)` for i in [0, n), by up to n_threads threads, the caller
 * among them. Returns how many threads did any. A body that returns 0 stops the rest; so does
 * `go_on(context)`, which the caller asks every 20 ms while it waits for others. Inline if the pool is
 * busy. Bodies run with unspecified floating-point mode. */
int64_t fnn_parallel_for(int64_t n, int n_threads, int (*body)(void *, int64_t, int),
                         int (*go_on)(void *), void *context);

/* Memory of the calling thread, aligned to 64; NULL: none left. Kept from one taking to the next;
 * taken again before it is given back (`poll` may run a signal handler that predicts), it is fresh
 * memory, freed when given back. */
void *fnn_workspace_take(size_t n_bytes);
void fnn_workspace_give_back(void *memory);

#endif
