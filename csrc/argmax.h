/* Which of a row's values is the largest, in the ISA's vectors.
 *
 * Invariant: as np.argmax: the first NaN, else the first of the largest; the same on all ISAs. Included
 * by the kernels_<isa>.c; kernels_scalar.c has it in plain C.
 */

/* y[n], own memory: whole vectors of it are read. No branch depends on the values of up to a vector of
 * outputs, where it would be guessed wrongly two times a row. */
static int64_t argmax(const float *y, int64_t n)
{
    enum { W = FNN_VEC_WIDTH };
    int64_t best = 0;
    float top = 0;
    for (int64_t at = 0; at < n; at += W) {
        const unsigned is_in = n - at < W ? (1u << (n - at)) - 1 : (1u << W) - 1;
        const vf first = v_set1(y[at]);
        const vf all = v_load(y + at), v = v_select(v_mask(is_in), all, first);
        const unsigned is_nan = v_is_nan(v);
        if (is_nan != 0) return at + __builtin_ctz(is_nan);
        const float largest = v_largest(v);
        const unsigned is_largest = v_bits(v_ge(v, v_set1(largest)));
        if (at == 0 || largest > top) {
            best = at + __builtin_ctz(is_largest);
            top = largest;
        }
    }
    return best;
}
