# Two commands set up everything: `make demo` runs the course's main job, `make test` checks it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BENCHMARKS := $(filter-out __init__ record,$(basename $(notdir $(wildcard benchmarks/*.py))))
# nbgrader starts alembic by name, so the environment's commands must be on the path.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Every model the course uses is installed or trained here; nothing is to be looked up on the network.
export HF_HUB_OFFLINE ?= 1
# Idle threads sleep instead of spinning, which on a shared machine is several times faster.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup demo lab test test-fast lint build audit bench browser clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is another version; run: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "A virtual environment could not be made; on Debian and Ubuntu install python3-venv first."; exit 1; }
	@echo "Installing PyTorch ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@echo "Installing the course and its libraries (one to three minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m course.demo

lab: $(STAMP)
	@$(BIN)/labkit lab

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check labkit autograder course tests benchmarks
	$(BIN)/mypy

# A browser is the one thing pip cannot install.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && \
	    echo "Installing Chromium and Chinese fonts for the browser test ..." && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-noto-cjk >/dev/null; } || \
	  echo "No Chromium here: the browser test will be skipped. Install Chromium or Chrome to run it."

test: $(STAMP) browser lint
	$(BIN)/course build --check
	$(BIN)/pytest -n 2 --dist loadfile --durations=15

test-fast: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not browser"

build: $(STAMP)
	$(BIN)/course build

audit: $(STAMP)
	$(BIN)/autograder audit 05_search

bench: $(STAMP)
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --size small || exit 1; done

clean:
	rm -rf demo-output .pytest_cache .mypy_cache .ruff_cache
