# Two commands do everything: `make demo` and `make test`. Both make .venv on their first run.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint smoke clean

demo: .venv/installed-demo
	$(BIN)/python scripts/demo.py --output outputs/demo

test: .venv/installed-dev
	$(BIN)/python -m pytest

# Every stage through its script in a few seconds each: shows that the scripts fit together, not that they learn.
smoke: .venv/installed-dev
	rm -rf outputs/smoke
	$(BIN)/python scripts/train_vq.py --config configs/smoke/vq.yaml --data openmoji --output outputs/smoke/vq
	$(BIN)/python scripts/prepare_data.py --data openmoji --image-tokenizer outputs/smoke/vq --output outputs/smoke/data
	$(BIN)/python scripts/train_lm.py --config configs/smoke/lm.yaml --data outputs/smoke/data --output outputs/smoke/model
	$(BIN)/python scripts/generate.py --model outputs/smoke/model --prompt "red heart" --output outputs/smoke/picture.png
	$(BIN)/python scripts/evaluate.py --model outputs/smoke/model --data outputs/smoke/data --output outputs/smoke/eval

lint: .venv/installed-dev
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-%: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv outputs
