# Every target sets up all it needs on a fresh clone; a second call starts at once.
#   make test     the checks and tests that every change must pass
#   make study    the embedded studies: Split and Permuted Digits, minutes on two cores
#   make docs     the documentation, in build/docs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

.PHONY: test study docs

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

study: $(READY)
	$(BIN)/clreg-study run digits
	$(BIN)/clreg-study report digits
	$(BIN)/clreg-study run permuted-digits
	$(BIN)/clreg-study report permuted-digits

docs: $(DOCS_READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going docs build/docs

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[study,test]'
	touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	touch $@
