#!/bin/sh
# Runs a command under the sanitizers that `FASTNN_SANITIZE=1` compiled into the extension:
#   sh tools/with_sanitizers.sh python -m pytest
#
# The interpreter is not instrumented, so the run-time libraries must be loaded before it. Leaks are
# not looked for: CPython leaves its own at exit (the C harness looks). libstdc++ comes along
# because ASan resolves __cxa_throw at start, and packages written in C++ are loaded later.
set -eu
cc=${CC:-cc}
preload=
for library in libasan.so libubsan.so libstdc++.so.6; do
    preload="$preload $("$cc" -print-file-name="$library")"
done
export PYTHONMALLOC=malloc PYTHONPATH="$PWD"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:alloc_dealloc_mismatch=0
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
LD_PRELOAD="${preload# }" exec "$@"
