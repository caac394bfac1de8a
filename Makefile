# Everything in .venv, from nothing: `make study` runs the main job, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test test-slow extras audit check lock clean

study: .venv/ready
	$(BIN)/bnstudy run +experiments=quick

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

# What is not installed (Slurm, Ray, a browser, frameworks, Lightning) is skipped with its reason; `make extras` brings packages.
test-slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup -m slow --durations=15

extras: .venv/ready
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c requirements.lock -e '.[dev,audit,bench,ray,slurm]'

# Measures the frameworks themselves: installs them beside the rest, about 3 GB.
RESULTS ?= results
audit: .venv/ready
	$(BIN)/uv pip install -q --python $(BIN)/python -c requirements.lock -e '.[dev,audit]'
	$(BIN)/bnstudy audit --results-dir $(RESULTS)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: .venv/ready
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements.lock

# Versions come from the lock file; torch comes with its CUDA libraries, because PyPI's torchvision is built against them.
.venv/ready: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c requirements.lock -e '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv
