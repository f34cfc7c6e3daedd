"""Measuring a model: what `fastnn bench` and `fastnn compare` do, for programs.

workload.py says which rows a model is timed on, ruler.py what this machine can do, timing.py times
the whole and its layers against that, roofline.py draws it, speed.py gives two figures for many
models; rivals.py, worker.py and race.py run
other systems on the same weights and rows, each in a process of its own; report.py writes and reads
files, comparison.py compares two of them.

Invariant: NumPy is enough for all but the drawing and the rivals, and those say what they lack.
"""

from fastnn.bench.timing import BATCHES, LayerTiming, Timing, measure, sweep
from fastnn.bench.workload import rows_for

__all__ = ["BATCHES", "LayerTiming", "Timing", "measure", "rows_for", "sweep"]
