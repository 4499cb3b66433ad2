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

# The shipped run, from text to landmarks: about two hours on 2 cores. Alphas are for d_model 128 (data/README.md).
ALPHAS := 8e-3 1.6e-2 3.2e-2 6.4e-2
SWEEP := 4e-3 8e-3 1.2e-2 1.6e-2 2.4e-2 3.2e-2 4.8e-2 6.4e-2
MLP := 1e-3 3e-3
ATTN := 1.2e-2
PRECOMPUTE := $(BIN)/python -m precompute
MINIATURE := data/runs/miniature-model
miniature: .venv/app-installed
	$(PRECOMPUTE) miniature --out $(MINIATURE)
	$(PRECOMPUTE) measure --model $(MINIATURE)
	$(PRECOMPUTE) corpus --run $(RUN) --model $(MINIATURE) --corpus miniature --train-tokens 2000000 --ship-model
	$(PRECOMPUTE) train --run $(RUN) --layers 0,1,3,4,5 --alphas $(ALPHAS) --tokens 3000000 --precision bf16
	$(PRECOMPUTE) train --run $(RUN) --layers 2 --alphas $(SWEEP) --tokens 3000000 --precision bf16
	$(PRECOMPUTE) train --run $(RUN) --layers 2 --sites mlp_post --kind untied --ratio 2 --alphas $(MLP) --tokens 2000000 --precision bf16
	$(PRECOMPUTE) train --run $(RUN) --layers 2 --sites attn_out --alphas $(ATTN) --tokens 2000000 --precision bf16
	for step in metrics features contexts effects edges neighbours landmarks; do $(PRECOMPUTE) $$step --run $(RUN) || exit 1; done
	$(PRECOMPUTE) docs

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
