# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check slow format clean

demo: $(READY)          ## the main job on real data: teacher, supernet, search, front of verified subnets
	$(BIN)/ofa experiment=demo run=runs/demo

test: check             ## style, types and the default test suite
	$(BIN)/pytest -n auto --dist loadfile -q

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases experiments

slow: $(READY)          ## the tests that take many minutes
	$(BIN)/pytest -n auto --dist loadfile -q -m slow

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@
