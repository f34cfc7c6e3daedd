# distutils: language = c
"""The stairs between Python and csrc/: arrays in, one C call, an array out.

What lives here: class Network, which checks and describes arrays for fnn_forward; the listings.
Invariant: no arithmetic on data, and one crossing a call. Whatever reaches C is aligned, of a known
dtype, and kept alive for the call; C reads and writes only that.
"""

import operator
import os
import time

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.errno cimport EINTR, errno
from libc.math cimport isnan
from libc.stdint cimport int8_t, int64_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport read

cnp.import_array()

cdef cnp.dtype FLOAT32 = np.dtype(np.float32)
cdef cnp.dtype FLOAT64 = np.dtype(np.float64)

cdef extern from "fastnn.h" nogil:
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

    fnn_status fnn_network_create(const fnn_dense *layers, int n_layers, const fnn_dense *pixel_layer,
                                  const char *isa, fnn_network **network, int *where)
    void fnn_network_free(fnn_network *network)
    int fnn_network_n_layers(const fnn_network *network)
    size_t fnn_network_bytes(const fnn_network *network)
    fnn_status fnn_forward(const fnn_network *network, const fnn_call *call)
    fnn_status fnn_forward_certified(const fnn_network *fast, const fnn_network *exact,
                                     const fnn_certificate *certificate, fnn_race *race,
                                     const fnn_call *call)
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

cdef extern from "kernel.h" nogil:
    int fnn_all_finite(const float *x, int64_t n)
    void fnn_scale_rows(const float *x, const double *factor, int64_t k, int64_t n, float *to)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *at, size_t n, int advice)
    int MADV_HUGEPAGE

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # sets the exception, which stays pending: see raise_pending

cdef extern from *:
    """
    #ifndef FNN_BUILD_ISAS
    #define FNN_BUILD_ISAS ""
    #endif
    #ifndef FNN_BUILD_LEFT_OUT
    #define FNN_BUILD_LEFT_OUT ""
    #endif
    #ifndef FNN_BUILD_MODE
    #define FNN_BUILD_MODE "release"
    #endif
    #ifdef __clang__
    #define COMPILER __VERSION__
    #else
    #define COMPILER "gcc " __VERSION__
    #endif
    """
    const char *FNN_BUILD_ISAS
    const char *FNN_BUILD_LEFT_OUT
    const char *FNN_BUILD_MODE
    const char *COMPILER


# ---- listings ----------------------------------------------------------------------------------

cdef dict ACTIVATION_IDS = {fnn_activations[i].name.decode(): i for i in range(fnn_n_activations)}


def activations():
    """The activations there are, as the C table lists them.

    Returns {name: {"parameters": {parameter: default}, "last_layer_only": bool, "label_by_z":
    bool}}; a default of None means that the parameter has to be given; "label_by_z": labels are
    those of the largest z.
    """
    listing = {}
    for name, i in ACTIVATION_IDS.items():
        entry = fnn_activations[<int>i]
        listing[name] = {
            "parameters": {
                entry.parameter_names[j].decode(): None if isnan(entry.defaults[j])
                else float(entry.defaults[j])
                for j in range(entry.n_parameters)
            },
            "last_layer_only": bool(entry.last_layer_only),
            "label_by_z": bool(entry.label_by_z),
        }
    return listing


cdef list feature_names(uint64_t bits):
    cdef int i = 0
    names = []
    while fnn_cpu_feature_name(i) != NULL:
        if bits >> i & 1:
            names.append(fnn_cpu_feature_name(i).decode())
        i += 1
    return names


def cpu_features():
    """The CPU features that matter here and that CPU and OS have, named as in /proc/cpuinfo."""
    return feature_names(fnn_cpu_features())


def isas():
    """The ISA names that `isa=` and FASTNN_ISA take here, lowest ceiling first."""
    return [fnn_isas[i].name.decode() for i in range(fnn_n_isas)
            if fnn_isa_is_available(&fnn_isas[i])]


cdef dict describe(const fnn_row *row):
    return {
        "isa": fnn_row_isa(row).decode(),
        "format": fnn_row_format(row).decode(),
        "mr": fnn_row_mr(row),
        "nr": fnn_row_nr(row),
    }


def kernels():
    """The kernels compiled in, best first: dicts of isa, format, mr and nr (rows and columns of a
    tile), needs (CPU features), available (whether this machine has them) and is_chosen (whether
    layers of its format get it, where no `isa` is given)."""
    cdef const fnn_row *row
    has = fnn_cpu_features()
    try:
        chosen = [describe(best_row(None, name)) for name in formats()]
    except ValueError:  # FASTNN_ISA names none
        chosen = []
    listing = []
    for i in range(fnn_n_rows()):
        row = fnn_row_at(i)
        needs, about = fnn_row_needs(row), describe(row)
        listing.append({**about, "available": needs & ~has == 0, "is_chosen": about in chosen,
                        "needs": feature_names(needs)})
    return listing


