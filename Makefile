# Two commands do everything: `make demo` and `make test`. Both make .venv on their first run.
PYTHON ?= python3
BIN := .venv/bin
# killed.py, chaos.py, gpu.py and image_tokenizers.py answer other questions than of speed, and are run by hand.
BENCHMARKS := roofline drawing lm_training lm_step vq_training data_loading nearest_codes encoding_rate \
	encoding_memory plan_memory opening startup busy_machine growth
# These ask a finished model: where `make demo` has made one.
OF_THE_DEMO := speculative quantized variety

.PHONY: chaos demo demo-128 base test test-fast test-cuda lint docs links smoke bench bench-quick clean

demo: .venv/installed-demo
	$(BIN)/python scripts/demo.py --output outputs/demo

# OpenMoji at 128x128, 256 codes per picture, as `vqlm train` plans it for these minutes.
demo-128: .venv/installed-demo
	$(BIN)/vqlm train openmoji --minutes 45 --output outputs/demo-128

# The model of four styles of emoji in models/emoji, in an evening. Stopped and started again, it continues.
BASE := outputs/base
base: .venv/installed-demo
	$(BIN)/python examples/emoji_styles.py --output $(BASE)/styles --image-size 64 --packages $(BASE)/npm
	$(BIN)/vqlm train-vq --config configs/base/vq.yaml --data $(BASE)/styles --output $(BASE)/image_tokenizer --resume
	$(BIN)/vqlm prepare --data $(BASE)/styles --image-tokenizer $(BASE)/image_tokenizer --output $(BASE)/data --resume
	$(BIN)/vqlm train-lm --config configs/base/lm.yaml --data $(BASE)/data --output $(BASE)/model --resume
	$(BIN)/python -c "import torch, vqlm; model = vqlm.TextToImagePipeline.from_pretrained('$(BASE)/model', 'cpu'); \
		model.save_pretrained('models/emoji', dtype=torch.bfloat16)"
	$(BIN)/vqlm prepare --data $(BASE)/styles --for-model models/emoji --output $(BASE)/data-bf16 --resume
	$(BIN)/python benchmarks/emoji_styles.py --model models/emoji --data $(BASE)/data-bf16 --output $(BASE)

# One worker per core.
test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# Without the tests that take long.
test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow and not cuda'

# What a GPU does; `make test` runs on the CPU.
test-cuda: .venv/installed-dev
	$(BIN)/python -m pytest -m cuda

# Both trainings and preparing on one and on two processes, killed a hundred times at random moments.
chaos: .venv/installed-dev
	$(BIN)/python benchmarks/chaos.py

# The demo in seconds, then one more picture: shows that the scripts fit together, not that they learn.
smoke: .venv/installed-dev
	rm -rf outputs/smoke
	$(BIN)/python scripts/demo.py --configs configs/smoke --output outputs/smoke
	$(BIN)/python scripts/demo.py --configs configs/smoke --output outputs/smoke | grep "All is done"
	$(BIN)/python scripts/generate.py --model outputs/smoke/model --prompt "red heart" --output outputs/smoke/picture.png

# Everything against its peers: docs/benchmarks.md and its plots. Nothing else should run on the machine meanwhile.
bench: .venv/installed-bench
	rm -rf outputs/bench
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py; done
	set -e; if [ -e outputs/demo/report.json ]; then $(BIN)/python benchmarks/startup.py --model outputs/demo/model; \
		$(BIN)/python benchmarks/serve.py --model outputs/demo/model; \
		for name in $(OF_THE_DEMO); do \
		$(BIN)/python benchmarks/$$name.py --model outputs/demo/model --data outputs/demo/data; done; \
		else echo "$(OF_THE_DEMO) are left out: they ask the model of make demo"; fi
	$(BIN)/python benchmarks/report.py

bench-quick: .venv/installed-bench
	rm -rf outputs/bench-quick
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --quick --output outputs/bench-quick; done
	$(BIN)/python benchmarks/report.py --results outputs/bench-quick --page outputs/bench-quick/benchmarks.md \
		--images outputs/bench-quick

# The site of docs/, which opens from the disk.
docs: .venv/installed-docs links
	$(BIN)/python -m mkdocs build --quiet
	@echo "Open site/index.html"

# Tools that read the source do not see through an editable installation: they get the package as a folder of links.
links:
	@mkdir -p build/links/vqlm && ln -sfn $(addprefix $(CURDIR)/,vq data_prep lm training planning serve scripts vqlm/__init__.py vqlm/__init__.pyi) build/links/vqlm/

lint: .venv/installed-dev links
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright --pythonpath $(BIN)/python

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed-%: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	$(if $(filter bench dev,$*),$(BIN)/python -m pip install --quiet --no-deps dalle-pytorch==1.6.6)
	touch $@

clean:
	rm -rf .venv outputs site
