# What other Cython modules may cimport: the types of csrc/fastnn.h, and the class that wraps a network,
# whose forward_call is the engine without Python. The C functions themselves are hidden in the module,
# so none is declared here. docs/embedding.md.

from libc.stdint cimport int32_t, int64_t
cimport numpy as cnp

cdef extern from "fastnn.h" nogil:
    ctypedef enum fnn_status:
        FNN_OK, FNN_NO_MEMORY, FNN_UNKNOWN_ISA, FNN_ISA_MISSING, FNN_NOT_FINITE, FNN_BAD_SHAPE
        FNN_BAD_FORMAT, FNN_BAD_ACTIVATION, FNN_INTERRUPTED, FNN_BROKEN_KERNEL

    ctypedef struct fnn_network
    ctypedef enum fnn_dtype:
        FNN_U8, FNN_F32
    ctypedef enum fnn_output:
        FNN_OUTPUTS, FNN_LOGITS, FNN_PROBABILITIES, FNN_LABELS, FNN_TOP_K
    ctypedef struct fnn_work:
        int64_t n_threads, executed, effective, n_doubtful
    ctypedef struct fnn_layer_work:
        int64_t ns, executed
    ctypedef struct fnn_call:
        const void *x
        fnn_dtype dtype
        int64_t n_rows, row_stride, column_stride
        fnn_output output
        void *out
        float *scores
        int64_t k
        int n_threads, keep_zeros
        int (*poll)(void *) noexcept nogil
        void *poll_argument
        float **trace_z
        float **trace_a
        fnn_work *work
        fnn_layer_work *layer_work
    enum:
        FNN_MAX_STAGES
    ctypedef struct fnn_stage:
        int64_t n_inputs, n_outputs
        double input_scale
        int32_t input_zero, n_taps
        int32_t *lag
        int32_t *tap
        double error, residual, noise, defect, fixed, per_q, per_x
        const float *directions
        double direction_scale, tail, slop, per_z, per_a, fixed_a, largest_unit
        const float *each
        double each_defect, flat_below, flat_above
    ctypedef struct fnn_race:
        int64_t n_begun[2]
        int64_t n_rows[2]
        int64_t ns[2]
        int64_t n_since
        int64_t faster
        int64_t n_taken[2]
    ctypedef struct fnn_certificate:
        int32_t n_stages
        const fnn_stage *stages
        int64_t n_inputs, n_outputs
        int32_t by_z, is_exact
        double last_constant
        const float *weight
        const double *pair
        const double *weight_slop
        const double *fixed
        const double *per_a
        double crude_square, crude_fixed, pair_most, fixed_largest, per_a_largest


cdef class Network


cdef class Certifier:
    cdef readonly Network fast
    cdef fnn_certificate certificate
    cdef fnn_stage *stages
    cdef fnn_race race               # of all calls
    cdef list kept                   # what the certificate points into

    cdef void *keep(self, object array, cnp.dtype dtype) except NULL


cdef class Network:
    cdef fnn_network *network
    cdef Certifier certifier         # None, or how labels of uint8 rows are found
    cdef readonly int64_t n_inputs, n_outputs
    cdef int last_activation
    cdef bint is_regression, takes_pixels_only, keeps_zeros, has_pixel_layer
    cdef tuple shapes                # outputs of each layer
    cdef object class_values         # None: labels are their indices
    cdef cnp.dtype label_dtype

    # A call without Python, from any thread; `call` is zeroed but for what fastnn.h asks for. Labels are
    # indices into classes_. The network must have been built, as every Model has, and live on.
    cdef fnn_status forward_call(self, const fnn_call *call) noexcept nogil

    cdef int check_built(self) except -1
    cdef object run(self, str what, object x, object out, object threads, fnn_output output)
    cdef object take_rows(self, str what, object x, fnn_call *call)
    cdef int choose_threads(self, str what, object threads, int64_t n_rows) except -1
    cdef int forward_rows(self, fnn_call *call) except -1
