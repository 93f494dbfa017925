# make setup: what running methods needs. make bench: run the main job. make test: run the tests. make lint: format, lint and types.
# make fuzz: 3,000 broken inputs, 30 runs that are killed, 10 pairs of runs into one folder. make wheel: build the package, install it into empty environments, try it there.
# Each makes its own virtual environment in .venv on first use.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup bench test lint fuzz wheel clean

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit("vsrbench needs Python 3.11 or newer; try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.bench: pyproject.toml constraints.txt | $(RUN)
	$(PIP) -e '.[instavsr,spandrel,fetch]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(RUN)
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.bench

setup: $(VENV)/.bench

bench: $(VENV)/.bench
	-$(RUN) run_bench.py weights fetch --metrics lpips --timeout 5
	$(RUN) run_bench.py --methods bicubic,realesr-animevideov3,realviformer,instavsr --datasets synthetic,footage --keep-frames
	$(RUN) run_bench.py figure profile --clip photo-zoom
	$(RUN) run_bench.py figure crops --clip photo-objects
	$(RUN) run_bench.py figure scatter --dataset synthetic
	$(RUN) run_bench.py report

# Ray and engines of networks change the process that loads them: their tests have one of their own.
APART := tests/test_backends.py tests/test_cluster.py
test: $(VENV)/.dev
	$(RUN) -m pytest --cov --cov-report= $(APART:%=--ignore=%)
	$(RUN) -m pytest --cov --cov-append --cov-report=term:skip-covered -n 2 $(APART)

lint: $(VENV)/.dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

fuzz: $(VENV)/.dev
	FUZZ_ROUNDS=600 $(RUN) -m pytest tests/test_fuzz.py
	ROUNDS_OF_KILLS=30 ROUNDS_OF_PAIRS=10 $(RUN) -m pytest tests/test_isolation.py -k 'kills or two_runs'

wheel: $(VENV)/.dev
	scripts/try_wheel.sh $(VENV)

clean:
	rm -rf $(VENV) results/local build
