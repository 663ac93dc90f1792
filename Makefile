# make demo   fit, evaluate and predict on examples/clipart, from nothing but Python 3.11
# make test   lint, types and tests
# make slow   the tests that take more than ten seconds each
# make docs   the documentation as a site, build/docs/index.html; runs its notebooks, commands and examples
# make browser  the tests of pages, in Chromium
# make soak     the prediction server under load for twenty minutes
# make backbones  the contract of every method on every kind of tower: an hour
# make attacks  the attacks of tests/attacks, all twice: make attacks SEED=7; some: make attacks ROUNDS=0.2
# make data   unpack the evaluation sets: make data DATA=../shared/data
# make bench  time the savings against the reference manner
# make lock   remake the lists of versions and hashes, after pyproject.toml or constraints.txt changed
# make audit  look up known holes of the versions that are locked

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export PYTHONDONTWRITEBYTECODE :=  # tests start many processes: none shall compile the package again
LOCKED := $(PIP) install --quiet --no-deps --require-hashes --requirement requirements
MODEL := demo-model

.PHONY: demo test slow docs browser soak backbones attacks data bench lock audit clean

demo: $(VENV)/demo
	$(BIN)/shotfit fit examples/clipart --out $(MODEL)
	$(BIN)/shotfit evaluate $(MODEL) examples/clipart
	$(BIN)/shotfit predict $(MODEL) examples/clipart/bird/bird_0[1-3].png examples/clipart/tool/tool_01.png --top 3

test: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

slow: $(VENV)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests

docs: $(VENV)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --doctree-dir build/doctrees docs build/docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m docs tests/test_docs.py --numprocesses auto --dist worksteal

browser: $(VENV)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser --numprocesses auto --dist loadfile tests

soak: $(VENV)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak --timeout 3600 tests

backbones: $(VENV)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m backbones tests --numprocesses auto --dist worksteal

attacks: $(VENV)/test
	OMP_NUM_THREADS=1 SHOTFIT_ATTACK_ROUNDS=$(or $(ROUNDS),2) $(BIN)/python -m pytest -m attacks tests/attacks --numprocesses auto --dist worksteal --attack-seed $(or $(SEED),$(shell date +%F))

data:
	@test -n "$(DATA)" || { echo "Say where the archives are: make data DATA=../shared/data"; exit 2; }
	@for archive in caltech101 pacs dtd flowers17 gtsrb rbc_shapes grocery clipart omniglot; do \
		echo "data/$$archive"; \
		mkdir -p data/$$archive && tar -xf "$(DATA)/$$archive.tar" -C data/$$archive || exit 1; \
	done

bench: $(VENV)/test
	$(BIN)/python -m benchmarks all --out benchmarks/results.jsonl

lock: $(VENV)/test
	$(BIN)/python .ci/lock.py

audit: $(VENV)/test
	$(BIN)/python .ci/audit.py

clean:
	rm -rf $(VENV) $(MODEL) build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Nothing is installed whose hash is not in the locks. torch for CPUs alone is taken where pip finds it (a tenth of the
# size); what is locked is complete, so pip resolves nothing and builds nothing from the network.
define install
	$(LOCKED)/torch-cpu.txt 2>/dev/null || $(LOCKED)/torch.txt
	$(LOCKED)/$(1).txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(PIP) check
endef

$(VENV)/demo: $(BIN)/python pyproject.toml requirements/demo.txt
	$(call install,demo)
	@touch $@

# What it installs serves the demo too. The originals that tests compare with lie apart (tests/originals.py says why).
$(VENV)/test: $(BIN)/python pyproject.toml requirements/test.txt requirements/originals.txt
	$(call install,test)
	rm -rf $(VENV)/originals
	$(LOCKED)/originals.txt --target $(VENV)/originals
	@touch $@ $(VENV)/demo
