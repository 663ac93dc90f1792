# make demo   fit, evaluate and predict on examples/clipart, from nothing but Python 3.11
# make test   lint, types and all tests
# make attacks  the attacks of tests/attacks, twice as many as in the tests: make attacks SEED=7
# make data   unpack the evaluation sets: make data DATA=../shared/data
# make bench  time the savings against the reference manner

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
MODEL := demo-model

.PHONY: demo test attacks data bench clean

demo: $(VENV)/demo
	$(BIN)/shotfit fit examples/clipart --out $(MODEL)
	$(BIN)/shotfit evaluate $(MODEL) examples/clipart
	$(BIN)/shotfit predict $(MODEL) examples/clipart/bird/bird_0[1-3].png examples/clipart/tool/tool_01.png --top 3

test: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

attacks: $(VENV)/test
	OMP_NUM_THREADS=1 SHOTFIT_ATTACK_ROUNDS=2 $(BIN)/python -m pytest tests/attacks --numprocesses auto --dist worksteal $(if $(SEED),--attack-seed $(SEED))

data:
	@test -n "$(DATA)" || { echo "Say where the archives are: make data DATA=../shared/data"; exit 2; }
	@for archive in caltech101 pacs dtd flowers17 gtsrb rbc_shapes grocery clipart omniglot; do \
		echo "data/$$archive"; \
		mkdir -p data/$$archive && tar -xf "$(DATA)/$$archive.tar" -C data/$$archive || exit 1; \
	done

bench: $(VENV)/test
	$(BIN)/python -m benchmarks all --out benchmarks/results.jsonl

clean:
	rm -rf $(VENV) $(MODEL) build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

# What it installs serves the demo too.
$(VENV)/test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[dev,clip]"
	@touch $@ $(VENV)/demo
