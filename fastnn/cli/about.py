"""What this fastnn is on this machine: version, build, CPU, kernels, threads.

Invariant: needs NumPy only, for `python -m fastnn` prints it without the [cli] extra.
"""

import os
import platform
import sys
from typing import Any

import numpy as np

import fastnn
from fastnn import _core, text
from fastnn.cpus import default_threads


def about() -> dict[str, Any]:
    """The facts, as JSON can hold them. Raises ValueError if FASTNN_ISA asks for too much."""
    probe = fastnn.Model([fastnn.Dense(np.ones((1, 1), np.float32), np.zeros(1, np.float32))])
    return {
        "fastnn": fastnn.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_features": _core.cpu_features(),
        "isa": probe.kernels[0]["isa"],
        "kernels": _core.kernels(),
        "threads": default_threads(),
        "environment": {
            k: v for k, v in sorted(os.environ.items()) if k.startswith("FASTNN_") and v
        },
        "build": _core.build_info(),
    }


def about_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    rows = [
        (
            ("* " if kernel["is_chosen"] else "  ") + kernel["isa"],
            kernel["format"],
            f"{kernel['mr']}x{kernel['nr']}",
            "yes" if kernel["available"] else "no",
            " ".join(kernel["needs"]) or "nothing",
        )
        for kernel in facts["kernels"]
    ]
    build = facts["build"]
    mode = "" if build["mode"] == "release" else f", {build['mode']} build"
    lines = [
        f"fastnn   {facts['fastnn']}, Python {facts['python']}, NumPy {facts['numpy']}",
        f"CPU      {facts['cpu']} ({facts['machine']})",
        f"has      {' '.join(facts['cpu_features']) or 'none of the features fastnn knows'}",
        f"ISA      {facts['isa']}",
        f"threads  {facts['threads']}",
        f"built    by {build['compiler']} for {' '.join(build['isas_built'])}{mode}",
    ]
    if build["isas_left_out"]:
        lines.append(
            f"without  {' '.join(build['isas_left_out'])} (the compiler did not know them)"
        )
    lines += [f"set      {name}={value}" for name, value in facts["environment"].items()]
    table = text.table(("  kernel", "format", "tile", "available", "needs"), rows)
    return "\n".join([*lines, "", table])


def _cpu_name() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("model name"):
                        return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or "unknown"
