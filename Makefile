# Two commands do everything: `make demo` and `make test`. Both make .venv on their first run.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint smoke clean

demo: .venv/installed-demo
	$(BIN)/python scripts/demo.py --output outputs/demo

test: .venv/installed-dev
	$(BIN)/python -m pytest

# The demo in seconds, then one more picture: shows that the scripts fit together, not that they learn.
smoke: .venv/installed-dev
	rm -rf outputs/smoke
	$(BIN)/python scripts/demo.py --configs configs/smoke --output outputs/smoke
	$(BIN)/python scripts/demo.py --configs configs/smoke --output outputs/smoke | grep "All is done"
	$(BIN)/python scripts/generate.py --model outputs/smoke/model --prompt "red heart" --output outputs/smoke/picture.png

lint: .venv/installed-dev
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright --pythonpath $(BIN)/python

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed-%: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv outputs
