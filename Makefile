# make search   a search on real data, ending with the best model saved
# make test     every check: lint, types, layering, tests
# Both set up .venv first; nothing else is needed than Python 3.11 to 3.13, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRIALS ?= 50
# The tests run in this many processes; a file stays with one, so that what it trains is trained once.
TEST_PROCESSES ?= 2

.PHONY: setup search test lint format overhead pruners prediction throughput scale race torture load fuzz clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "autofash needs Python 3.11 to 3.13. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV), once: two minutes or so"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip hatchling editables
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable . --group dev
	@touch $@

search: setup
	$(BIN)/autofash search --trials $(TRIALS)
	$(BIN)/autofash best --export

test: lint
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

lint: setup
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

overhead: setup
	$(BIN)/python benchmarks/overhead.py

pruners: setup
	$(BIN)/python benchmarks/pruners.py

throughput: setup
	$(BIN)/python benchmarks/throughput.py

prediction: setup
	$(BIN)/python benchmarks/prediction.py

scale: setup
	$(BIN)/python benchmarks/scale.py

torture: setup
	$(BIN)/python -m tests.faults.torture $(if $(SEED),--seed $(SEED))

load: setup
	$(BIN)/python benchmarks/load.py

race: $(VENV)/.race
	$(BIN)/python benchmarks/race.py

$(VENV)/.race: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group race
	@touch $@

# COUNT=1000 feeds each parser that many inputs.
fuzz: $(VENV)/.fuzz
	$(BIN)/python benchmarks/fuzz.py $(if $(COUNT),--count $(COUNT))

$(VENV)/.fuzz: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group fuzz \
		|| echo "atheris cannot be had for this Python: a mutator of our own takes its place" >&2
	@touch $@

clean:
	rm -rf $(VENV) fuzz-found build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