cdef list formats():
    return sorted({<bytes>fnn_row_format(fnn_row_at(i)) for i in range(fnn_n_rows())})


def build_info():
    """How the extension was built: compiler, isas_built, isas_left_out (unknown to the compiler),
    mode ("release", "debug" or "sanitize")."""
    return {
        "compiler": COMPILER.decode(),
        "isas_built": FNN_BUILD_ISAS.decode().split(","),
        "isas_left_out": [isa for isa in FNN_BUILD_LEFT_OUT.decode().split(",") if isa],
        "mode": FNN_BUILD_MODE.decode(),
    }


# ---- ISA ceilings --------------------------------------------------------------------------------

cdef object ceiling(object isa):
    """The ISA that was asked for, as bytes, or None. Refuses what this machine lacks."""
    cdef const fnn_row *row = NULL
    source = "isa"
    if isa is None:
        isa = os.environ.get("FASTNN_ISA") or None
        source = "FASTNN_ISA"
        if isa is None:
            return None
    if not isinstance(isa, str):
        raise TypeError(f"isa: got {type(isa).__name__}, want a name or None")
    if isa not in isas():
        known = [fnn_isas[i].name.decode() for i in range(fnn_n_isas)]
        problem = "this machine or build lacks" if isa in known else "there is no ISA"
        raise ValueError(f"{source}: {problem} {isa!r}; here are: {', '.join(isas())}")
    name = isa.encode()
    if fnn_select(name, b"f32", &row) != FNN_OK:  # which asks, where that has to be asked for
        raise ValueError(f"{source}: the operating system does not permit {isa!r}")
    return name


def check_isa(isa=None):
    """Raise TypeError or ValueError as a network would for this `isa`, or FASTNN_ISA if None."""
    ceiling(isa)


cdef const fnn_row *best_row(object isa, bytes format=b"f32") except NULL:
    cdef const fnn_row *row = NULL
    name = ceiling(isa)
    if fnn_select(NULL if name is None else <const char *>name, format, &row) != FNN_OK:
        known = [name.decode() for name in formats()]
        raise ValueError(f"format: there is no kernel of {format.decode()!r} here, "
                         f"only of {', '.join(known)}")
    return row


def activate(str name, x, isa=None, **parameters):
    """The elementwise activation `name` of x (any shape, taken as float32) on kernel `isa`."""
    cdef float values[2]
    cdef int i = ACTIVATION_IDS[name]
    cdef cnp.ndarray y = np.array(x, np.float32, order="C")
    for j in range(fnn_activations[i].n_parameters):
        key = fnn_activations[i].parameter_names[j].decode()
        values[j] = parameters.pop(key, fnn_activations[i].defaults[j])
    if parameters:
        raise TypeError(f"activate: {name} has no parameter {', '.join(parameters)}")
    fnn_activate(best_row(isa), i, values, <float *>cnp.PyArray_DATA(y), cnp.PyArray_SIZE(y))
    return y


