# Two commands do everything on a machine with Python 3.11 or newer, make and a package index:
#   make demo    draw ten images four ways, and write a report
#   make test    run the tests
# Each makes the environment .venv first, from the pinned versions in requirements/dev.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= report
ARGS ?=

.PHONY: demo test test-slow lint types docs bench clean

$(VENV)/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/ready
	$(BIN)/parareal demo --out $(OUT) $(ARGS)

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not gpu and not slow" $(ARGS)

test-slow: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow $(ARGS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/pyright

docs: $(VENV)/ready
	$(BIN)/zensical build --strict --clean

bench: $(VENV)/ready
	$(BIN)/python benchmarks/engine/overhead.py
	$(BIN)/python benchmarks/engine/queues.py
	$(BIN)/python benchmarks/diffusion/batch_cost.py
	$(BIN)/python benchmarks/ode/odeint.py
	$(BIN)/python benchmarks/engine/pools.py
	$(BIN)/python benchmarks/engine/levels.py
	$(BIN)/python benchmarks/diffusion/solvers.py
	$(BIN)/python benchmarks/diffusion/support.py
	$(BIN)/python benchmarks/diffusion/compare.py --time --write $(ARGS)

clean:
	rm -rf $(VENV) site report .pytest_cache .ruff_cache
