# make demo | test | lint | docs | bench | sweep | aarch64: each creates and fills .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SHELL := /bin/bash

.PHONY: demo test lint docs bench sweep aarch64 wheel clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/01_sentence_encoder.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest -q -n 2

wheel: $(READY)
	$(BIN)/python -m whet.tools.release.check_wheel

# MkDocs stays out of the environment, where nothing but the site needs it.
DOCS := $(VENV)/docs
$(DOCS)/.ready: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --upgrade --target $(DOCS) \
		mkdocs mkdocs-material
	touch $@

docs: $(DOCS)/.ready
	PYTHONPATH=$(DOCS) $(BIN)/python -m whet.tools.docs --output build/site

# What runs TVM's libraries for Arm under QEMU, for tests: two wheels of that machine, less the compiler that is most of them.
AARCH64 := $(VENV)/aarch64
$(AARCH64)/.ready: constraints.txt $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --only-binary=:all: \
		--platform manylinux_2_28_aarch64 -c constraints.txt --upgrade --target $(AARCH64) apache-tvm apache-tvm-ffi
	rm -f $(AARCH64)/tvm/lib/libtvm_compiler.so
	touch $@

aarch64: $(AARCH64)/.ready

bench: $(READY)
	$(BIN)/python -m whet.tools.bench

# timm imports torchvision, whose wheel asks for a CUDA torch and, beside a CPU one, breaks transformers for everybody:
# both stay out of the environment, in a folder that only the sweep sees.
SWEEP := $(VENV)/sweep
$(SWEEP)/.ready: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt --upgrade \
		--target $(SWEEP) timm torchvision pillow pyyaml
	touch $@

sweep: $(SWEEP)/.ready
	PYTHONPATH=$(SWEEP) $(BIN)/python -m whet.tools.sweep

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
