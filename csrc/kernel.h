/* The contract between network.c and the kernels: the table row and the packed-panel layout.
 *
 * What lives here: struct fnn_row, one constant per (ISA, number format), exported by the
 * kernels_<isa>.c files and listed by dispatch.c; the tile contract; the limits on sizes.
 * Invariant: a row is constant data; which one a layer uses is decided when it is packed.
 *
 * Packed weights: N is cut into panels of nr columns, the last padded with zeros, and K into groups of
 * kr inputs that fill 4 bytes (operands.h). A panel holds its columns of all groups, a group's nr times
 * kr weights side by side, kw bytes a column; drawn for kr = 1:
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

#include <stdatomic.h>

#include "activations.h"
#include "certify.h"
#include "fastnn.h"

/* Bits of fnn_row.needs, fnn_isa.needs and fnn_cpu_features(). X(bit, name as in /proc/cpuinfo). */
#define FNN_CPU_FEATURES(X)                                                                        \
    X(AVX2, "avx2") X(FMA, "fma") X(AVX_VNNI, "avx_vnni") X(AVX512F, "avx512f")                    \
    X(AVX512BW, "avx512bw") X(AVX512DQ, "avx512dq") X(AVX512VL, "avx512vl")                        \
    X(AVX512_VNNI, "avx512_vnni") X(AVX512_BF16, "avx512_bf16") X(AMX_TILE, "amx_tile")            \
    X(AMX_INT8, "amx_int8") X(ASIMD, "asimd")

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

/* What becomes of a tile's sums. */
typedef enum {
    FNN_SUSPEND, /* nothing: y holds them as they are, 4 bytes each, for is_continued */
    FNN_Z,       /* float z; -0 becomes +0 */
    FNN_RELU,    /* float z > 0 ? z : 0, NaN kept */
    FNN_TO_U8,   /* i8 only: z rounded half to even, held in 0..255, of the row's size: 4 / kr bytes */
} fnn_finish;

/* One tile: y[m, n] = finish(x[m, K] @ w[K, n]) for m <= mr rows and n columns of panels. Strides are
 * in bytes. */
typedef struct {
    int m;                 /* rows, 1..mr */
    int64_t n;             /* columns, from the first panel on; y is written up to whole vectors */
    const void *x;         /* [m, groups], of which nothing else is read */
    int64_t ldx;
    const uint32_t *list;  /* [n_active] the groups that are not zero in all m rows, ascending */
    int64_t n_active;
    int has_gaps;          /* a good part of the groups is not listed; the list has FNN_SLACK spare elements */
    const void *w;         /* first panel, [panels, groups, nr] of kw bytes */
    int64_t panel_stride;  /* between panels: groups * nr * kw */
    const float *bias;     /* [panels * nr] what a sum starts from; i8: z = sum * scale + bias */
    const float *scale;    /* i8 only */
    void *y;               /* own memory, [m, panels * nr], not x */
    int64_t ldy;
    fnn_finish finish;
    int is_continued;      /* the chain starts from what FNN_SUSPEND left in y */
    uintptr_t ahead;       /* address of weights needed next, which whole tiles fetch on the way ... */
    int64_t ahead_step;    /* ... so many bytes a group; 0: they do not */
} fnn_tile;

/* Input rows to own rows of a kernel's format, and the list of groups that matter. */
typedef struct {
    int m;
    int64_t k;             /* inputs, of which kr are a group */
    const char *const *x;  /* [m] rows of k, columns contiguous; NULL: `to` is filled. Floats may lie in `to` */
    void *to;              /* own [m, k] of the format; where x is NULL, only read */
    int64_t ld;            /* bytes */
    uint32_t *list;        /* own [groups + FNN_SLACK] */
    int keep_zeros;        /* list all */
    float inverse, zero;   /* i8 from floats: x * inverse + zero, rounded half to even, in 0..255 */
    unsigned *is_nan;      /* i8 from floats: bit i is set if row i has a NaN, which u8 cannot say */
} fnn_encode;

struct fnn_row {
    const char *isa, *format;
    uint64_t needs;
    int mr, nr, kr;
    int kw; /* bytes of a column's weights of a group: 4, or 2 where use widens them */
    double rate; /* multiply-adds a nanosecond, roughly: of one core, for estimates */
    int64_t (*encode_u8)(const fnn_encode *);  /* return the length of the list */
    int64_t (*encode_f32)(const fnn_encode *);
    void (*gemm)(const fnn_tile *);
    /* Many outputs: NULL, or pack turns e->to of m = mr rows into to[n_active, mr], the listed groups
     * alone, not in place, and gemm_packed takes that as x, whatever ldx. */
    void (*pack)(const fnn_encode *, int64_t n_active, void *to);
    void (*gemm_packed)(const fnn_tile *);
    fnn_activate_fn *const *activate; /* f32 only: [FNN_N_ACTIVATIONS]; on own memory: whole vectors */
    int64_t (*argmax)(const float *y, int64_t n); /* f32 only: as np.argmax; on own memory: whole vectors */
    const fnn_certify_loops *certify; /* f32 only */
    double (*burn)(int64_t n);
    int groups; /* that gemm takes in a step; 0: one */
};

/* Groups that gemm multiplies for a tile: those listed, or all between the list's ends where it takes many in
 * a step; but for few rows. */
static inline int64_t fnn_multiplied(const fnn_row *row, const fnn_tile *t)
{
    if (row->groups <= 1 || t->m < row->mr / 4 || t->n_active == 0) return t->n_active;
    return (int64_t)t->list[t->n_active - 1] + 1 - t->list[0];
}

