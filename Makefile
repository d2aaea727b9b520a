# CloudDL: `make study` remakes every number of the book, `make test` checks the code.

PYTHON  ?= python3
PROFILE ?= quick
ARGS    ?=
# Where torch comes from on a machine without a GPU: builds without CUDA, a tenth of the size.
# Left aside where it does not answer, or when set to nothing.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN   := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help env study test book notebooks lint clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) \
	  | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: $(STAMP)  ## make .venv with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "clouddl: needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	       "name another: make $(or $(MAKECMDGOALS),env) PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@if ! command -v nvidia-smi >/dev/null && [ -n "$(TORCH_INDEX)" ] && $(BIN)/python -c \
	  'import urllib.request as u; u.urlopen("$(TORCH_INDEX)/torch/", timeout=5)' 2>/dev/null; then \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    -c constraints.txt --index-url $(TORCH_INDEX) torch; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

study: env  ## train, score and write the book again (PROFILE=quick or full)
	$(BIN)/clouddl study --profile $(PROFILE)

test: env  ## run the tests (ARGS="-k sensors" goes to pytest)
	$(BIN)/pytest $(ARGS)

book: env  ## build the committed pages; nothing is trained
	$(BIN)/jupyter-book build book --path-output build/book --all -W -n --keep-going
	@echo "open build/book/_build/html/index.html"

notebooks: env  ## bring notebooks/*.ipynb in line with notebooks/*.py
	$(BIN)/jupytext --sync notebooks/*.py

lint: env  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy clouddl

clean:  ## remove what was built (the environment stays; remove .venv by hand)
	rm -rf build .mypy_cache .pytest_cache .ruff_cache *.egg-info
