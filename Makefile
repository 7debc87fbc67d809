# Four commands: `make try`, `make book`, `make test` and, before a commit, `make check`. Everything
# they need is made in .venv, from requirements.txt.

PYTHON  ?= python3
PROFILE ?= book
SUBJECT ?= portraits,portraits-t2i,digits,emoji
CORES   ?= 2
METHOD  ?=
# PyTorch's index of the build you want (CPU, or a CUDA version); empty takes torch as PyPI has it.
TORCH_INDEX ?=

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
BIN   := .venv/bin
ENV   := .venv/.ready
PIP   := $(BIN)/pip --disable-pip-version-check --no-input install \
         $(if $(TORCH_INDEX),--extra-index-url "$$TORCH_INDEX")

# The same seed of Python's hashes everywhere, so that sets have one order.
export PYTHONHASHSEED := 0
# glibc keeps what tensors give up for the next ones; else the system clears those pages once more.
export MALLOC_MMAP_THRESHOLD_ := 134217728
export MALLOC_TRIM_THRESHOLD_ := 536870912

# Recipes read these as "$$NAME": the shell then takes spaces, quotes and & as they are.
export PYTHON PROFILE SUBJECT CORES TORCH_INDEX METHOD

# No lock: every output is moved into place whole, so a killed run leaves nothing to unlock or repair.
SNAKEMAKE := $(BIN)/python -m snakemake -s workflow/Snakefile --cores "$$CORES" --quiet all --nolock \
  --rerun-incomplete --scheduler greedy --max-checksum-file-size 1GB
# What `make try` makes: the bias, the k-SAE, and its features turned, on the digits.
TRIED := _build/parts/try/digits/html/index.html

# Without tests/conftest.py, which imports torch.
QUICK_TESTS := $(BIN)/python -m pytest -q --no-header --noconftest

.PHONY: help cores try book browse test test-fast check lint format types dependencies notebooks pins
.PHONY: models digits methods sums bench bench-data drill submit reference clean
.DEFAULT_GOAL := help

help:
	@echo "make try        in minutes: three notebooks on the digits, with small sizes, as a site"
	@echo "make book       execute the notebooks where needed and build the book into _build/html"
	@echo "make test       unit tests, then the committed notebooks (nbval) and the examples of the documentation"
	@echo "make test-fast  unit tests and the examples of docstrings only"
	@echo "make check      what has to hold before a commit: lint, types, state of notebooks, versions"
	@echo "make lint       format and style, as ruff sees them, of code and notebooks"
	@echo "make format     format code and notebooks, and mend what ruff can"
	@echo "make types      types, as mypy sees them"
	@echo "make browse     open every page of the built book in Chromium, where it is installed, and say what is wrong"
	@echo "make reference  promote the last book's results to results/, README.md and the committed notebooks"
	@echo "make models     train the evaluators and the subjects from nothing (hours; resumes)"
	@echo "make digits     train what part III opens from labelled images (ten minutes; an example)"
	@echo "make methods    make what does not ship yet: k-SAEs, learned methods, searches (hours)"
	@echo "make sums       list the files that ship with their checksums, after you replaced some"
	@echo "make submit     measure a method of your own on the benchmark: METHOD=its folder"
	@echo "make bench-data freeze the activations that the benchmark's methods learn from"
	@echo "make bench      measure speed and memory beside other libraries (installs them)"
	@echo "make drill      kill, damage, fill and mislead the study on purpose, and see what it does"
	@echo "make clean      remove _build; artifacts/ and .venv stay"
	@echo
	@echo "Variables: PROFILE=$$PROFILE SUBJECT=$$SUBJECT CORES=$$CORES PYTHON=$$PYTHON" \
	  "TORCH_INDEX=$$TORCH_INDEX"

$(ENV): requirements.txt pyproject.toml
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "PYTHON must be Python 3.11 or newer; $$PYTHON is $$("$$PYTHON" --version 2>&1)"; \
	    exit 1; }
	@echo "Making the environment in .venv (about 2 GB and 3 minutes with torch's CPU build)"
	@"$$PYTHON" -m venv .venv
	@# nothing is compiled ahead: Python compiles what is imported, at its first import
	@$(PIP) --no-compile -r requirements.txt
	@$(PIP) --quiet --no-deps -e .
	@touch $@

# Snakemake waits for ever for a job that fits into no core.
cores:
	@[[ "$$CORES" =~ ^[1-9][0-9]*$$ ]] || \
	  { echo "CORES must be a whole number above 0; got '$$CORES'"; exit 1; }

# `make book` finds again what is computed here.
try: cores $(ENV)
	@$(SNAKEMAKE) --config profile=try subject=digits \
	  "notebooks=[00_bias, 02_ksae, 05_interventions]" -- $(TRIED)
	@echo "The site: $$PWD/$(TRIED)"
	@echo "make book adds the other seven notebooks, the portraits, and the sizes of the book;" \
	  "it takes nearly two hours on two cores"

book: cores $(ENV)
	@$(SNAKEMAKE) --config "profile=$$PROFILE"
	@$(BIN)/python -m workflow.verdicts --profile "$$PROFILE" --subject "$$SUBJECT"
	@echo "The book: $$PWD/_build/html/index.html"

