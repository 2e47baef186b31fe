# Each target makes what it needs, .venv included; running one twice does no work twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK_VENV := build/lock-venv
TORCH ?= torch
KILLS ?= 240

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: setup tutorial notebooks book test test-faults test-browser mutants lab lint data lock clean help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv with the locked packages and pkdlib (PYTHON=... picks the Python, 3.11 or newer)

tutorial: $(STAMP) ## run the tutorial
	$(BIN)/python -m pkdlib tutorial

notebooks: $(STAMP) ## re-execute every notebook in place, outputs and all
	$(BIN)/python -m pkdlib tutorial --in-place

book: $(STAMP) ## build/book/html/index.html: the notebooks as they are, in a gallery with search
	rm -rf build/book
	$(BIN)/python -m sphinx -q -W --keep-going -d build/book/doctrees notebooks build/book/html

test: $(STAMP) ## run the tests, on all cores
	$(BIN)/python -m pytest -n auto --dist loadfile

test-faults: $(STAMP) ## bad inputs, full disks, and KILLS=240 kills of runs and sweeps (an hour); data/results/faults.json
	$(BIN)/python -m pytest tests/faults
	$(BIN)/python -W ignore tests/faults/kills.py --kills $(KILLS) --record data/results/faults.json

test-browser: $(STAMP) ## run every notebook in JupyterLab in Chromium, move every widget; screenshots in runs/browser
	$(BIN)/python tests/browser/chromium.py
	$(BIN)/python -m pytest -s -vv tests/browser

mutants: $(STAMP) ## change the code in one small place at a time; what no test notices is listed (hours)
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -W ignore tests/mutants.py --again

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

lint: $(STAMP) ## check style and format with ruff, the core's types with mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

data: $(STAMP) ## remake the data files and the miniature BERT (several minutes)
	$(BIN)/python data/remake.py

lock: ## remake requirements.lock from pyproject.toml's ranges (TORCH=torch==2.13.0 holds torch to a version)
	@$(check-python)
	rm -rf $(LOCK_VENV)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/pip install '$(TORCH)' setuptools -e '.[all]'
	sed -n '/^#/p' requirements.lock > build/lock
	$(LOCK_VENV)/bin/pip freeze --all --exclude pip --exclude pkdlib > build/freeze
	sed -E -e 's/\+[a-z0-9.]+$$//' -e '/^(nvidia|cuda|triton)[-_a-z0-9]*==/d' build/freeze >> build/lock
	mv build/lock requirements.lock
	rm -rf $(LOCK_VENV) build/freeze

clean: ## delete .venv, builds and caches; runs/ is your work and stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find pkdlib tests data -name __pycache__ -prune -exec rm -rf {} +

# The stamp's date says whether .venv still holds what the two files ask for.
$(STAMP): requirements.lock pyproject.toml
	@$(check-python)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -r requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@

define check-python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
{ echo "The PKD kit needs Python 3.11 or newer and '$(PYTHON)' is not: try make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
endef
