# hsenet: `make` lists what there is to make. Everything happens in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

PRESET ?= tiny
SEED ?= 42
OUTPUT ?= outputs/quickstart
DATA ?= data
MODEL ?= $(OUTPUT)/model
CASES ?= $(DATA)/cache-$(PRESET)-$(SEED)
ONLY ?=
NB ?=

# Threads that wait without spinning: on a busy machine spinning makes small operations ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install quickstart controls test test-slow test-web bench bench-gpu fuzz demo docs lab clean-notebooks hooks clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  settings:  PRESET=tiny|cpu|gpu|…  SEED=42  OUTPUT=outputs/quickstart  DATA=data  PYTHON=python3.11"

$(READY): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hsenet needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo not there). Try: make PYTHON=python3.11 …"; exit 1; }
	@echo "Installing into $(VENV) (minutes, once) …"
	@$(PYTHON) -m venv $(VENV) || { echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(READY)  ## .venv with everything in it

quickstart: $(READY)  ## the whole road once, on phantoms: outputs/quickstart (8 to 15 minutes on 2 cores)
	@$(BIN)/python tools/quickstart.py --preset $(PRESET) --seed $(SEED) --output $(OUTPUT) --data $(DATA)

controls: $(READY)  ## after quickstart: the same with a random encoder, and with no image
	@$(BIN)/python tools/run.py nbs/runs/controls.ipynb $(OUTPUT)/controls.ipynb -p preset $(PRESET) -p seed $(SEED) -p output $(OUTPUT) -p data $(DATA)

test: $(READY)  ## all that guards the project; ONLY=models/02_vit for a part of it
	@$(BIN)/python tools/test.py $(ONLY)

test-slow: $(READY)  ## the notebooks with cells marked slow, those cells included: hours; ONLY=cache/05_kills for one of them
	@$(BIN)/python tools/test.py --slow $(ONLY)

test-web: $(READY)  ## the demo in a headless Chromium, which is installed where it is missing; ONLY=upload for a part of it
	@$(BIN)/python tools/test_web.py $(ONLY)

bench: $(READY)  ## times and memory of preprocessing beside the usual tools, of a search of 50,000 among 50,000, of the loader, of ViT blocks and of the training loop: outputs/bench; minutes, on a quiet machine
	@$(BIN)/pip install -q --no-deps monai
	@$(BIN)/python tools/bench.py
	@$(BIN)/python tools/bench.py --search
	@$(BIN)/python tools/bench.py --loader
	@OMP_NUM_THREADS=1 $(BIN)/python tools/bench.py --vit --repeats 3
	@OMP_NUM_THREADS=1 $(BIN)/python tools/bench.py --loop

bench-gpu: $(READY)  ## training steps, generation, loader, 2D features and the preset gpu on this machine, at most 8 minutes: outputs/bench/gpu.json
	@$(BIN)/python tools/bench_gpu.py

fuzz: $(READY)  ## thousands of damaged files: each must end in a result or a clear error
	@$(BIN)/python tools/fuzz.py

demo: $(READY)  ## after quickstart: a web page for its model, http://127.0.0.1:7860; MODEL=folder CASES=cache for others
	@if [ -f $(MODEL)/config.yaml ] && [ -d $(CASES) ] && [ ! -f $(CASES)/index/index.json ]; then \
	  echo "Making an index of $(CASES), once …"; $(BIN)/hsenet -q index $(CASES) --model $(MODEL) >/dev/null; fi; \
	model=; cases=; \
	[ ! -f $(MODEL)/config.yaml ] || model="--model $(MODEL)"; \
	[ ! -f $(CASES)/index/index.json ] || cases="--index $(CASES)"; \
	exec $(BIN)/hsenet demo $$model $$cases

docs: $(READY)  ## the site, offline: outputs/docs/index.html; writes README.md from nbs/index.ipynb
	@$(BIN)/python tools/docs.py

lab: $(READY)  ## JupyterLab; opens a page that lists the tutorials; NB=models/02_vit for another notebook
	@PYTHONSTARTUP=$(CURDIR)/tools/lab_startup.py $(BIN)/jupyter lab --notebook-dir=. $(if $(filter 0,$(shell id -u)),--allow-root) $(if $(NB),nbs/$(NB).ipynb,nbs/tutorials/00_start.ipynb)

clean-notebooks: $(READY)  ## strip notebooks of what should not be committed, export the modules anew
	@$(BIN)/nbdev_clean && $(BIN)/python tools/docs_checks.py --tidy && $(BIN)/nbdev_export

hooks: $(READY)  ## git and Jupyter hooks that clean notebooks and merge them cell by cell
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/nbdev_install_hooks

clean:  ## remove the virtual environment and build leftovers; data/ and outputs/ stay
	rm -rf $(VENV) _proc _docs *.egg-info
	find hsenet tools -name __pycache__ -type d -prune -exec rm -rf {} +
