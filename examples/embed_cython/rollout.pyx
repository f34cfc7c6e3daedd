# cython: boundscheck=False, wraparound=False
"""A network fed with its own outputs, step after step: a loop that no batch can shorten, in C.

Each step is one call of fastnn's engine without Python and without its lock, so several threads may
do this at once. Build it with the setup.py beside it; `demo.py` runs it.
"""

import numpy as np

from fastnn._core cimport FNN_F32, FNN_OK, FNN_OUTPUTS, Network, fnn_call, fnn_status
from libc.string cimport memset


def rollout(Network model not None, const float[::1] state, Py_ssize_t n_steps):
    """The states that follow `state`, float32 (n_steps, n): each is model.forward of the one before.

    Raises ValueError if the model's inputs and outputs are not as many as `state` has numbers.
    """
    cdef Py_ssize_t n = state.shape[0], step
    cdef fnn_call call
    cdef fnn_status status = FNN_OK
    if not model.n_inputs == model.n_outputs == n:
        raise ValueError(f"rollout: state has {n} numbers, the network takes {model.n_inputs} "
                         f"and gives {model.n_outputs}")
    states = np.empty((n_steps + 1, n), np.float32)
    states[0] = state
    cdef float[:, ::1] rows = states
    memset(&call, 0, sizeof(call))
    call.dtype = FNN_F32
    call.output = FNN_OUTPUTS
    call.n_rows = 1
    call.column_stride = sizeof(float)
    call.n_threads = 1
    with nogil:
        for step in range(n_steps):
            call.x = &rows[step, 0]
            call.out = &rows[step + 1, 0]
            status = model.forward_call(&call)
            if status != FNN_OK:
                break
    if status != FNN_OK:
        raise MemoryError("rollout: no memory for the workspace")
    return states[1:]
