# What a developer types; `make` alone lists it. Needs Python 3.11 or later with pip, and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Not the newest that pyproject.toml allows, and only here: whoever installs convforge keeps the torch they have, from
# 2.9 on. On Linux the package registry's builds of torch are for GPUs, with several gigabytes of CUDA. This version is
# one that comes, where these checks run, as a build for CPUs; another may bring CUDA with it, and works as well
# (`make test-newest`).
TORCH := 2.13.0

# Nothing here needs the Hugging Face hub: a test or a demo that asks it for something should fail and not wait.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1

# The tests start hundreds of processes; where Python may not write bytecode, each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

# Whole halves for each of two processes, and what one has left when the other is done is shared: the files whose tests
# share a browser, a network or compiled code start it once, and no core waits for the last test.
TESTS := -n 2 --dist worksteal -q

.PHONY: help demo docs test soak test-newest lint format lock clean

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

demo: .venv/installed  ## Learn to read 5,000 digits, learn kernels from photographs, and say where the reports are.
	$(BIN)/convforge train --dense-twin
	$(BIN)/convforge train --task exemplar
	@echo "Look into it: $(BIN)/convforge see"

docs: .venv/installed  ## Build the documentation as a site into site/, which is read without a network.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open site/index.html"

test: lint  ## Run every check: format, lint, types, tests and the examples in docstrings.
	$(BIN)/python -m pytest $(TESTS)

soak: .venv/installed  ## Run the long versions of the tests in tests/soak, an hour or two, and print a table.
	$(BIN)/python -m pytest tests/soak --soak -o faulthandler_timeout=3600 $(TESTS)

test-newest: .venv-newest/installed  ## Run the tests with the newest torch, torchvision and timm (5 GB in .venv-newest).
	.venv-newest/bin/python -m pytest $(TESTS)

lint: .venv/installed  ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed  ## Format the code, and mend what lint can mend by itself.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## Write requirements.txt anew: the newest packages that pyproject.toml allows.
	$(PYTHON) -m venv --clear --without-pip .lock
	$(PYTHON) -m pip --python .lock install --quiet --editable '.[dev]' torch==$(TORCH) pip
	{ echo "# Everything that 'make' installs, pinned. Written by 'make lock'; the ranges are in pyproject.toml."; \
	  $(PYTHON) -m pip --python .lock freeze --all --exclude-editable | sed 's/+cpu$$//'; } > .lock/requirements.txt
	mv .lock/requirements.txt requirements.txt
	rm -rf .lock

clean:  ## Delete .venv and the caches, but not runs/.
	rm -rf .venv .venv-newest .lock site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv-newest/installed: pyproject.toml
	$(PYTHON) -m venv --clear --without-pip .venv-newest
	$(PYTHON) -m pip --python .venv-newest install --quiet torch torchvision timm
	$(PYTHON) -m pip --python .venv-newest install --quiet --editable '.[dev]' pip
	@touch $@

# The stamp is written last, so an installation that was interrupted is begun again. `venv --without-pip` works where
# Debian has split ensurepip off; pip comes with the lock.
.venv/installed: pyproject.toml requirements.txt
	@test -n "$(PYTHON)" || { echo "make: no python3 was found; install Python 3.11, or say where: make PYTHON=…"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"make: {sys.executable} is older than Python 3.11: make PYTHON=python3.11")'
	@echo "Installing the packages of requirements.txt into .venv, which takes a minute or two …"
	$(PYTHON) -m venv --clear --without-pip .venv
	$(PYTHON) -m pip --python .venv install --quiet --requirement requirements.txt
	$(PYTHON) -m pip --python .venv install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
