# make demo | test | check | setup | protocol | engine | image
PYTHON ?= python3
EXTRAS ?= dev
BIN := .venv/bin
STAMP := .venv/.installed-$(EXTRAS)

.PHONY: demo test check setup protocol engine image
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $(STAMP)

demo: setup
	$(BIN)/escrow demo

test: setup
	$(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m contracts.protocol.generate --check

# A container engine that answers, for sealed jobs; needs nothing of what `setup` installs.
engine:
	.ci/engine

# The worker's image of this code, and the bases it and capsules start from; quick if nothing has changed.
image: setup engine
	$(BIN)/escrow image show model-escrow/base:r > /dev/null 2>&1 || $(BIN)/escrow image base --family r
	$(BIN)/escrow image build

protocol: setup
	$(BIN)/python -m contracts.protocol.generate