static inline int fnn_is_i8(const fnn_row *row) { return row->format[0] == 'i'; }

/* dispatch.c */
extern const fnn_row fnn_row_f32_scalar, fnn_row_f32_avx2, fnn_row_f32_avx512, fnn_row_f32_neon;
extern const fnn_row fnn_row_bf16_scalar, fnn_row_bf16_avx2, fnn_row_bf16_avx512,
    fnn_row_bf16_avx512bf16, fnn_row_bf16_neon;
extern const fnn_row fnn_row_i8_scalar, fnn_row_i8_avx2, fnn_row_i8_avxvnni, fnn_row_i8_avx512,
    fnn_row_i8_avx512vnni, fnn_row_i8_amx, fnn_row_i8_neon;

/* cpu.c */
size_t fnn_l2_bytes(void);                  /* of one core; a guess where nobody says */
int fnn_cpu_permits(uint64_t needs);        /* asks the OS for what it gives on request only */
uint64_t fnn_fp_mode_default(void);         /* to nearest, no flushing, no traps; returns */
void fnn_fp_mode_restore(uint64_t mode);    /* what was set before, for this */

/* order.c: an order of m rows of n_bytes each in which neighbours have their zeros in the same places, for
 * tiles of mr rows. Returns 0, and gives no order, where the rows show no difference or are short. */
enum { FNN_MOST_ORDERED = 1024 };
int fnn_order_rows(const char *const *x, int m, int64_t n_bytes, int mr, uint16_t *order);

/* Asks for memory that is read soon. */
static inline void fnn_fetch(const char *x, int64_t n_bytes)
{
    for (int64_t at = 0; at < n_bytes; at += 64) __builtin_prefetch(x + at, 0, 2);
    __asm__ volatile(""); /* gcc 12 drops calls of a function that does nothing but prefetch */
}

/* pack.c: the weights of a layer to panels of `row`, in its format. Return 0 if a value is NaN or
 * infinite. fnn_pack_piece: of some panels, some groups, weight by weight. fnn_pad: n floats and zeros
 * up to n_padded. */
typedef struct { int64_t panel, n_panels, group, n_groups; } fnn_piece;
int64_t fnn_panels(int64_t n, int nr);
int64_t fnn_groups(int64_t k, int kr);
int fnn_pack(const fnn_row *row, const fnn_dense *layer, void *to);
int fnn_pack_piece(const fnn_row *row, const fnn_dense *layer, fnn_piece piece, void *to,
                   int64_t panel_stride);
int fnn_pad(const float *from, int64_t n, int64_t n_padded, float *to);
uint16_t fnn_bf16(float x); /* to nearest, ties to even; NaN stays NaN */

/* pack.c, of arrays before they are packed. fnn_scale_rows: row i of a (k, n) matrix times factor[i] in
 * double, rounded to float once. */
int fnn_all_finite(const float *x, int64_t n);
void fnn_scale_rows(const float *from, const double *factor, int64_t k, int64_t n, float *to);

/* verify.c: a layer and what it was packed to. fnn_verify: FNN_BROKEN_KERNEL, and which, if a kernel
 * does not give what the scalar one does on pieces of them; `floats`: whose activations they use. */
typedef struct {
    const fnn_row *row;
    const fnn_dense *from;
    const void *w;                    /* packed */
    const float *bias, *scale;        /* as in fnn_tile, of all panels */
    const float *bias_u8, *scale_u8;  /* the same for FNN_TO_U8; NULL: not used */
    float inverse, zero;              /* as in fnn_encode */
} fnn_packed;

fnn_status fnn_verify(const fnn_packed *layers, int n, const fnn_row *floats, const fnn_row **broken);

/* threads.c: `body(context, i, is_caller)` for i in [0, n), by up to n_threads threads, the caller
 * among them. Returns how many threads did any. A body that returns 0 stops the rest; so does
 * `go_on(context)`, which the caller asks every 20 ms while it waits for others. Inline if the pool is
 * busy. Bodies run with unspecified floating-point mode. */
int64_t fnn_parallel_for(int64_t n, int n_threads, int (*body)(void *, int64_t, int),
                         int (*go_on)(void *), void *context);

/* Threads that share out one thing after another, faster than the pool wakes up: a leader, who would
 * do it all alone, and helpers, who look for shares until the end, without sleeping. Zeroed to begin.
 * fnn_team_share: body(context, i) for i in [0, n); returns when all is done, so that between shares
 * nobody else is at work (a signal handler may then fork). */
typedef struct {
    atomic_int_fast64_t next, limit, done; /* shares taken, offered and done since the beginning */
    int64_t base;                          /* what `next` was when the ones offered now began */
    void (*body)(void *, int64_t);
    void *context;
    atomic_int is_over;
} fnn_team;

void fnn_team_share(fnn_team *team, int64_t n, void (*body)(void *, int64_t), void *context);
void fnn_team_help(fnn_team *team);
void fnn_team_end(fnn_team *team);
int fnn_team_is_over(fnn_team *team);

/* Memory of the calling thread, aligned to 64; NULL: none left. Kept from one taking to the next;
 * taken again before it is given back (`poll` may run a signal handler that predicts), it is fresh
 * memory, freed when given back. */
void *fnn_workspace_take(size_t n_bytes);
void fnn_workspace_give_back(void *memory);

#endif
