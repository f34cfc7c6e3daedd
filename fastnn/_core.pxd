# The C API of csrc/fastnn.h as Cython sees it, and the class that wraps a network.

from libc.stdint cimport int8_t, int32_t, int64_t, uint64_t
cimport numpy as cnp

cdef extern from "fastnn.h" nogil:
    ctypedef enum fnn_status:
        FNN_OK, FNN_NO_MEMORY, FNN_UNKNOWN_ISA, FNN_ISA_MISSING, FNN_NOT_FINITE, FNN_BAD_SHAPE
        FNN_BAD_FORMAT, FNN_BAD_ACTIVATION, FNN_INTERRUPTED, FNN_BROKEN_KERNEL

    ctypedef struct fnn_activation:
        const char *name
        int n_parameters
        const char *parameter_names[2]
        float defaults[2]
        int last_layer_only, label_by_z
    const fnn_activation fnn_activations[]
    const int fnn_n_activations

    ctypedef struct fnn_isa:
        const char *name
        uint64_t needs
        const char *kernel
    const fnn_isa fnn_isas[]
    const int fnn_n_isas
    int fnn_isa_is_available(const fnn_isa *isa)
    uint64_t fnn_cpu_features()
    const char *fnn_cpu_feature_name(int i)

    ctypedef struct fnn_dense:
        int64_t n_inputs, n_outputs
        const float *weight
        int64_t stride_input, stride_output
        const float *bias
        int activation
        float parameters[2]
        const char *format
        const int8_t *weight_i8
        const float *scale
        const float *offset
        float input_scale, input_zero
    ctypedef struct fnn_network
    fnn_status fnn_network_create(const fnn_dense *layers, int n_layers, const fnn_dense *pixel_layer,
                                  const char *isa, fnn_network **network, int *where)
    void fnn_network_free(fnn_network *network)
    int fnn_network_n_layers(const fnn_network *network)
    size_t fnn_network_bytes(const fnn_network *network)

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
    fnn_status fnn_forward(const fnn_network *network, const fnn_call *call)
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
    fnn_status fnn_forward_certified(const fnn_network *fast, const fnn_network *exact,
                                     const fnn_certificate *certificate, const fnn_call *call)
    int fnn_is_brief(const fnn_network *network, int64_t n_rows)
    int fnn_may_split(const fnn_network *network, int64_t n_rows)

    ctypedef struct fnn_row
    int fnn_n_rows()
    const fnn_row *fnn_row_at(int i)
    const fnn_row *fnn_network_row(const fnn_network *network, int layer)
    const char *fnn_row_isa(const fnn_row *row)
    const char *fnn_row_format(const fnn_row *row)
    uint64_t fnn_row_needs(const fnn_row *row)
    int fnn_row_mr(const fnn_row *row)
    int fnn_row_nr(const fnn_row *row)
    fnn_status fnn_select(const char *isa, const char *format, const fnn_row **row)
    void fnn_activate(const fnn_row *row, int activation, const float *parameters, float *x, int64_t n)
    double fnn_burn(const fnn_row *row, int64_t n)


cdef class Network


cdef class Certifier:
    cdef readonly Network fast
    cdef fnn_certificate certificate
    cdef fnn_stage *stages
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

    cdef int check_built(self) except -1
    cdef object run(self, str what, object x, object out, object threads, fnn_output output)
    cdef object take_rows(self, str what, object x, fnn_call *call)
    cdef int choose_threads(self, str what, object threads, int64_t n_rows) except -1
    cdef int forward_rows(self, fnn_call *call) except -1
