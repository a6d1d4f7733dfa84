# make demo      run the quickstart notebook on a real HTCondor; installs everything first
# make test      check format, lint, and types, and run all tests on a real HTCondor
# make matrix    run the tests that depend on versions: Python 3.10 to 3.14, newest and lowest packages
# make pictures  take the README's pictures of the widget in a real JupyterLab
# make soak      break things at random moments: make soak ROUNDS=50 SEED=1 KINDS="disk-full no-memory"
# make bench     measure what a call costs, against raw htcondor2 and multiprocessing

PYTHON ?= python3
BIN := .venv/bin
CODE := condorpool tests

.PHONY: demo test check provision matrix pictures soak bench format clean

demo: .venv/demo
	$(BIN)/condorpool demo

test: provision check
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && $(BIN)/pytest -n 4 --dist loadscope --basetemp="$$tmp/pytest"

# Install the programs that tests start: Chromium, sshd, HTCondor.
provision: .venv/test
	@$(BIN)/python tests/provision.py

check: .venv/test
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

# Runs all cells, or those in CELLS: make matrix CELLS="3.10 3.13-lowest"
matrix: provision
	@$(BIN)/python tests/matrix.py $(CELLS)

pictures: provision
	$(BIN)/pytest -q tests/browser/shots.py

ROUNDS ?= 200
soak: provision
	$(BIN)/python tests/soak.py $(ROUNDS) $(SEED) $(KINDS)

bench: .venv/test
	$(BIN)/python tests/benchmarks/bench.py

format: .venv/test
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean:
	rm -rf .venv demo-output .mypy_cache .pytest_cache .ruff_cache

# Installed again when the dependencies change.
.venv/demo .venv/test: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  rm -rf .venv; \
	  echo "make: $(PYTHON) cannot create a virtual environment. On Debian, run: apt-get install python3-venv" >&2; \
	  exit 1; }
	@echo "Installing condorpool[$(@F)] into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(@F)]'
	@touch $@