cdef bytes fresh_bytes(Py_ssize_t n):
    """`n` bytes to be written before anybody sees them; large ones on huge pages where there are some,
    as NumPy's arrays are: to get pages of 4 KiB takes longer than to read a file into them."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n)
    cdef uint64_t page = 1 << 21, first = <uint64_t>PyBytes_AS_STRING(made), last = first + n
    first, last = (first + page - 1) // page * page, last // page * page
    if last > first:
        madvise(<void *>first, last - first, MADV_HUGEPAGE)  # a wish; refusal is harmless
    return made


def read_bytes(int fd, Py_ssize_t n):
    """Up to `n` bytes of a file from where it is, fewer only at its end. Raises OSError.

    As `os.read`, but into `fresh_bytes`.
    """
    cdef bytes made = fresh_bytes(n)
    cdef char *to = PyBytes_AS_STRING(made)
    cdef Py_ssize_t done = 0, got = 0
    cdef int error = 0
    while done < n:
        with nogil:
            got = read(fd, to + done, n - done)
            error = errno
        if got < 0 and error == EINTR:
            if PyErr_CheckSignals():
                raise_pending()
        elif got < 0:
            raise OSError(error, os.strerror(error))
        elif got == 0:
            break
        else:
            done += got
    return made if done == n else made[:done]


def all_finite(cnp.ndarray x not None):
    """Whether no value of `x`, float32 and C-contiguous, is NaN or infinite."""
    cdef const float *values = <const float *>cnp.PyArray_DATA(x)
    cdef int64_t n = cnp.PyArray_SIZE(x)
    cdef bint is_finite
    if x.dtype != FLOAT32 or not cnp.PyArray_ISCARRAY_RO(x):
        raise ValueError("all_finite: x is to be float32 and C-contiguous")
    with nogil:
        is_finite = fnn_all_finite(values, n)
    return is_finite


def scaled_rows(cnp.ndarray x not None, cnp.ndarray factor not None):
    """x * factor[:, None], computed in float64 and rounded once: float32 that nobody can change.

    x: float32 (k, n), C-contiguous; factor: float64 (k,), so too.
    """
    cdef const float *values = <const float *>cnp.PyArray_DATA(x)
    cdef const double *factors = <const double *>cnp.PyArray_DATA(factor)
    if (x.dtype != FLOAT32 or factor.dtype != FLOAT64 or x.ndim != 2 or factor.ndim != 1
            or x.shape[0] != factor.shape[0]
            or not (cnp.PyArray_ISCARRAY_RO(x) and cnp.PyArray_ISCARRAY_RO(factor))):
        raise ValueError("scaled_rows: x is to be float32 (k, n), factor float64 (k,)")
    cdef int64_t k = x.shape[0], n = x.shape[1]
    cdef bytes made = fresh_bytes(4 * k * n)
    cdef float *to = <float *><void *>PyBytes_AS_STRING(made)
    with nogil:
        fnn_scale_rows(values, factors, k, n, to)
    return np.frombuffer(made, np.float32).reshape(k, n)


def peak_gflops(isa=None, double seconds=0.05, str format="f32"):
    """This core's peak for kernels of `format` on `isa`, in 10^9 multiplications and additions a
    second: the best of several short runs of independent multiply-adds in registers, `seconds`
    in all."""
    cdef const fnn_row *row = best_row(isa, format.encode())
    cdef double n_flop, best = 0, start = time.perf_counter(), before = start, now
    while before - start < seconds or best == 0:
        with nogil:
            n_flop = fnn_burn(row, 20000)
        now = time.perf_counter()
        best = max(best, n_flop / (now - before) * 1e-9)
        before = now
    return best


# ---- certified labels ----------------------------------------------------------------------------

cdef class Certifier:
    """The int8 network whose labels are certified, and a `fastnn.certify.Certificate` as C has it."""

    def __init__(self, Network fast, certificate):
        cdef fnn_certificate *c = &self.certificate
        cdef fnn_stage *to
        n_stages = len(certificate.stages)
        if not 1 <= n_stages <= FNN_MAX_STAGES:
            raise ValueError(f"certify: {n_stages} int8 layers, want 1 to {FNN_MAX_STAGES}")
        if self.stages != NULL:
            raise RuntimeError("Certifier: __init__ has been called")
        self.fast = fast
        self.kept = []
        self.stages = <fnn_stage *>PyMem_Calloc(n_stages, sizeof(fnn_stage))
        if self.stages == NULL:
            raise MemoryError()
        for i, stage in enumerate(certificate.stages):
            to = &self.stages[i]
            to.n_inputs, to.n_outputs = stage.n_inputs, stage.n_outputs
            to.input_scale, to.input_zero = stage.input_scale, stage.input_zero
            to.n_taps = len(stage.taps.lags)
            for j, (lag, tap) in enumerate(stage.taps.pairs):
                to.lag[j], to.tap[j] = lag, tap
            to.error, to.residual, to.noise = stage.error, stage.residual, stage.noise
            to.defect, to.fixed = stage.defect, stage.fixed
            to.per_q, to.per_x = stage.per_q, stage.per_x
            if stage.directions.size:
                to.directions = <const float *>self.keep(stage.directions, FLOAT32)
            to.direction_scale, to.tail, to.slop = stage.direction_scale, stage.tail, stage.slop
            to.per_z, to.per_a, to.fixed_a = stage.per_z, stage.per_a, stage.fixed_a
            to.largest_unit, to.each_defect = stage.largest_unit, stage.unit_defect
            if i + 1 == n_stages:
                to.each = <const float *>self.keep(stage.each, FLOAT32)
            to.flat_below, to.flat_above = stage.lipschitz.flat_below, stage.lipschitz.flat_above
        c.n_stages, c.stages = n_stages, self.stages
        c.n_outputs, c.n_inputs = certificate.weight.shape
        c.by_z, c.is_exact = certificate.by_z, certificate.last.is_exact
        c.last_constant = certificate.last.constant
        c.weight = <const float *>self.keep(certificate.weight, FLOAT32)
        c.pair = <const double *>self.keep(certificate.pair, FLOAT64)
        c.weight_slop = <const double *>self.keep(certificate.weight_slop, FLOAT64)
        c.fixed = <const double *>self.keep(certificate.fixed, FLOAT64)
        c.per_a = <const double *>self.keep(certificate.per_a, FLOAT64)
        c.crude_square, c.crude_fixed = certificate.crude_square, certificate.crude_fixed
        c.pair_most, c.fixed_largest = certificate.pair.max(), certificate.fixed.max()
        c.per_a_largest = certificate.per_a.max()

    def __dealloc__(self):
        PyMem_Free(self.stages)

    cdef void *keep(self, object array, cnp.dtype dtype) except NULL:
        cdef cnp.ndarray own = np.ascontiguousarray(array, dtype)
        self.kept.append(own)
        return cnp.PyArray_DATA(own)


# ---- networks ------------------------------------------------------------------------------------

cdef int poll_signals(void *unused) noexcept with gil:
    return PyErr_CheckSignals() != 0


cdef int raise_pending() except -1:
    """Poll_signals has set the exception; -1 makes Cython raise it."""
    return -1


cdef tuple arrays_of(object layer):
    """What C is to read of a Dense (weight, bias) or QuantizedDense (weight_i8, scale, offset)."""
    if is_quantized(layer):
        return (np.ascontiguousarray(layer.weight_i8, np.int8), contiguous(layer.scale),
                contiguous(layer.offset))
    return contiguous(layer.weight), contiguous(layer.bias)


cdef bint is_quantized(object layer):
    return hasattr(layer, "weight_i8")


cdef int describe_layer(fnn_dense *to, object layer, tuple arrays, const char *format) except -1:
    """`arrays`: of arrays_of(layer), kept alive by the caller. `format`: of a Dense, static."""
    cdef cnp.ndarray weight = arrays[0]
    to.n_inputs, to.n_outputs = weight.shape[0], weight.shape[1]
    if is_quantized(layer):
        to.format = b"i8"
        to.weight_i8 = <const int8_t *>cnp.PyArray_DATA(weight)
        to.scale = <const float *>cnp.PyArray_DATA(arrays[1])
        to.offset = <const float *>cnp.PyArray_DATA(arrays[2])
        to.input_scale, to.input_zero = layer.input_scale, layer.input_zero
    else:
        to.format = format
        to.weight = <const float *>cnp.PyArray_DATA(weight)
        to.stride_input, to.stride_output = weight.shape[1], 1
        to.bias = <const float *>cnp.PyArray_DATA(arrays[1])
    to.activation = ACTIVATION_IDS[layer.activation]
    for j, value in enumerate(layer.parameters.values()):
        to.parameters[j] = value
    return 0


cdef cnp.ndarray contiguous(object array):
    return np.ascontiguousarray(array, np.float32)


cdef object as_integer(str what, str name, object value, str wanted):
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{what}: {name} is {type(value).__name__}, want {wanted}")


cdef bint may_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the C-contiguous a and b span common addresses; the elements may still differ."""
    cdef char *a_start = <char *>cnp.PyArray_DATA(a)
    cdef char *b_start = <char *>cnp.PyArray_DATA(b)
    cdef char *b_end = b_start + cnp.PyArray_ITEMSIZE(b)
    cdef int64_t span
    cdef int i  # untyped, a loop counts in Python's integers, 20 ns a turn
    for i in range(cnp.PyArray_NDIM(b)):
        if cnp.PyArray_DIM(b, i) == 0:
            return False
        span = (cnp.PyArray_DIM(b, i) - 1) * cnp.PyArray_STRIDE(b, i)
        if span < 0:
            b_start += span
        else:
            b_end += span
    return b_start < a_start + cnp.PyArray_NBYTES(a) and a_start < b_end


