# make scan [SYSTEM=h2] [PRESET=small] [CORES=2] [RESULTS=results] [SET="optimise.iterations=500"]
# make test | test-all | test-slurm | test-browser | test-gpu | systems
# make bench | bench-gpu | gpu-wheels | gpu-program
# make lint | check | docs | lock
# make clean-env
# Needs git, make and a Python from 3.11 to 3.13; everything else goes into .venv.

SYSTEM ?= h2
RESULTS ?= results
PRESET ?=
CORES ?=
SET ?=
ARGS ?=

# A misspelt variable would run something else: `make scan SYTEM=lih` would compute H2.
VARIABLES := SYSTEM RESULTS PRESET CORES SET ARGS PYTHON REQUIRE_SLURM REQUIRE_BROWSER REPORT
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(firstword $(filter-out $(VARIABLES) SHELL MAKEFLAGS,$(GIVEN)))
ifneq ($(UNKNOWN),)
CLOSE := $(shell python3 -c 'import difflib, sys; name, *known = sys.argv[1:]; \
    print(*difflib.get_close_matches(name.upper(), known, 1))' '$(UNKNOWN)' $(VARIABLES) 2>/dev/null)
$(error unknown variable $(UNKNOWN)$(if $(CLOSE),; did you mean $(CLOSE)?,;) allowed: $(VARIABLES))
endif

VENV := .venv
BIN := $(VENV)/bin
# A copy of the lock that $(VENV) was made from: there once everything is installed.
INSTALLED := $(VENV)/requirements.lock
READY := $(VENV)/ready
UV_VERSION := 0.13.9
GPU_COMPILER := .gpu-compiler

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A module file's packages would hide those of $(VENV).
unexport PYTHONPATH

SNAKEMAKE := $(BIN)/snakemake --profile cluster_profiles/local $(if $(CORES),--cores $(CORES))
CONFIG := --config "system=$(SYSTEM)" "results=$(RESULTS)" \
    $(if $(PRESET),"preset=$(PRESET)") $(if $(SET),"set=$(SET)")

.PHONY: scan test test-all test-slurm test-browser test-gpu bench bench-gpu gpu-wheels gpu-program systems \
    lint check docs lock clean-env

scan: $(READY)
	@$(SNAKEMAKE) $(ARGS) $(CONFIG)

# At most 8 minutes on two cores; it ends with a list of what it left out.
test: $(READY)
	@$(BIN)/python -m pytest -m "not slow and not campaign" $(ARGS)

test-all: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

# On a Slurm cluster of two nodes that it starts on this machine and stops again; needs root.
test-slurm: $(READY)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    python3 tests/slurm/cluster.py install; fi
	@REQUIRE_SLURM=$(REQUIRE_SLURM) $(BIN)/python -m pytest -n0 tests/slurm $(ARGS)

# The report in a real browser, Debian's chromium; root installs it.
test-browser: $(READY)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    python3 tests/browser/chromium.py install; fi
	@REQUIRE_BROWSER=$(REQUIRE_BROWSER) $(BIN)/python -m pytest -n0 tests/browser $(ARGS)

# Inside an allocation with one or more NVIDIA GPUs, with JAX's CUDA wheels in .venv.
test-gpu: $(READY)
	@$(BIN)/python -m pytest -n0 tests/gpu $(ARGS)

# Speed compared with DeepQMC and folx, each in its own environment.
bench: $(READY)
	@$(BIN)/python -m benchmarks.speed environments
	@$(BIN)/python -m benchmarks.speed run $(ARGS)

# Times, memory and rates on one GPU in at most 8 minutes; a repetition goes on: REPORT=gpu.jsonl.
# With a Python whose JAX is on the GPU, or, without a network, with the wheels of gpu-wheels.
bench-gpu:
	@python3 -m benchmarks.gpu_setup run $(if $(REPORT),--report $(REPORT)) $(ARGS)

# For a machine without a network: ARGS="--python 3.12 --cuda 13".
gpu-wheels:
	@python3 -m benchmarks.gpu_setup wheels $(ARGS)

# What a GPU would be asked to do, counted without one: ARGS="LiH:256 N2:64 --part 'local energy'".
gpu-program: $(GPU_COMPILER)/ready
	@PYTHONPATH=$(GPU_COMPILER) $(BIN)/python -m benchmarks.gpu_program $(ARGS)

# XLA's compiler for NVIDIA GPUs, next to the environment: inside it JAX would look for a GPU.
$(GPU_COMPILER)/ready: $(READY)
	@rm -rf $(GPU_COMPILER)
	@$(BIN)/pip install --quiet --no-deps --target $(GPU_COMPILER) jax-cuda12-plugin==0.9.1 \
	    jax-cuda12-pjrt==0.9.1 nvidia-cuda-nvcc-cu12==12.9.86 nvidia-cuda-runtime-cu12==12.9.79 \
	    folx==0.2.30 jaxtyping==0.3.11 wadler-lindig==0.1.8
	@touch $@

# Every file in systems/ from end to end at the preset smoke; a long run.
systems: $(READY)
	@$(BIN)/python -m benchmarks.systems $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

check: lint test

# The pages of docs/ into site/, without a network. A broken link is an error, but not with --quiet,
# because MkDocs counts only the warnings that it logs. To search in the pages:
#   .venv/bin/python -m http.server --directory site
docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "written: site/index.html"

clean-env:
	rm -rf $(VENV) .venv-lock $(GPU_COMPILER) .gpu-wheels .gpu-site

$(READY): $(INSTALLED) pyproject.toml
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Made again unless it was made from this lock, so that an interrupted set-up has no effect.
# setuptools first: packages that come as source are built with it, not with an index's newest version.
$(INSTALLED): requirements.lock
	@if cmp -s $< $@; then touch $@; exit 0; fi; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	        2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "error: no Python from 3.11 to 3.13 with venv and pip found; name one with PYTHON=..." >&2; \
	    exit 2; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version); this takes a minute or two" && \
	rm -rf $(VENV) && $$found -m venv $(VENV) && \
	awk '/^[^ ]/ {wanted = /^setuptools==/} wanted' $< > $(VENV)/setuptools.lock && \
	$(BIN)/pip install --quiet --require-hashes --requirement $(VENV)/setuptools.lock && \
	$(BIN)/pip install --quiet --no-build-isolation --use-pep517 --require-hashes --requirement $< && \
	cp $< $@

# Pins stay as they are unless pyproject.toml asks for others; ARGS=--upgrade renews them all.
lock:
	python3 -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv==$(UV_VERSION)
	.venv-lock/bin/uv pip compile pyproject.toml --extra mpi --extra dev --universal \
	    --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet $(ARGS) \
	    --output-file requirements.lock
	.venv-lock/bin/uv pip compile pyproject.toml --constraint requirements.lock --universal \
	    --python-version 3.11 --no-header --no-annotate --quiet --output-file .venv-lock/pins
	sed '/^      - "/d' environment.yml > .venv-lock/environment.yml
	sed 's/.*/      - "&"/' .venv-lock/pins >> .venv-lock/environment.yml
	mv .venv-lock/environment.yml environment.yml
	rm -rf .venv-lock
