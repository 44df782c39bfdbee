# Everything happens in .venv, which the first command creates. No C compiler and no system package is needed.
#   make demo   train a small summarizer, compile it at two bits and at one, and compare
#   make test   run the tests
#   make lint   ruff and mypy
#   make zoo    prepare and export a sample of the architectures of transformers, and compare with docs/compatibility.md
#   make docs   build the documentation, with the API reference, into site/
#   make arm    build the emulated AArch64 machine, on which tests/arm runs; without it those tests are skipped
#   make browser install Chromium and its driver by apt, in which tests/report shows pages; else those are skipped
#   make coverage run the tests and print the lines of each file that none of them runs
#   make mutation change operators and numbers of the quantizers and bit layouts, and see whether the tests notice
#   make dist   build an sdist and a wheel into dist/
#   make device install what a device needs, and no PyTorch, into an environment of its own, which tests then use

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= .venv-device
# The CPU build of PyTorch. Without this index pip takes the default build, which works too and is far larger.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTEST_ARGS ?=
MUTATION_ARGS ?=
DEMO_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread per process: the tests run in two processes, and more threads than cores make everything slower.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TVM_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo install test lint zoo docs arm browser coverage mutation dist device clean

demo: $(VENV)/.stamp-run
	$(BIN)/tbt demo $(DEMO_ARGS)

install: $(VENV)/.stamp-test

test: $(VENV)/.stamp-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tbt_compile

zoo: $(VENV)/.stamp-test
	$(ONE_THREAD) $(BIN)/python examples/zoo.py --check docs/compatibility.json --sample 20 --stage capture \
		--json build/zoo.json --logs build/zoo-logs

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

arm: $(VENV)/.stamp-test
	$(BIN)/python tests/arm/environment.py

browser:
	command -v chromium && command -v chromedriver || { apt-get update -qq && \
		apt-get install -qq -y --no-install-recommends chromium chromium-driver; }

# Files are measured by process, so that a run in pieces adds up: `coverage erase` begins again.
coverage: $(VENV)/.stamp-quality
	$(ONE_THREAD) $(BIN)/python -m coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/python -m coverage combine --append --quiet
	$(BIN)/python -m coverage report

mutation: $(VENV)/.stamp-quality
	$(ONE_THREAD) $(BIN)/python tests/mutation.py $(MUTATION_ARGS)

dist: $(VENV)/bin/python
	rm -rf build dist
	$(PIP) install --quiet -c constraints.txt build
	$(BIN)/python -m build

# As on the device: the package and not the folder it is developed in. What an older build left would go into it.
device: $(DEVICE)/bin/python
	rm -rf build
	$(DEVICE)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt .

clean:
	rm -rf $(VENV) $(DEVICE) build dist site *.egg-info

$(VENV)/bin/python $(DEVICE)/bin/python:
	$(PYTHON) -m venv $(@:/bin/python=)

# PyTorch goes first and alone, so that only it is looked for in its own index.
$(VENV)/.stamp-torch: $(VENV)/bin/python constraints.txt
	$(PIP) install --no-deps --retries 1 --timeout 20 --extra-index-url $(TORCH_INDEX) -c constraints.txt torch
	touch $@

$(VENV)/.stamp-run: $(VENV)/.stamp-torch pyproject.toml
	$(PIP) install -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-run
	$(PIP) install -c constraints.txt -e '.[train,test,bench,report,serve]'
	touch $@

$(VENV)/.stamp-quality: $(VENV)/.stamp-test
	$(PIP) install -c constraints.txt -e '.[quality]'
	touch $@

# The reference is read from the sources, so that neither PyTorch nor anything else of the package's is imported.
$(VENV)/.stamp-docs: $(VENV)/bin/python constraints.txt pyproject.toml
	$(PIP) install -c constraints.txt -e '.[docs]'
	touch $@
