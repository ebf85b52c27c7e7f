# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Everyday commands; each installs what it lacks (SKIP_DEPS=1: it does not). CMake does the work.
BUILD := build/cpu
# Debian's first: it sees Debian's packages.
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)
IO := data/tiny-code-moe/moe_io.safetensors
VENV := build/venv
TORCH := build/torch
# Where the environment is there; without it the tests of the package are skipped.
WITH_PYTHON = $$([ ! -x $(VENV)/bin/python ] || echo -DSWITCHYARD_PYTHON=ON -DPython_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python)
THREADED := device comm dispatcher executor linear_attention layer cpu c_api  # tests: folders of tests/

.PHONY: help build run test torch bench asan tsan cuda fuzz coverage mutate soak arm fresh engines reference style tidy format clean
help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build:  ## build library and command line: build/cpu/switchyard
	@scripts/install_deps.sh build
	@cmake --preset cpu -DSWITCHYARD_TESTS=OFF -DSWITCHYARD_BENCH=OFF >/dev/null
	@cmake --build --preset cpu --target switchyard_cli

run: build  ## run layer 1 of a trained model on its real input over 4 ranks
	$(BUILD)/switchyard run --model data/tiny-code-moe --layer 1 --input $(IO) --expect $(IO) --ranks 4

test:  ## build everything and run all tests
	@scripts/install_deps.sh build test python
	@scripts/python_venv.sh $(VENV)
	@cmake --preset cpu -DSWITCHYARD_TESTS=ON -DSWITCHYARD_BENCH=ON -DSWITCHYARD_TORCH_VENVS= $(WITH_PYTHON) >/dev/null
	@cmake --build --preset cpu
	ctest --preset cpu -j2

torch:  ## the package with torch on the CPU, and with the oldest and newest transformers: build/torch, 1.4 GB to download
	@scripts/install_deps.sh build test python
	@scripts/python_venv.sh $(VENV)
	@scripts/torch_venvs.sh $(TORCH) $(VENV) || exit $$(($$? == 77 ? 0 : 1)); \
	cmake --preset cpu -DSWITCHYARD_TESTS=ON -DSWITCHYARD_TORCH_VENVS=$(CURDIR)/$(TORCH) $(WITH_PYTHON) >/dev/null && \
	cmake --build --preset cpu --target switchyard_python && ctest --preset cpu -j2 -R '^torch\.'

bench:  ## time the grouped GEMM beside OpenBLAS, and a layer beside its floors
	@scripts/install_deps.sh build bench
	@cmake --preset cpu -DSWITCHYARD_BENCH=ON >/dev/null
	@cmake --build --preset cpu --target bench_grouped_gemm switchyard_cli
	$(BUILD)/bench/bench_grouped_gemm
	$(BUILD)/switchyard bench --preset olmoe-1b-7b --tokens 1,32,512

asan:  ## all tests with address and undefined behaviour sanitizers
	@scripts/install_deps.sh build test
	@cmake --preset asan >/dev/null && cmake --build --preset asan && ctest --preset asan -j2

tsan:  ## thread ranks and thread pools under the thread sanitizer
	@scripts/install_deps.sh build test
	@cmake --preset tsan >/dev/null && cmake --build --preset tsan --target $(THREADED:%=test_%)
	ctest --preset tsan -j2 -R "^($$(echo $(THREADED) | tr ' ' '|'))\." -E '^c_api\.example_'  # which run other programs

cuda:  ## build the CUDA kernels and their tests, which skip without a GPU (with one: scripts/gpu_check.sh)
	@scripts/install_deps.sh build test
	@cmake --preset cuda -DSWITCHYARD_TESTS=ON -DSWITCHYARD_BENCH=ON >/dev/null
	@cmake --build --preset cuda --target switchyard_cli test_cuda bench_waits_on_one_gpu
	ctest --preset cuda -j2 -R '^cuda\.'

fuzz:  ## every parser of files, and what peers send, under a fuzzer, 45 s each (FUZZ_SECONDS)
	@scripts/install_deps.sh build test fuzz
	@cmake --preset fuzz >/dev/null && cmake --build --preset fuzz
	scripts/fuzz.sh

coverage:  ## lines that the tests reach, by folder; fails below the limits
	@scripts/install_deps.sh build test coverage
	@cmake --preset coverage >/dev/null && cmake --build --preset coverage
	@find build/coverage -name '*.gcda' -delete
	ctest --preset coverage -j2
	scripts/coverage.py build/coverage

mutate:  ## small faults in the sources, and whether the unit tests see them (SAMPLE=80, SEED=1)
	@scripts/install_deps.sh build test
	scripts/mutate.py --sample $(or $(SAMPLE),80) --seed $(or $(SEED),1)

soak:  ## forwards, layers and ranks that come and go for SECONDS (3600): does anything grow?
	@scripts/install_deps.sh build test
	@cmake --preset cpu -DSWITCHYARD_TESTS=ON -DSWITCHYARD_BENCH=OFF >/dev/null
	@cmake --build --preset cpu --target soak
	$(BUILD)/tests/soak . --seconds $(or $(SECONDS),3600) --json $(BUILD)/soak.json

arm:  ## the numeric tests on 64-bit Arm (NEON), cross-compiled and emulated
	scripts/test_arm.sh

fresh:  ## what a user does first, on a Debian 12 that has nothing, with times (root; nightly)
	@scripts/install_deps.sh fresh
	tests/install/fresh_machine.sh

engines:  ## are vLLM, SGLang and peers what the tests take them for? 500 MB, and torch (nightly)
	@scripts/install_deps.sh build python
	@scripts/python_venv.sh $(VENV)
	@scripts/torch_venvs.sh $(TORCH) $(VENV)
	@cmake --preset cpu $(WITH_PYTHON) >/dev/null && cmake --build --preset cpu --target switchyard_python
	PYTHONPATH=$(BUILD)/python scripts/engine_contracts.sh build/engines $(TORCH)/newest/bin/python

reference:  ## pages of the Python package, and of the C++ and C headers: build/reference
	@scripts/install_deps.sh reference python
	@scripts/python_venv.sh $(VENV)
	$(VENV)/bin/python scripts/python_reference.py build/reference/python
	sed -nE 's/^project\(switchyard VERSION ([0-9.]+).*/PROJECT_NUMBER = \1/p' CMakeLists.txt | cat docs/Doxyfile - | doxygen -

style:  ## formatting, levels of the house, links, tables and snippets of the docs
	@scripts/install_deps.sh style
	scripts/check_format.sh
	scripts/check_layers.py
	scripts/check_licences.py
	scripts/gemm_table.py --check
	$(PYTHON) scripts/check_docs.py

tidy:  ## clang-tidy on changed files (BASE=commit; default: the last commit)
	@scripts/install_deps.sh build test style
	scripts/tidy_changed.sh $(or $(BASE),HEAD~1)

format:  ## format all sources
	@scripts/install_deps.sh style
	git ls-files '*.h' '*.c' '*.cc' '*.cu' '*.cuh' | xargs clang-format -i

clean:  ## remove all builds
	rm -rf build
