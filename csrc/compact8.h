/* For ISAs without a compress instruction: the set bits of an 8-bit mask as lane numbers, in order, a byte
 * each from the lowest on.
 *
 * Invariant: constant data only, computed by the compiler; included by the vec_*.h that need it.
 */
#define AFTER7(b) ((b) & 128 ? UINT64_C(7) : 0)
#define AFTER6(b) ((b) & 64 ? 6 | AFTER7(b) << 8 : AFTER7(b))
#define AFTER5(b) ((b) & 32 ? 5 | AFTER6(b) << 8 : AFTER6(b))
#define AFTER4(b) ((b) & 16 ? 4 | AFTER5(b) << 8 : AFTER5(b))
#define AFTER3(b) ((b) & 8 ? 3 | AFTER4(b) << 8 : AFTER4(b))
#define AFTER2(b) ((b) & 4 ? 2 | AFTER3(b) << 8 : AFTER3(b))
#define AFTER1(b) ((b) & 2 ? 1 | AFTER2(b) << 8 : AFTER2(b))
#define LANES(b) ((b) & 1 ? AFTER1(b) << 8 : AFTER1(b)),
#define LANES4(b) LANES(b) LANES((b) + 1) LANES((b) + 2) LANES((b) + 3)
#define LANES16(b) LANES4(b) LANES4((b) + 4) LANES4((b) + 8) LANES4((b) + 12)
#define LANES64(b) LANES16(b) LANES16((b) + 16) LANES16((b) + 32) LANES16((b) + 48)
static const uint64_t fnn_lanes[256] = {LANES64(0) LANES64(64) LANES64(128) LANES64(192)};
#undef AFTER7
#undef AFTER6
#undef AFTER5
#undef AFTER4
#undef AFTER3
#undef AFTER2
#undef AFTER1
#undef LANES
#undef LANES4
#undef LANES16
#undef LANES64
