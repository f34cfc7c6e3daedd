"""Compiles the one extension module, fastnn._core; everything that is not C is in pyproject.toml.

Only `csrc/kernels_<isa>.c` is compiled with instruction-set flags, so only code that the
dispatcher chose after looking at the CPU can hold such instructions. An ISA is one line of ISAS.
A compiler that does not know an ISA's flags leaves it out with a warning.

Environment:
    FASTNN_DEBUG=1             -O0 -g, with the engine's assertions
    FASTNN_SANITIZE=1          address and undefined-behaviour sanitizers, with the assertions
    FASTNN_REQUIRE_ALL_ISAS=1  "left out" is an error
"""

import hashlib
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError
from setuptools.modified import newer_group

ANY, X86, ARM = ("x86_64", "aarch64"), ("x86_64",), ("aarch64",)

AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]

# isa: (architectures, flags), worst first. What a row's flags let the compiler use, that row's
# `needs` in the C table must ask of the CPU.
ISAS = {
    "scalar": (ANY, []),
    "neon": (ARM, []),
    "avx2": (X86, AVX2),
    "avxvnni": (X86, [*AVX2, "-mavxvnni"]),
    "avx512": (X86, AVX512),
    "avx512vnni": (X86, [*AVX512, "-mavx512vnni"]),
    "avx512bf16": (X86, [*AVX512, "-mavx512bf16"]),
    "amx": (X86, [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8"]),
}

# -ffp-contract=off: a multiply and an add are fused where the source says so and nowhere else,
# or the ISAs would stop agreeing bit for bit. -g0 undoes the -g that Python's own flags bring.
COMMON = ["-std=c11", "-ffp-contract=off", "-fvisibility=hidden", "-pthread", "-Wall"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
MODES = {
    "release": (["-O3", "-g0", "-DNDEBUG"], []),
    "debug": (["-O0", "-g", "-UNDEBUG"], []),
    "sanitize": (
        ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", *SANITIZERS],
        SANITIZERS,
    ),
}
STRICTER = ["-Wextra"]  # for C that people wrote; Cython's output is not up to it

# Installed as fastnn/include/: the public C API, and what fastnn/ccode.py writes C from.
PUBLIC = ["fastnn.h", "certify.h"]
PORTABLE = ["activations.h", "portable.h", "softmax.h", "vec_scalar.h"]

HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))
SOURCES = sorted(str(path) for path in Path("csrc").glob("*.c"))


def is_set(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def chosen_mode() -> str:
    if is_set("FASTNN_SANITIZE"):
        return "sanitize"
    return "debug" if is_set("FASTNN_DEBUG") else "release"


def build_base() -> str:
    """The build folder. Its name carries what setuptools does not look at when it decides what
    is up to date: the mode, and the compiler if it is not Python's own."""
    ours = [os.environ.get(name, "") for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS")]
    suffix = "-" + hashlib.sha256(repr(ours).encode()).hexdigest()[:8] if any(ours) else ""
    return f"build/{chosen_mode()}{suffix}"


def isa_of(source: str) -> str | None:
    stem = Path(source).stem
    return stem.removeprefix("kernels_") if stem.startswith("kernels_") else None


class BuildPackage(build_py):
    """Also copies the headers that are installed; a source tree has them in csrc/ alone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for header, copy in self.headers().items():
                self.mkpath(str(Path(copy).parent))
                self.copy_file(header, copy)

    def headers(self) -> dict[str, str]:
        """{header: its copy}."""
        folder = Path(self.build_lib, "fastnn", "include")
        return {f"csrc/{name}": str(folder / name) for name in [*PUBLIC, *PORTABLE]}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self.headers().values()]


class BuildCore(build_ext):
    """Compiles csrc/*.c, each file with its own flags, and links the objects to the extension."""

    def run(self) -> None:
        if sys.platform != "linux" or platform.machine() not in ANY or sys.maxsize < 2**32:
            bits = 64 if sys.maxsize > 2**32 else 32
            sys.exit(
                "fastnn supports 64-bit Linux on x86_64 and aarch64; this is "
                f"{platform.system()} on {platform.machine()} with a {bits}-bit Python"
            )
        super().run()

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:  # whose own choice is a new temporary folder each time
            self.build_temp = f"{build_base()}/editable"

    def build_extension(self, ext: Extension) -> None:
        built, left_out = self.usable_isas()
        macros = [(f"HAVE_{isa.upper()}", "1") for isa in built]
        sources = [file for file in SOURCES if isa_of(file) is None or isa_of(file) in built]
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            objects = list(pool.map(lambda file: self.compile_c(file, macros), sources))
        ext.extra_objects += objects
        ext.depends += ["setup.py", *HEADERS, *objects]
        ext.define_macros += [
            ("FNN_BUILD_ISAS", f'"{",".join(built)}"'),
            ("FNN_BUILD_LEFT_OUT", f'"{",".join(left_out)}"'),
            ("FNN_BUILD_MODE", f'"{chosen_mode()}"'),
            *macros,
        ]
        super().build_extension(ext)

    def usable_isas(self) -> tuple[list[str], list[str]]:
        """The ISAs of this architecture: those the compiler takes, and those it does not."""
        built, left_out = [], []
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        empty = Path(self.build_temp, "flags.c")
        empty.write_text("typedef int not_empty;\n")
        for isa, (architectures, flags) in ISAS.items():
            if platform.machine() not in architectures or f"csrc/kernels_{isa}.c" not in SOURCES:
                continue
            try:
                self.compiler.compile(
                    [str(empty)], output_dir=self.build_temp, extra_postargs=flags
                )
                built.append(isa)
            except CompileError:
                left_out.append(isa)
                self.warn(f"the compiler does not know {' '.join(flags)}: no {isa} kernels")
        if left_out and is_set("FASTNN_REQUIRE_ALL_ISAS"):
            sys.exit(f"FASTNN_REQUIRE_ALL_ISAS is set and left out: {', '.join(left_out)}")
        return built, left_out

    def compile_c(self, source: str, macros: list[tuple[str, str]]) -> str:
        """Compile one file of csrc/ if what it is made of is newer than its object; the object."""
        (target,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
        isa = isa_of(source)
        # The folder is newer when a file came or went, and with it perhaps a HAVE_ macro.
        made_of = [source, "setup.py", *HEADERS, *([] if isa else ["csrc"])]
        if self.force or newer_group(made_of, target):
            flags = ISAS[isa][1] if isa else []
            self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=macros,
                include_dirs=["csrc"],
                extra_postargs=[*COMMON, *STRICTER, *MODES[chosen_mode()][0], *flags],
            )
        return target

    def copy_extensions_to_source(self) -> None:
        """In place: always copy, for the file there may be newer and yet of another mode."""
        asked, self.force = self.force, True
        super().copy_extensions_to_source()
        self.force = asked


def main() -> None:
    compile_flags, link_flags = MODES[chosen_mode()]
    core = Extension(
        "fastnn._core",
        ["fastnn/_core.pyx"],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=[*COMMON, *compile_flags],
        extra_link_args=["-pthread", *link_flags],
    )
    setup(
        cmdclass={"build_ext": BuildCore, "build_py": BuildPackage},
        ext_modules=cythonize(
            [core],
            build_dir=f"{build_base()}/cython",
            compiler_directives={
                "language_level": 3,
                "embedsignature": True,
                "boundscheck": False,
                "wraparound": False,
                "cdivision": True,
            },
        ),
        options={"build": {"build_base": build_base()}},
    )


if __name__ == "__main__":  # tools/harness.py reads the tables above
    main()