# Unit tests, and the examples of docstrings.
test-fast: cores $(ENV)
	@echo "Unit tests, one process per core"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n "$$CORES" --dist loadfile

# Warnings of the kernels' client are no errors: nobody here can mend them. The examples begin first,
# since they run one after another.
test: test-fast
	@echo "The committed notebooks (minutes after make book; on a clean clone they compute everything)," \
	  "and the examples of the documentation, where make book has made what they find again"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n "$$CORES" --dist loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout 3600 -W default tests/examples.py notebooks

check: lint types dependencies notebooks pins

lint: $(ENV)
	@echo "Format and style"
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check

format: $(ENV)
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

types: $(ENV)
	@echo "Types"
	@$(BIN)/mypy

dependencies: $(ENV)
	@echo "Dependencies"
	@$(BIN)/deptry . 2>&1 | grep -v "^Assuming"

# Outputs of tagged cells alone are kept, which nbstripout's own check cannot tell.
notebooks: $(ENV)
	@echo "State of notebooks"
	@$(QUICK_TESTS) tests/test_notebooks.py

pins: $(ENV)
	@echo "Versions, and checksums of what ships"
	@$(QUICK_TESTS) tests/test_pins.py tests/test_integrity.py

browse: $(ENV)
	@$(BIN)/python -m workflow.browser

reference: override PROFILE := book
reference: book
	@$(BIN)/python -m workflow.reference --subject "$$SUBJECT"
	@$(BIN)/python -m workflow.drawing
	@$(BIN)/python -m workflow.scratch
	@$(BIN)/python -m workflow.sums

# Whoever makes what ships may replace it.
models digits: export DIFFLENS_SHIP := 1

models: $(ENV)
	@echo "Training the evaluators and the subjects; an interrupted training resumes"
	@$(BIN)/python -m models.evaluators.train labeller
	@$(BIN)/python -m models.evaluators.train scorer
	@$(BIN)/python -m models.clip.train
	@$(BIN)/python -m models.clip.train --seed 37 --out models/clip/second
	@$(BIN)/python -m models.portraits.train
	@$(BIN)/python -m models.evaluators.train labeller --world occupations
	@$(BIN)/python -m models.evaluators.train scorer --world occupations --images 160000
	@$(BIN)/python -m models.clip.train --world occupations --images 160000
	@$(BIN)/python -m models.clip.train --world occupations --images 160000 --seed 37 \
	  --out models/portraits-t2i/clip/second
	@$(BIN)/python -m models.portraits-t2i.train vae
	@$(BIN)/python -m models.portraits-t2i.train unet
	@$(BIN)/python -m models.evaluators.train labeller --world emoji --images 200000
	@$(BIN)/python -m models.evaluators.train scorer --world emoji --images 200000
	@$(BIN)/python -m models.clip.train --world emoji --images 100000
	@$(BIN)/python -m models.clip.train --world emoji --images 100000 --seed 37 \
	  --out models/emoji/clip/second
	@$(BIN)/python -m models.emoji.train vae
	@$(BIN)/python -m models.emoji.train transformer
	@$(BIN)/python -m workflow.sums

digits: $(ENV)
	@$(BIN)/python -m models.digits.export
	@$(BIN)/python -m models.evaluators.train labeller --world models/digits --images 40000
	@$(BIN)/python -m models.evaluators.train scorer --world models/digits --images 40000
	@$(BIN)/python -m models.clip.train --world models/digits --images 40000
	@$(BIN)/python -m models.clip.train --world models/digits --images 40000 --seed 37 \
	  --out models/digits/clip/second
	@$(BIN)/python -m models.own.train models/digits --images 160000
	@$(BIN)/python -m workflow.sums

# What takes longer than the book allows and so ships with the subject: the notebooks that need it make it anew.
methods: $(ENV)
	@set -f; IFS=,; for subject in $$SUBJECT; do for notebook in 05_interventions 06_debiasing 07_ablations; do \
	  DIFFLENS_SHIP=1 $(BIN)/python workflow/execute.py $$notebook --subject "$$subject"; done; done
	@$(BIN)/python -m workflow.sums

sums: $(ENV)
	@$(BIN)/python -m workflow.sums

# All subjects of the benchmark, unless SUBJECT was said.
CHOSEN = $(if $(filter file,$(origin SUBJECT)),,--subject "$$SUBJECT")

bench-data: $(ENV)
	@$(BIN)/python -m workflow.submit --data $(CHOSEN)

submit: $(ENV)
	@$(BIN)/python -m workflow.submit $(CHOSEN) -- "$$METHOD"

# In clones of what is committed.
drill: cores $(ENV)
	@echo "Breaking things on purpose (it takes long)"
	@$(PIP) --quiet -r requirements.txt -r requirements-drill.txt
	@$(BIN)/python -m drills.run --cores "$$CORES" || code=$$?; \
	  $(BIN)/python -m workflow.sums; exit $${code:-0}

bench: $(ENV)
	@echo "Installing the peers and measuring; keep the machine quiet"
	@$(PIP) --quiet -r requirements.txt -r requirements-bench.txt
	@$(BIN)/python -m bench.run
	@$(BIN)/python -m workflow.sums

clean:
	@rm -rf _build .snakemake
	@echo "Removed _build. Computed artifacts stay in artifacts/, the environment in .venv."
