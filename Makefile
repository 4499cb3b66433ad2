# `make app` opens the dashboard, `make test` runs the tests; both set up everything they need.
PYTHON ?= python3.11
RUN ?= data/miniature
BIN := .venv/bin

.PHONY: app test lint bench miniature docs clean

app: .venv/app-installed
	$(BIN)/python -m streamlit run app/main.py

test: .venv/test-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/test-installed
	$(BIN)/ruff check .

bench: .venv/app-installed
	$(BIN)/python -m tests.benchmarks

# The table reference in data/README.md, from the schemas and the shipped run's measurements.
docs: .venv/app-installed
	$(BIN)/python -m precompute docs

.venv/app-installed: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "Expected Python 3.11 as '$(PYTHON)'. Found none. Run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Expected Python 3.11. Found $$($(PYTHON) --version). Run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	# torch on its own and first, so that nothing else pulls in another build of it
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

.venv/test-installed: .venv/app-installed requirements-test.txt
	$(BIN)/pip install --quiet --requirement requirements-test.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache
