# BitGen: `make help`
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# A night of `make download-coarse download-fine shards` does what it can, whatever fails, and then ends with an error.
MAKEFLAGS += --keep-going
# One target after another, also with -j: two downloads are not let into one folder, and shards need both.
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
RUNS ?= runs
SOURCES ?=
LIMIT ?=
OUTPUT ?=
BENCH ?=
export KILLS ?= 50

COARSE := coco sbu visual_genome cc3m flickr30k
FINE := refcoco mixed
manifests = $(foreach name,$(1),manifests/$(name).toml)
flags = --data $(DATA) $(if $(SOURCES),--sources $(SOURCES)) $(if $(LIMIT),--limit $(LIMIT))

.PHONY: help install demo test soak bench check download-coarse download-fine shards clean-demo

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18
	@echo 'DATA=folder RUNS=folder SOURCES="coco flickr30k" LIMIT=1000 work on every target that reads them'

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("expected Python 3.11 or newer, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

install: $(VENV)/.installed ## a virtual environment with everything in it

demo: install ## embedded photographs -> shards -> coarse -> fine -> evaluation -> a page, in minutes on two cores
	$(BIN)/bitgen-download manifests/sample.toml --data $(DATA)/demo
	$(BIN)/bitgen-shards manifests/sample.toml --data $(DATA)/demo
	$(call train,demo-coarse,--phase coarse)
	$(call train,demo,--phase fine --init $(RUNS)/demo-coarse)
	$(BIN)/bitgen-eval $(RUNS)/demo --data $(DATA)/demo
	$(BIN)/bitgen-show $(RUNS)/demo --data $(DATA)/demo

# A run that was stopped goes on; one that is done stays as it is (`make clean-demo` to start over).
define train
if [ -d $(RUNS)/$(1)/checkpoints ]; then $(BIN)/bitgen-train --resume $(RUNS)/$(1); \
else $(BIN)/bitgen-train $(2) --preset demo --data.root $(DATA)/demo --run.name $(1) --run.runs $(RUNS); fi
endef

clean-demo: ## forget what `make demo` made
	rm -rf $(DATA)/demo $(RUNS)/demo-coarse $(RUNS)/demo

test: install ## the tests, a process a core, four at most
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

soak: install ## the tests that take long: 50 kills a stage (KILLS=5 for fewer), full sizes
	$(BIN)/python -m pytest -m soak

bench: install ## ours against others on the same files, in one go: all, or one as BENCH=shards
	$(BIN)/python -m tests.benchmarks.run $(BENCH) --work $(DATA)/bench

check: install ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

download-coarse: install ## COCO, SBU, Visual Genome, CC3M, Flickr30k
	$(BIN)/bitgen-download $(call manifests,$(COARSE)) $(flags)

download-fine: install ## RefCOCO/+/g and mixed annotations, GQA images
	$(BIN)/bitgen-download $(call manifests,$(FINE)) $(flags)

shards: install ## everything downloaded -> shards, evaluation first (OUTPUT=URL: and away to there)
	$(BIN)/bitgen-shards $(flags) $(if $(OUTPUT),--output $(OUTPUT))
