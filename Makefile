# `make app` opens the dashboard, `make test` runs the tests; both set up everything they need.
PYTHON ?= python3.11
RUN ?= data/runs/again/miniature
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

# The shipped run again, from text to landmarks: hours on 2 cores. To ship it, put it in the place of
# data/miniature and run `make docs`. Alphas are for d_model 128 and do not carry over to another width.
ALPHAS := 1.6e-2 3.2e-2 4.8e-2 8e-2 1.3e-1
SWEEP := 8e-3 1.2e-2 1.6e-2 2.4e-2 3.2e-2 4.8e-2 6.4e-2 9.6e-2
LENGTHS := 300000 1000000 3000000
MLP := 1e-3 2e-3 3e-3
ATTN := 8e-3 1.2e-2
PRECOMPUTE := $(BIN)/python -m precompute
DESCRIPTION := A 6-layer Pythia of width 128 and its dictionaries, trained from scratch on generated text: a Pile in miniature.
MINIATURE := data/runs/miniature-model
TRAIN := $(PRECOMPUTE) train --run $(RUN) --tokens 3000000 --precision auto
POINTS := $(PRECOMPUTE) sweep --run $(RUN) --layers 2 --precision auto
miniature: .venv/app-installed
	$(PRECOMPUTE) miniature --out $(MINIATURE)
	$(PRECOMPUTE) measure --model $(MINIATURE)
	$(PRECOMPUTE) corpus --run $(RUN) --model $(MINIATURE) --corpus miniature --train-tokens 2000000 --ship-model --description "$(DESCRIPTION)"
	$(TRAIN) --alphas 0
	$(TRAIN) --layers 0,1,3,4,5 --alphas $(ALPHAS)
	$(POINTS) --ratios 1 2 4 8 --alphas $(SWEEP) --lengths $(LENGTHS)
	$(POINTS) --kinds batchtopk,jumprelu --ratios 4 --ks 15 30 60 --lengths 3000000
	$(POINTS) --sites mlp_post --kinds tied,untied --ratios 1 --alphas $(MLP) --lengths 3000000
	$(TRAIN) --layers 2 --sites attn_out --alphas $(ATTN)
	$(PRECOMPUTE) metrics --run $(RUN)
	$(PRECOMPUTE) prune --run $(RUN) --keep 2
	for step in features contexts effects edges neighbours landmarks; do $(PRECOMPUTE) $$step --run $(RUN) || exit 1; done

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
