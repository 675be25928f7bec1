# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else; each sets up .venv first, once.

SNAKEMAKE := .venv/bin/snakemake

.PHONY: demo test setup
.DEFAULT_GOAL := demo

demo: .venv/ready
	@$(SNAKEMAKE) --cores all --quiet rules host progress

test: .venv/ready
	@.venv/bin/python -m pytest

setup: .venv/ready

.venv/ready: workflow/scripts/setup.sh constraints.txt pyproject.toml
	@sh workflow/scripts/setup.sh
