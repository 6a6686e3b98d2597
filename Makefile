# Each target makes what it needs; `make demo` and `make test` run alone on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
# constraints.txt pins what was tested, constraints-oldest.txt the least that pyproject.toml admits, /dev/null nothing
CONSTRAINTS ?= constraints.txt
TORCH ?= torch
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-watch lint docs package bench validate networks clean

demo: $(VENV)/.demo
	$(BIN)/lanczos-saddle demo

# processes of one thread each: threads that share small products mostly wait for one another
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# with the libraries that are too large, and too slow to import, for every installation: 250 MB
test-watch: $(VENV)-watch/.installed
	OMP_NUM_THREADS=1 $(VENV)-watch/bin/python -m pytest tests/monitor tests/validate

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the pages of docs/ with the reference, in docs/_build/html; a warning is an error, nothing is fetched
docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -b html -W -n --keep-going -q docs docs/_build/html

# a wheel and a source archive in dist/; the wheel, installed where nothing else is, runs the demo
package: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	rm -rf dist/venv
	$(PYTHON) -m venv dist/venv
	dist/venv/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) "$$(ls dist/*.whl)[paper]"
	cd dist && venv/bin/lanczos-saddle demo

bench: $(VENV)/.peers
	$(BIN)/python -m pytest bench --benchmark-only

validate: $(VENV)/.installed
	$(BIN)/python validate/mnist_reference.py
	$(BIN)/python validate/mnist_reference.py --dtype float32
	$(BIN)/python validate/mnist_exact.py
	$(BIN)/python validate/mnist_negative.py
	$(BIN)/python validate/allocation.py
	$(BIN)/python validate/digits_coverage.py
	$(BIN)/python validate/large_spectrum.py
	$(BIN)/python validate/elimination.py digits --max-products 5000 --exact
	$(BIN)/python validate/elimination.py mnist --relative 1e-5 1e-6 --max-products 4000
	$(BIN)/python validate/congruence.py
	$(BIN)/python validate/congruence.py --problem mnist --preconditioners subset --relative 1e-5 --steps 50
	$(BIN)/python validate/congruence.py --problem mnist --preconditioners subset --relative 1e-6 --steps 50
	$(BIN)/python validate/soak.py
	$(BIN)/lanczos-saddle landscapes --limit 3000 --record validate/results/landscapes.jsonl
	$(BIN)/lanczos-saddle reproduce all --store validate/results/paper
	$(BIN)/python validate/plan_peaks.py
	$(BIN)/python validate/pages.py

# the networks of docs/networks.md; CIFAR-10 images come from LANCZOS_SADDLE_DATA
networks: $(VENV)-watch/.installed
	for one in pinn modular lstm lora gpt imagenet vit resnet; do \
		$(VENV)-watch/bin/python validate/networks.py $$one --parts || exit 1; done
	$(VENV)-watch/bin/python validate/pages.py

# torch 2.13.0 from constraints.txt is the CPU build where one is at hand
INSTALL = $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS)

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lanczos_saddle needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "$(TORCH)"
	$(INSTALL) --editable ".[paper]"
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	$(INSTALL) --editable ".[dev]"
	touch $@

# without dependencies: one of the libraries asks for torchvision, which nothing here uses and which replaces torch
$(VENV)/.peers: $(VENV)/.installed bench/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement bench/requirements.txt
	touch $@

$(VENV)-watch/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)-watch
	$(VENV)-watch/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) "$(TORCH)"
	$(VENV)-watch/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev,lightning,transformers]" tensorboard mlflow-skinny wandb
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-watch build dist docs/_build docs/api docs/outside demo-output .pytest_cache .mypy_cache .ruff_cache .benchmarks
