# `make train` and `make test` do all the set-up: a virtual environment in .venv with the pinned versions of constraints.txt,
# made by the newest Python that is found and supported, or by PYTHON=python3.11.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-short lint format benchmark soak mutation clean same-python

train: $(VENV)/.train
	$(BIN)/python launch.py

test: $(VENV)/.test
	$(BIN)/python -m pytest

# What depends on the versions of Python and JAX, in minutes: every import, a tiny run of each family, launchers, checkpoints.
test-short: $(VENV)/.test
	$(BIN)/python -m pytest -m 'short and not soak'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Beside PyTorch, if TORCH_PYTHON is the Python of an environment that has it: make benchmark TORCH_PYTHON=PATH.
benchmark: $(VENV)/.train
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/speed.py $(if $(TORCH_PYTHON),--torch_python $(TORCH_PYTHON))
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/startup.py

# Tests that are too long for every run, then random faults: most of an hour on two CPU cores. See docs/reliability.md.
soak: $(VENV)/.test
	$(BIN)/python -m pytest -m soak
	$(BIN)/python benchmarks/soak.py

# A hundred mistakes made on purpose, and whether the tests notice: hours on two CPU cores. See docs/reliability.md.
mutation: $(VENV)/.test
	$(BIN)/python benchmarks/mutation.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@python=$$(.ci/python find $(PYTHON)) && echo "$$python -m venv --clear $(VENV)" && "$$python" -m venv --clear $(VENV)

same-python: | $(BIN)/python
	@.ci/python check $(VENV) $(PYTHON)

# What is installed, by purpose: .train is the package alone, .test and .dev add their extras.
$(VENV)/.train: EXTRAS :=
$(VENV)/.test: EXTRAS := [test]
$(VENV)/.dev: EXTRAS := [dev]
$(VENV)/.train $(VENV)/.test $(VENV)/.dev: pyproject.toml constraints.txt | same-python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.$(EXTRAS)'
	@touch $@
