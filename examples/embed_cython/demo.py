"""A damped spring as a network of one layer, followed for 100,000 steps in Cython and in Python."""

from time import perf_counter

import numpy as np
from rollout import rollout

import fastnn

STEPS = 100_000
spring = fastnn.Model([fastnn.Dense([[1.0, -0.01], [0.01, 0.99985]], [0.0, 0.0])])
start = np.array([1.0, 0.0], np.float32)

before = perf_counter()
states = rollout(spring, start, STEPS)
in_cython = perf_counter() - before

before = perf_counter()
state, seen = start.reshape(1, 2), []
for _ in range(STEPS):
    state = spring.forward(state)
    seen.append(state)
in_python = perf_counter() - before

assert np.array_equal(states, np.concatenate(seen))  # the same bits
print(f"after {STEPS:,} steps: {states[-1]}")
print(f"{in_cython / STEPS * 1e9:.0f} ns a step in Cython, {in_python / STEPS * 1e9:.0f} in Python")
