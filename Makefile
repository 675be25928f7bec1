# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else; each sets up .venv first, once. `make check` is what to
# run before a commit: it takes about a minute on two cores.

SNAKEMAKE := .venv/bin/snakemake

.PHONY: demo test check faults bad-input cluster setup
.DEFAULT_GOAL := demo

demo: .venv/ready
	@$(SNAKEMAKE) --quiet rules host progress

# A module's tests stay together, since they share what takes long to make; a process holds about 2 GB. Left to itself xdist would
# begin with the modules of many tests, and have one of a few long ones left at the end: tests/conftest.py has the order. Of OpenMP's
# threads each process has one: those of several would wait for one another on the same cores, and keep these busy with it.
test: .venv/ready
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: .venv/ready
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/snakefmt --check Snakefile workflow
	@.venv/bin/pyright
	@.venv/bin/python -m pytest -q tests/config tests/test_files.py tests/test_experiment.py tests/test_cli.py tests/test_imports.py \
		tests/test_tables.py

# Two hundred times each: something happens to a file that a stage hands on, and to a command that runs; the commands that follow
# heal it or say what to do. The second needs the right to mount.
faults: .venv/ready
	@.venv/bin/python -m tests.faults.rig 200 --jobs 2
	@.venv/bin/python -m tests.faults.interruptions 200 --jobs 3 --table docs/faults.md

# Ten thousand files and command lines that nobody would write: each is answered in one line.
bad-input: .venv/ready
	@.venv/bin/python -m tests.faults.bad_input 10000 --jobs 2 --table docs/bad-input.md

# A Slurm of two nodes on this machine, from Debian's packages slurm-wlm and munge; as root.
cluster: .venv/ready
	@.venv/bin/python -m tests.cluster.rig --table docs/cluster.md

setup: .venv/ready

.venv/ready: workflow/scripts/setup.sh constraints.txt pyproject.toml
	@sh workflow/scripts/setup.sh
