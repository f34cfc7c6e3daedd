"""Builds and runs the C harness: the engine without Python, in reach of sanitizers and emulators.

    python tools/harness.py native      every ISA this CPU has
    python tools/harness.py sanitized   the same under the address and undefined-behaviour ones
    python tools/harness.py emulated    AVX-512 and AMX on a CPU that has AVX2 alone, in plain C
                                        (tests/c/emulated)
    python tools/harness.py neon        cross-built for aarch64, run by qemu; its hashes must be
                                        those of the native build
    python tools/harness.py instructions [record]
                                        instructions of fixed calls, counted by callgrind, beside
                                        those kept in tests/c/instructions.json

Arguments after that are the harness's own. Invariant: the flags are those of setup.py, so what is
tested here is what the extension is made of. What this machine cannot run prints "NOT TESTED: "
and a reason, and fails if FASTNN_STRICT=1.
"""

import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EMULATED = ("avx512", "avx512vnni", "avx512bf16", "amx")
CROSS_CC, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
COUNTS = ROOT / "tests" / "c" / "instructions.json"
MORE = 1.01  # as many instructions as were kept, times this, pass


def build(kind: str, compiler: str, architecture: str, mode: str, link: list[str]) -> Path:
    """Compile csrc/*.c and tests/c/*.c into build/harness/<kind>-<compiler>/, where outdated.

    Raises subprocess.CalledProcessError when the compiler fails; it has then said why.
    """
    recipe = runpy.run_path(str(ROOT / "setup.py"))
    isas = {
        isa: flags
        for isa, (architectures, flags) in recipe["ISAS"].items()
        if architecture in architectures and (ROOT / f"csrc/kernels_{isa}.c").exists()
    }
    mode_flags, mode_link = recipe["MODES"][mode]
    common = [*recipe["COMMON"], *recipe["STRICTER"], *mode_flags, "-Icsrc", "-Itests/c"]
    if kind == "emulated":
        isas |= dict.fromkeys(EMULATED, recipe["AVX2"])
        common += ["-Itests/c/emulated", "-DFNN_EMULATED", "-Wno-psabi", "-O1", "-UNDEBUG"]
    common += [f"-DHAVE_{isa.upper()}=1" for isa in isas]
    folder = ROOT / "build" / "harness" / f"{kind}-{Path(compiler).name}"
    folder.mkdir(parents=True, exist_ok=True)
    headers = [
        ROOT / "setup.py",
        ROOT / "csrc",
        *ROOT.glob("csrc/*.h"),
        *ROOT.glob("tests/c/**/*.h"),
    ]
    newest_header = max(path.stat().st_mtime for path in headers)

    def compile_c(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        newest = max(newest_header, source.stat().st_mtime)
        if not target.exists() or target.stat().st_mtime < newest:
            flags = [*common, *isas.get(recipe["isa_of"](source), [])]
            command = [compiler, *flags, "-c", str(source.relative_to(ROOT)), "-o", str(target)]
            subprocess.run(command, check=True, cwd=ROOT)
        return target

    sources = sorted([*ROOT.glob("csrc/*.c"), *ROOT.glob("tests/c/*.c")])
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        objects = [str(target) for target in pool.map(compile_c, sources)]
    program = folder / "harness"
    libraries = ["-pthread", *mode_link, *link, "-lm"]
    subprocess.run([compiler, *objects, *libraries, "-o", str(program)], check=True)
    return program


def native_compiler() -> str:
    return os.environ.get("CC", "cc")


def run(command: list[str], environment: dict[str, str] | None = None) -> list[str]:
    """Run the harness, pass on what it prints; its hash lines. Raises SystemExit if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"harness: {' '.join(command)} failed with status {done.returncode}")
    return [line for line in done.stdout.splitlines() if line.startswith("hash ")]


def native(arguments: list[str]) -> list[str]:
    program = build("native", native_compiler(), platform.machine(), "release", [])
    return run([str(program), *arguments])


def sanitized(arguments: list[str]) -> None:
    program = build("sanitized", native_compiler(), platform.machine(), "sanitize", [])
    options = {
        "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    run([str(program), *arguments], options)


def emulated(arguments: list[str]) -> None:
    """What this does not show: times, and whether a CPU knows the instructions."""
    if platform.machine() != "x86_64":
        print("NOT TESTED: AVX-512 and AMX are emulated on x86-64 alone")
        sys.exit(1 if os.environ.get("FASTNN_STRICT") == "1" else 0)
    program = build("emulated", native_compiler(), "x86_64", "release", [])
    run([str(program), *(arguments or ["quick"])])


def neon(arguments: list[str]) -> None:
    missing = [tool for tool in (CROSS_CC, EMULATOR) if not shutil.which(tool)]
    if missing:
        reason = f"NOT TESTED: NEON needs {' and '.join(missing)}"
        print(reason)
        sys.exit(1 if os.environ.get("FASTNN_STRICT") == "1" else 0)
    expected = native(arguments)
    program = build("neon", CROSS_CC, "aarch64", "release", ["-static"])
    found = run([EMULATOR, str(program), *arguments])
    if found != expected or not found:
        different = [
            f"  native {a}\n  neon   {b}" for a, b in zip(expected, found, strict=False) if a != b
        ]
        counts = f"{len(expected)} hashes native, {len(found)} NEON"
        sys.exit("\n".join([f"harness: NEON and this CPU disagree ({counts})", *different]))
    print(f"NEON under qemu: {len(found)} hashes equal to those of {platform.machine()}")


def count(program: Path, isa: str) -> dict[str, int]:
    """Instructions of two calls, by case. Valgrind knows no AVX-512: the ISAs are those below."""
    found: dict[str, int] = {}
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    valgrind += ["--toggle-collect=fnn_forward"]
    while True:
        done = subprocess.run(
            [
                *valgrind,
                "--callgrind-out-file=/dev/null",
                str(program),
                "case",
                str(len(found)),
                isa,
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode == 3:
            return found
        name = re.match(r"case (\S+)", done.stdout)
        collected = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode or not name or not collected or int(collected[1]) == 0:
            sys.exit(f"harness: no count for case {len(found)} on {isa}\n{done.stderr}")
        found[name[1]] = int(collected[1])


def instructions(arguments: list[str]) -> None:
    compiler = native_compiler()
    version = subprocess.run(
        [compiler, "-dumpfullversion"], capture_output=True, text=True, check=True
    ).stdout.strip()
    isa = {"x86_64": "avx2", "aarch64": "neon"}[platform.machine()]
    kept = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    key = f"{isa}, {version}"
    reason = None
    if not shutil.which("valgrind"):
        reason = "NOT TESTED: counting instructions needs valgrind"
    elif arguments != ["record"] and key not in kept:
        reason = f"NOT TESTED: no counts are kept for {key}, only for {'; '.join(kept)}"
    if reason:
        print(reason)
        sys.exit(1 if os.environ.get("FASTNN_STRICT") == "1" else 0)
    program = build("native", compiler, platform.machine(), "release", [])
    counts, before = count(program, isa), kept.get(key, {})
    n_worse = 0
    for case, n in counts.items():
        change = f"{n / before[case] - 1:+9.2%}" if case in before else "      new"
        is_worse = case in before and n > before[case] * MORE
        n_worse += is_worse
        print(f"{isa:<6}{case:<14}{n:>12,}{change}{'  MORE' if is_worse else ''}")
    if arguments == ["record"]:
        kept[key] = counts
        COUNTS.write_text(json.dumps(kept, indent=1) + "\n")
    elif before.keys() - counts.keys():
        sys.exit(f"harness: no such case any more: {', '.join(before.keys() - counts.keys())}")
    elif n_worse:
        sys.exit(
            f"harness: {n_worse} cases take over {MORE - 1:.0%} more instructions than were kept; "
            "if that is meant, say why in the commit and `record`"
        )


if __name__ == "__main__":
    kinds = {
        "native": native,
        "sanitized": sanitized,
        "emulated": emulated,
        "neon": neon,
        "instructions": instructions,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in kinds:
        sys.exit(f"usage: python tools/harness.py {{{'|'.join(kinds)}}} [argument ...]")
    kinds[sys.argv[1]](sys.argv[2:])
