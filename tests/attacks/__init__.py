"""Hostile files, by format: `table.FORMATS` lists what each reader is fed, tests/test_attacks.py
feeds it, fuzz/ mutates the seeds. `python -m attacks FOLDER` (in tests/) writes all of them.

Invariant: every file is built byte by byte, the same each time, without the code under test. To
add a format: a module here with SEEDS and ATTACKS and its line in table.py; without it tests fail.
"""
