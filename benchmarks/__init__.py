"""Measuring fastnn beside its rivals, in one process and one run; method: docs/benchmarks.md.

workloads.py says what is computed, rivals.py by whom, interleaved.py how time is taken, compare.py
prints the table (`python -m benchmarks.compare`). The test_bench_*.py files are pytest suites.
"""
