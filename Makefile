# demo   stylise a photograph: pictures in demo/
# test   build and run the test suite            lint   every linter and formatter, changing nothing
# bench  time the operators against PyTorch      wheel  the wheel and the sdist in dist/
# gpu    on a machine whose python3 has a CUDA torch: build, test, sanitize, bench (PARTS="test bench" for some)
# clean  remove what the build made
# The first five make .venv with pinned packages; gpu uses python3 as it is and needs no network.

PYTHON ?= python3
PARTS ?= build test sanitize bench
VENV := .venv
RUN := $(VENV)/bin/python
CPP := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test lint bench wheel gpu build clean

demo: build
	$(RUN) examples/demo.py

test: build
	$(RUN) -m pytest

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)

bench: build
	$(RUN) -m bench

wheel: $(VENV)/.installed
	rm -rf dist
	$(RUN) setup.py -q sdist
	$(VENV)/bin/pip wheel -q --no-build-isolation --no-deps -w dist .

gpu:
	$(PYTHON) -m bench.gpu $(PARTS)

# Ninja compiles what changed; the rest is a few seconds of pip.
build: $(VENV)/.installed
	$(VENV)/bin/pip install -q --no-build-isolation --no-deps -e .

$(VENV)/.installed: requirements-dev.txt requirements-data.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -r requirements-dev.txt
	$(VENV)/bin/pip install -q --no-deps -r requirements-data.txt
	touch $@

clean:
	rm -rf build dist demo *.egg-info perceptual_ops/_C.so
