# What a person does with fastnn's source, one target each; `make help` lists them.
#
# Everything happens in a private environment, .venv, with the package installed in place
# (editable): Python changes show at once, C changes are compiled by the next `make`.
# Nothing here calls apt or needs root. PYTHON=... picks the interpreter; ARGS=... goes to the
# tool (pytest, `fastnn evaluate`), HARNESS_ARGS=... to the C harness.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# The last word: when the compiled module is gone, however old the stamps are, build.
BUILT_FROM := setup.py pyproject.toml fastnn/_version.py \
              $(wildcard csrc/*.[ch] fastnn/*.pyx fastnn/*.pxd) \
              $(if $(wildcard fastnn/_core.*.so),,always)

# Another mode is another build: the file of this name is new, and what depends on it is made again.
MODE := $(VENV)/mode-$(if $(filter-out 0,$(FASTNN_SANITIZE)),sanitize,$(if $(filter-out 0,$(FASTNN_DEBUG)),debug,release))

# Two processes, each a file of tests at a time. pytest-benchmark, which would warn of company, is
# for benchmarks/.
TWO := -n 2 --dist loadfile --no-loadscope-reorder -p no:benchmark

# A copy of the tree, built in place with sanitizers: tests there import what is there.
SANITIZED := build/sanitize/tree

.DELETE_ON_ERROR:
.PHONY: always help run build test test-sanitized test-neon test-wheel test-interop \
        test-interop-full harness harness-sanitized harness-emulated instructions exhaustive attacks fuzz \
        fuzz-coverage retrain bench shapes threads load-time overhead lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 27

run: $(VENV)/with-cli  ## build, then evaluate the bundled network on real digits
	$(VENV)/bin/fastnn evaluate $(ARGS)

build: $(VENV)/with-cli  ## compile what changed

test: $(VENV)/with-test  ## run the test suite
	$(PY) -m pytest $(TWO) $(ARGS)

test-sanitized: $(VENV)/with-test harness-sanitized  ## the suite and the C harness under ASan + UBSan
	@echo "building with sanitizers in $(SANITIZED)"
	@mkdir -p $(SANITIZED)
	@find $(SANITIZED) -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
	@tar -c --exclude=./build --exclude='./.venv*' --exclude=./.git --exclude='*.so' . \
	    | tar -x -C $(SANITIZED)
	@cd $(SANITIZED) && FASTNN_SANITIZE=1 ../../../$(PY) setup.py -q build_ext --inplace
	cd $(SANITIZED) && sh tools/with_sanitizers.sh ../../../$(PY) -m pytest $(TWO) -p no:cacheprovider $(ARGS)

test-interop: $(VENV)/with-interop  ## a sample of networks from other frameworks, and ONNX's own tests
	$(PY) -m pytest interop $(ARGS)

test-interop-full: $(VENV)/with-interop  ## all of them (half an hour)
	$(PY) -m pytest interop --full $(ARGS)

harness: $(VENV)/with-test  ## the C harness alone, native
	$(PY) tools/harness.py native $(HARNESS_ARGS)

harness-sanitized: $(VENV)/with-test  ## the C harness alone, under ASan + UBSan
	$(PY) tools/harness.py sanitized $(HARNESS_ARGS)

harness-emulated: $(VENV)/with-test  ## the C harness alone, with AVX-512 and AMX in plain C
	$(PY) tools/harness.py emulated $(HARNESS_ARGS)

exhaustive: $(VENV)/with-test  ## all 2^32 floats through every activation (an hour or so)
	$(PY) tools/harness.py native exhaustive

instructions: $(VENV)/with-test  ## instructions of fixed calls under valgrind, beside those kept
	$(PY) tools/harness.py instructions $(HARNESS_ARGS)

test-neon: $(VENV)/with-test  ## the C harness for aarch64 under qemu; its hashes equal this CPU's
	$(PY) tools/harness.py neon $(HARNESS_ARGS)

test-wheel: $(VENV)/with-test  ## sdist -> wheel -> clean environment outside the tree -> tests
	$(PY) tools/check_wheel.py $(TWO) $(ARGS)

attacks: $(VENV)/with-test  ## the hostile files, with a flip in every byte of HDF5 too (an hour)
	FASTNN_HDF5_STEP=1 $(PY) -m pytest tests/test_attacks.py $(ARGS)

fuzz: $(VENV)/with-fuzz  ## each reader for a minute; ARGS=-runs=1000000 for longer
	@for suffix in $$($(PY) -c 'from fuzz.mutate import MUTATORS; print(*MUTATORS)'); do \
	    echo "$$suffix"; \
	    $(PY) -m fuzz $$suffix $(or $(ARGS),-max_total_time=60) || exit 1; \
	done

fuzz-coverage: $(VENV)/with-fuzz  ## the lines of each reader that tests, attacks and corpora reach
	$(PY) -m fuzz.lines $(ARGS)

retrain: $(VENV)/with-training  ## train mnist-tiny from scratch; is it as good as its file says (minutes; FASTNN_MNIST)
	$(PY) -m training.again mnist-tiny --out build/retrained $(ARGS)

bench: $(VENV)/with-bench  ## measure fastnn beside its rivals
	$(PY) -m benchmarks.compare $(ARGS)

shapes: $(VENV)/with-bench  ## look for cliffs: 300 shapes, neighbours compared
	$(PY) -m benchmarks.shapes $(ARGS)

threads: $(VENV)/with-bench  ## two threads, and more, beside one
	$(PY) -m benchmarks.threads $(ARGS)

load-time: $(VENV)/with-bench  ## how long 48 MB take to be ready, beside np.fromfile
	$(PY) -m benchmarks.load $(ARGS)

overhead: $(VENV)/with-bench  ## what a call from Python costs beside the network
	$(PY) -m benchmarks.overhead $(ARGS)

lint: $(VENV)/with-dev  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:  ## remove everything that is not source
	rm -rf build dist .venv fastnn.egg-info fastnn/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "fastnn needs Python 3.11 or newer as '$(PYTHON)'; name one: make PYTHON=python3.12"; exit 1; }
	@echo "making the private environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "no virtual environment: Debian and Ubuntu have it in the package python3-venv"; exit 1; }
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    > $(VENV)/build-requires.txt
	@$(PIP) install -q -r $(VENV)/build-requires.txt
	@touch $@

$(MODE): | $(VENV)/ready
	@rm -f $(VENV)/mode-*
	@touch $@

# One rule for every extra: .venv/with-cli, .venv/with-test, ...
$(VENV)/with-%: $(VENV)/ready $(MODE) $(BUILT_FROM)
	@command -v $${CC:-cc} > /dev/null || \
	    { echo "no C compiler '$${CC:-cc}': Debian and Ubuntu have one in build-essential"; exit 1; }
	@echo "building fastnn and installing what its extra [$*] needs"
	@$(PIP) install -q --no-build-isolation -e '.[$*]'
	@touch $@
