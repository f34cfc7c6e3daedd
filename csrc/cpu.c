/* What this machine is: CPU and OS features as one bit mask, the L2 cache, the floating-point mode.
 *
 * Invariant: a feature counts only when the CPU has it and the OS saves its registers (XGETBV), for
 * some virtual machines show the one without the other. Nothing is cached: these are asked for when
 * a network is created, not when it runs.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"

static const char *const names[FNN_N_CPU_FEATURES] = {
#define NAME(id, name) name,
    FNN_CPU_FEATURES(NAME)
#undef NAME
};

const char *fnn_cpu_feature_name(int i)
{
    return i >= 0 && i < FNN_N_CPU_FEATURES ? names[i] : NULL;
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>

static uint64_t xgetbv0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID. */
static uint64_t features(void)
{
    unsigned a, b, c, d, a1, b1, c1, d1;
    uint64_t has = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0; /* no OSXSAVE */
    const uint64_t saved = xgetbv0();
    const int is_fma = c >> 12 & 1;
    if ((saved & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0; /* XMM, YMM */
    if (!__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) a1 = 0;
    if (is_fma) has |= FNN_CPU(FMA);
    if (b >> 5 & 1) has |= FNN_CPU(AVX2);
    if (a1 >> 4 & 1) has |= FNN_CPU(AVX_VNNI);
    if ((saved & 0xe6) != 0xe6) return has; /* opmask, ZMM */
    if (b >> 16 & 1) has |= FNN_CPU(AVX512F);
    if (b >> 17 & 1) has |= FNN_CPU(AVX512DQ);
    if (b >> 30 & 1) has |= FNN_CPU(AVX512BW);
    if (b >> 31 & 1) has |= FNN_CPU(AVX512VL);
    if (c >> 11 & 1) has |= FNN_CPU(AVX512_VNNI);
    if (a1 >> 5 & 1) has |= FNN_CPU(AVX512_BF16);
    if ((saved & 0x60000) != 0x60000) return has; /* tiles */
    if (d >> 24 & 1) has |= FNN_CPU(AMX_TILE);
    if (d >> 25 & 1) has |= FNN_CPU(AMX_INT8);
    return has;
}

uint64_t fnn_cpu_features(void)
{
#ifdef FNN_EMULATED /* by tests/c/emulated */
    return features() | FNN_NEEDS_AVX512 | FNN_CPU(AVX512_VNNI) | FNN_CPU(AVX512_BF16) |
           FNN_CPU(AMX_TILE) | FNN_CPU(AMX_INT8);
#else
    return features();
#endif
}

/* 0x1f80: round to nearest, all exceptions masked, no flush-to-zero, no denormals-are-zero. */
uint64_t fnn_fp_mode_default(void)
{
    const unsigned before = _mm_getcsr();
    if ((before & ~0x3fu) != 0x1f80) _mm_setcsr(0x1f80 | (before & 0x3f));
    return before;
}

void fnn_fp_mode_restore(uint64_t mode) { _mm_setcsr((unsigned)mode); }

#elif defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMD
#define HWCAP_ASIMD (1 << 1)
#endif

uint64_t fnn_cpu_features(void)
{
    return getauxval(AT_HWCAP) & HWCAP_ASIMD ? FNN_CPU(ASIMD) : 0;
}

/* FPCR 0: round to nearest, no flushing, default-NaN off, no traps. FPSR keeps the sticky flags. */
uint64_t fnn_fp_mode_default(void)
{
    uint64_t mode, flags;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags));
    if (mode != 0) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return mode << 32 | flags;
}

void fnn_fp_mode_restore(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode >> 32));
    __asm__ volatile("msr fpsr, %0" : : "r"(mode & 0xffffffff));
}
#else
#error "fastnn supports x86-64 and aarch64"
#endif

/* Linux has room for 8 KB of tiles set aside for the threads of those processes alone that ask for it, before
 * they touch one (Documentation/arch/x86/xstate.rst). From then on an alternate signal stack has to have room
 * as well, so it is asked for when a network wants the kernel, not when fastnn is imported. */
int fnn_cpu_permits(uint64_t needs)
{
#if defined(__x86_64__) && !defined(FNN_EMULATED)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    if (needs & FNN_CPU(AMX_TILE))
        return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#endif
    (void)needs;
    return 1;
}

size_t fnn_l2_bytes(void)
{
    const long n_bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return n_bytes > 0 ? (size_t)n_bytes : 512 * 1024;
}