cdef bint overlaps(cnp.ndarray a, cnp.ndarray b) except -1:
    if not may_overlap(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


cdef class Network:
    """A packed network; `fastnn.Model` is the class to use.

    layers: Dense or QuantizedDense records. pixel: such a record, what uint8 input takes as the
    first layer; None: uint8 input takes layers[0] as it is. is_scaled: whether pixels are other
    numbers than floats are, so that other integers are ambiguous; None: where there is a `pixel`.
    format: of the Dense records, "f32" or "bf16". classes: what labels stand for, or None:
    themselves. isa: the ceiling, or None: FASTNN_ISA, else the best there is. certifier: of a
    certified model, whose own layers are float32.
    FASTNN_ISA and FASTNN_SKIP are read here, not at calls.
    """

    def __init__(self, layers, *, pixel=None, is_scaled=None, str format="f32", classes=None,
                 task="classify", isa=None, Certifier certifier=None):
        cdef int n_layers = len(layers), n_records = n_layers + (pixel is not None), where = 0
        cdef fnn_dense *described
        cdef fnn_network *network = NULL
        cdef fnn_status status
        cdef bytes format_name = format.encode()
        if self.network != NULL:
            raise RuntimeError("__init__: the network exists already and never changes")
        name = ceiling(isa)
        records = [*layers] if pixel is None else [*layers, pixel]
        for used in {b"i8" if is_quantized(layer) else format_name for layer in records}:
            best_row(isa, used)
        kept = [arrays_of(layer) for layer in records]
        described = <fnn_dense *>PyMem_Calloc(n_records, sizeof(fnn_dense))
        if described == NULL:
            raise MemoryError()
        try:
            for i in range(n_records):
                describe_layer(&described[i], records[i], kept[i], format_name)
            status = fnn_network_create(described, n_layers,
                                        NULL if pixel is None else &described[n_layers],
                                        NULL if name is None else <const char *>name,
                                        &network, &where)
        finally:
            PyMem_Free(described)
        if status == FNN_NO_MEMORY:
            raise MemoryError("the network's weights do not fit into memory")
        if status == FNN_BROKEN_KERNEL:
            broken = describe(fnn_row_at(where))
            raise RuntimeError(
                f"the {broken['isa']} kernel for {broken['format']} does not give what plain C gives "
                "on this network's weights: this CPU or this build computes wrongly; choose another "
                'instruction set with isa= or FASTNN_ISA ("scalar" is plain C), and report it')
        if status != FNN_OK:
            layer_name = f"layers[{where}]" if where >= 0 else "the first layer with scale, mean, std"
            problem = {FNN_NOT_FINITE: "holds NaN or infinity", FNN_BAD_SHAPE: "has a bad shape",
                       FNN_BAD_FORMAT: "is not what its number format can hold",
                       FNN_BAD_ACTIVATION: "has an activation for the last layer only"}
            raise ValueError(f"{layer_name} {problem.get(status, 'was refused')}")
        self.network = network
        self.certifier = certifier
        self.n_inputs = kept[0][0].shape[0]
        self.n_outputs = kept[n_layers - 1][0].shape[1]
        self.shapes = tuple(arrays[0].shape[1] for arrays in kept[:n_layers])
        self.last_activation = ACTIVATION_IDS[layers[n_layers - 1].activation]
        self.is_regression = task == "regress"
        self.has_pixel_layer = pixel is not None
        self.takes_pixels_only = self.has_pixel_layer if is_scaled is None else is_scaled
        self.keeps_zeros = os.environ.get("FASTNN_SKIP") == "0"
        n_classes = max(self.n_outputs, 2)
        if classes is not None and not (classes.dtype == np.int64
                                        and np.array_equal(classes, np.arange(n_classes))):
            self.class_values = classes
        self.label_dtype = np.dtype(np.int64) if classes is None else classes.dtype

    def __dealloc__(self):
        fnn_network_free(self.network)

    @property
    def nbytes(self):
        """Bytes of the packed weights and biases, padding included."""
        self.check_built()
        return fnn_network_bytes(self.network) + (
            0 if self.certifier is None else self.certifier.fast.nbytes)

    @property
    def kernels(self):
        """The kernel of each layer: dicts of isa, format, mr, nr. Of a certified model, those that
        `predict` runs first for uint8 rows."""
        self.check_built()
        if self.certifier is not None:
            return self.certifier.fast.kernels
        return tuple(describe(fnn_network_row(self.network, i)) for i in range(len(self.shapes)))

    @property
    def pixel_kernel(self):
        """The kernel of the first layer for uint8 input, as `kernels` has that for floats."""
        self.check_built()
        if self.certifier is not None:
            return self.certifier.fast.pixel_kernel
        return describe(fnn_network_row(self.network,
                                        len(self.shapes) if self.has_pixel_layer else 0))

    cdef int check_built(self) except -1:
        if self.network == NULL:
            raise RuntimeError(f"{type(self).__name__}.__init__ has not been called")
        return 0

    # -- the four verbs; cdef run() does the work ------------------------------------------------

    def predict(self, x, *, out=None, threads=None):
        """The label of each row: int64 (n,), or of the dtype of `classes_`; a regression gives
        `forward` instead.

        x: rows of uint8 pixels, or of floats in the network's units; (n, ...) with n_inputs values
        a row, or one row of n_inputs values in any shape. out: an array for the answer. threads:
        1..1024, None for the default. Raises TypeError or ValueError for what does not fit.

        The label is that of the largest z for identity, sigmoid, tanh, softmax and log_softmax
        outputs, of the largest output otherwise; ties and NaN as np.argmax. One output: the second
        class iff z > 0. After a KeyboardInterrupt, `out` holds part of the answer.
        """
        if self.is_regression:
            return self.run("predict", x, out, threads, FNN_OUTPUTS)
        return self.run("predict", x, out, threads, FNN_LABELS)

    def forward(self, x, *, out=None, threads=None):
        """The outputs of the last layer: float32 (n, n_outputs), or (n,) for one output.
        Arguments as of `predict`."""
        return self.run("forward", x, out, threads, FNN_OUTPUTS)

    def decision_function(self, x, *, out=None, threads=None):
        """z of the last layer, before its activation: float32 (n, n_outputs), or (n,) for one
        output. Arguments as of `predict`."""
        return self.run("decision_function", x, out, threads, FNN_LOGITS)

    def predict_proba(self, x, *, out=None, threads=None):
        """Probabilities: float32 (n, n_outputs); of one sigmoid output (n, 2): 1 - p and p.

        Softmax outputs as they are, log_softmax exponentiated, several sigmoids each for itself.
        Any other last layer is a TypeError. Arguments as of `predict`.
        """
        self.check_built()
        name = fnn_activations[self.last_activation].name
        if name not in (b"softmax", b"log_softmax", b"sigmoid"):
            raise TypeError(
                f"predict_proba: the last layer's activation is {name.decode()}, which gives no "
                "probabilities; append a softmax: "
                "fastnn.Dense(last.weight, last.bias, 'softmax') in place of the last layer"
            )
        return self.run("predict_proba", x, out, threads, FNN_PROBABILITIES)

    def top_k(self, x, k, *, out=None, threads=None):
        """The k best classes of each row: (labels (n, k), scores float32 (n, k)), best first.

        Scores are `forward`'s values, ranked as in `predict`; the lower index first where equal.
        out: a tuple of two arrays. Other arguments as of `predict`.
        """
        cdef fnn_call call
        cdef cnp.ndarray labels, scores
        cdef cnp.npy_intp dimensions[2]
        self.check_built()
        if self.n_outputs == 1 or self.is_regression:
            raise TypeError("top_k: needs a classifier with two or more outputs")
        k = as_integer("top_k", "k", k, "an integer")
        if not 1 <= k <= self.n_outputs:
            raise ValueError(f"top_k: k is {k}, want 1..{self.n_outputs}")
        kept = self.take_rows("top_k", x, &call)
        shape = (call.n_rows, k)
        dimensions[0], dimensions[1] = call.n_rows, k
        if out is None:
            out = np.empty(shape, self.label_dtype), np.empty(shape, np.float32)
        elif not isinstance(out, tuple) or len(out) != 2:
            raise TypeError("top_k: out is to be a tuple of two arrays: labels, scores")
        check_out("top_k", "out[0]", out[0], 2, dimensions, self.label_dtype, kept)
        check_out("top_k", "out[1]", out[1], 2, dimensions, FLOAT32, kept)
        if overlaps(out[0], out[1]):
            raise ValueError("top_k: out[0] and out[1] overlap")
        labels = out[0] if self.class_values is None else np.empty(shape, np.int64)
        scores = out[1]
        call.output = FNN_TOP_K
        call.out = cnp.PyArray_DATA(labels)
        call.scores = <float *>cnp.PyArray_DATA(scores)
        call.k = k
        call.n_threads = self.choose_threads("top_k", threads, call.n_rows)
        self.forward_rows(&call)
        if self.class_values is not None:
            np.take(self.class_values, labels, out=out[0], mode="clip")
        return out

    def trace(self, x, *, out=None, threads=None):
        """Each layer's (z, activation), float32 (n, outputs of the layer); the last activation has
        the bits of `forward`. out: a list of such pairs. Other arguments as of `predict`."""
        cdef fnn_call call
        cdef int n_layers
        cdef float **pointers
        self.check_built()
        n_layers = len(self.shapes)
        kept = self.take_rows("trace", x, &call)
        shapes = [(call.n_rows, n) for n in self.shapes]
        if out is None:
            out = [(np.empty(shape, np.float32), np.empty(shape, np.float32)) for shape in shapes]
        else:
            check_trace_out(out, shapes, kept)
        call.n_threads = self.choose_threads("trace", threads, call.n_rows)
        pointers = <float **>PyMem_Calloc(2 * n_layers, sizeof(float *))
        if pointers == NULL:
            raise MemoryError()
        try:
            for i, (z, a) in enumerate(out):
                pointers[i] = <float *>cnp.PyArray_DATA(z)
                pointers[n_layers + i] = <float *>cnp.PyArray_DATA(a)
            call.trace_z = pointers
            call.trace_a = pointers + n_layers
            self.forward_rows(&call)
        finally:
            PyMem_Free(pointers)
        return out

    def warmup(self):
        """Run one row of zeros, so that the next call finds memory touched and allocated."""
        self.run("warmup", np.zeros((1, self.n_inputs), np.float32), None, 1, FNN_LOGITS)

    def _work(self, x, threads=None, bint labels=False):
        """What a forward pass over x does: executed and effective (dense) multiply-adds, the
        number of threads that took part, the number of rows that were doubtful, for `labels` of a
        certified model, which are then certified even if float32 alone is faster; [nanoseconds,
        executed multiply-adds] of each layer and, last, of what follows them (labels, softmax,
        certificate), int64, shape (layers + 1, 2); and the `labels`, as numbers, or None. With
        several threads the nanoseconds are those of all, added up."""
        cdef fnn_call call
        cdef fnn_work work
        kept = self.take_rows("_work", x, &call)
        layers = np.zeros((len(self.shapes) + 1, 2), np.int64)
        out = np.empty((call.n_rows, self.n_outputs), np.int64)
        call.output = FNN_LABELS if labels else FNN_LOGITS
        call.out = cnp.PyArray_DATA(out)
        call.n_threads = self.choose_threads("_work", threads, call.n_rows)
        call.work = &work
        call.layer_work = <fnn_layer_work *>cnp.PyArray_DATA(layers)
        self.forward_rows(&call)
        return {"executed": work.executed, "effective": work.effective,
                "n_threads": work.n_threads, "n_doubtful": work.n_doubtful, "layers": layers,
                "labels": out.ravel()[:call.n_rows] if labels else None}

    def _race(self, new=None):
        """Of a certified model, a dict of what fnn_race counts, pairs being of the certified way
        and of float32 alone; None of another. `new`: what it counts from now on, for tests."""
        if self.certifier is None:
            return None
        if new is not None:
            self.certifier.race = new
        return self.certifier.race

    # -- below: arrays to fnn_call -----------------------------------------------------------------

    cdef object run(self, str what, object x, object out, object threads, fnn_output output):
        cdef fnn_call call
        cdef cnp.ndarray target
        cdef cnp.npy_intp shape[2]
        cdef int n_dimensions = 2
        cdef int dtype = cnp.NPY_FLOAT32
        cdef bint is_mapped
        kept = self.take_rows(what, x, &call)
        shape[0], shape[1] = call.n_rows, self.n_outputs
        if output == FNN_LABELS:
            n_dimensions = 1
            dtype = cnp.NPY_INT64
        elif self.n_outputs == 1:
            if output != FNN_PROBABILITIES:
                n_dimensions = 1
            elif fnn_activations[self.last_activation].last_layer_only == 0:
                shape[1] = 2
        is_mapped = output == FNN_LABELS and self.class_values is not None
        if out is not None:
            check_out(what, "out", out, n_dimensions, shape,
                      self.label_dtype if output == FNN_LABELS else FLOAT32, kept)
        if out is None or is_mapped:
            target = cnp.PyArray_EMPTY(n_dimensions, shape, dtype, 0)
        else:
            target = out
        call.output = output
        call.out = cnp.PyArray_DATA(target)
        call.n_threads = self.choose_threads(what, threads, call.n_rows)
        self.forward_rows(&call)
        if is_mapped:
            return np.take(self.class_values, target, out=out, mode="clip")
        return target

    cdef object take_rows(self, str what, object x, fnn_call *call):
        """Describe x in `call` (everything else in it is zeroed); the array that keeps it alive."""
        cdef cnp.ndarray rows
        cdef int64_t n_columns = 1
        cdef int i
        if self.network == NULL:
            self.check_built()
        memset(call, 0, sizeof(fnn_call))
        call.keep_zeros = self.keeps_zeros
        if not cnp.PyArray_CheckExact(x):
            x = as_array(what, x)
        rows = x
        i = cnp.PyArray_TYPE(rows)
        if (i != cnp.NPY_UINT8 and i != cnp.NPY_FLOAT32) or not cnp.PyArray_ISBEHAVED_RO(rows):
            rows = converted(what, rows, self.takes_pixels_only)
        call.dtype = FNN_U8 if cnp.PyArray_TYPE(rows) == cnp.NPY_UINT8 else FNN_F32
        for i in range(1, cnp.PyArray_NDIM(rows)):
            n_columns *= cnp.PyArray_DIM(rows, i)
        if cnp.PyArray_NDIM(rows) >= 2 and n_columns == self.n_inputs:
            if cnp.PyArray_NDIM(rows) > 2 and not cnp.PyArray_IS_C_CONTIGUOUS(rows):
                rows = flattened_columns(rows)
            call.n_rows = cnp.PyArray_DIM(rows, 0)
            call.row_stride = cnp.PyArray_STRIDE(rows, 0)
            call.column_stride = (cnp.PyArray_STRIDE(rows, 1) if cnp.PyArray_NDIM(rows) == 2
                                  else cnp.PyArray_ITEMSIZE(rows))
        elif cnp.PyArray_SIZE(rows) == self.n_inputs:
            if cnp.PyArray_NDIM(rows) != 1 and not cnp.PyArray_IS_C_CONTIGUOUS(rows):
                rows = np.ascontiguousarray(rows)
            call.n_rows = 1
            call.column_stride = (cnp.PyArray_STRIDE(rows, 0) if cnp.PyArray_NDIM(rows) == 1
                                  else cnp.PyArray_ITEMSIZE(rows))
        else:
            shape = tuple((<object>rows).shape)
            if len(shape) >= 2:
                raise ValueError(f"{what}: x has {n_columns} columns (shape {shape}), "
                                 f"the network takes {self.n_inputs}")
            raise ValueError(f"{what}: x has {rows.size} values (shape {shape}), "
                             f"the network takes {self.n_inputs} a row")
        call.x = cnp.PyArray_DATA(rows)
        return rows

    cdef int choose_threads(self, str what, object threads, int64_t n_rows) except -1:
        if threads is None:
            if not fnn_may_split(self.network, n_rows):
                return 1
            from fastnn.cpus import default_threads
            return default_threads()
        threads = as_integer(what, "threads", threads, "an integer or None")
        if not 1 <= threads <= 1024:
            raise ValueError(f"{what}: threads is {threads}, want 1..1024")
        return threads

    cdef fnn_status forward_call(self, const fnn_call *call) noexcept nogil:
        if (self.certifier is not None and call.output == FNN_LABELS and call.dtype == FNN_U8
                and call.trace_z == NULL):
            return fnn_forward_certified(self.certifier.fast.network, self.network,
                                         &self.certifier.certificate, &self.certifier.race, call)
        return fnn_forward(self.network, call)

    cdef int forward_rows(self, fnn_call *call) except -1:
        cdef fnn_status status
        call.poll = poll_signals
        # For a call of a few microseconds, giving the GIL away and asking for it back costs more
        # than it gives to others.
        if self.certifier is None and fnn_is_brief(self.network, call.n_rows):
            status = self.forward_call(call)
        else:
            with nogil:
                status = self.forward_call(call)
        if status == FNN_INTERRUPTED:
            raise_pending()
        if status == FNN_NO_MEMORY:
            raise MemoryError("no memory for the workspace")
        return 0


cdef cnp.ndarray converted(str what, cnp.ndarray rows, bint takes_pixels_only):
    """uint8 or float32 rows, aligned and of native byte order, from an array of another kind."""
    dtype = (<object>rows).dtype
    kind = dtype.kind
    if dtype == np.uint8:
        return (<object>rows).astype(np.uint8, order="C")
    if kind == "f" or dtype.name == "bfloat16":
        with np.errstate(over="ignore"):  # beyond float32's range is infinite, in that row alone
            return (<object>rows).astype(np.float32, order="C")
    if kind not in "biu":
        raise TypeError(f"{what}: x has dtype {dtype}, want uint8 or a float type")
    if takes_pixels_only:
        raise TypeError(
            f"{what}: x has dtype {dtype}, which is ambiguous for a network with a scale, "
            "mean or std: give pixels as uint8, or floats in the network's own units"
        )
    return (<object>rows).astype(np.float32, order="C")


cdef cnp.ndarray flattened_columns(cnp.ndarray rows):
    """(n, ...) to (n, columns), without a copy where each row is contiguous."""
    return (<object>rows).reshape(rows.shape[0], -1)


cdef object as_array(str what, object x):
    """An ndarray of what is none, or is of a subclass: lists, buffers, __array__, DLPack."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{what}: x is a masked array; fill it first: x.filled(value)")
    if isinstance(x, (bytes, bytearray)):
        x = memoryview(x)
    if (hasattr(x, "__dlpack__") and not hasattr(x, "__array__")
            and not isinstance(x, np.ndarray)):
        try:
            array = np.from_dlpack(x)
        except (RuntimeError, BufferError) as error:
            raise TypeError(f"{what}: x is a {type(x).__name__} that is not on the CPU: "
                            f"{error}") from error
    else:
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"{what}: x is no array of numbers: {error}") from error
    return array if type(array) is np.ndarray else array.view(np.ndarray)


cdef int check_trace_out(object out, list shapes, cnp.ndarray x) except -1:
    if (not isinstance(out, list) or len(out) != len(shapes)
            or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in out)):
        raise TypeError(f"trace: out is to be a list of {len(shapes)} pairs of arrays: z, activation")
    cdef cnp.npy_intp dimensions[2]
    seen = []
    for i, (pair, shape) in enumerate(zip(out, shapes)):
        dimensions[0], dimensions[1] = shape
        for j, array in enumerate(pair):
            check_out("trace", f"out[{i}][{j}]", array, 2, dimensions, FLOAT32, x)
            if any(overlaps(array, other) for other in seen):
                raise ValueError(f"trace: out[{i}][{j}] overlaps another array of out")
            seen.append(array)
    return 0


cdef int check_out(str what, str name, object out, int n_dimensions, cnp.npy_intp *shape,
                   cnp.dtype dtype, cnp.ndarray x) except -1:
    cdef cnp.ndarray array
    cdef bint is_shaped
    cdef int i
    if not cnp.PyArray_Check(out):
        raise TypeError(f"{what}: {name} is {type(out).__name__}, want a NumPy array")
    array = out
    if <object>cnp.PyArray_DESCR(array) is not dtype and out.dtype != dtype:
        raise TypeError(f"{what}: {name} has dtype {out.dtype}, want {dtype}")
    is_shaped = cnp.PyArray_NDIM(array) == n_dimensions
    for i in range(n_dimensions if is_shaped else 0):
        is_shaped = is_shaped and cnp.PyArray_DIM(array, i) == shape[i]
    if not is_shaped:
        wanted = tuple([shape[i] for i in range(n_dimensions)])
        raise ValueError(f"{what}: {name} has shape {out.shape}, want {wanted}")
    if not cnp.PyArray_ISCARRAY(array):
        flags = out.flags
        problem = ("read-only" if not flags.writeable else "not C-contiguous"
                   if not flags.c_contiguous else "not aligned or not of native byte order")
        raise ValueError(f"{what}: {name} is {problem}")
    if overlaps(array, x):
        raise ValueError(f"{what}: {name} overlaps x")
    return 0
