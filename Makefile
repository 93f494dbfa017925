# make bench: run the main job. make test: pass the tests. make lint: format, lint and types.
# Each makes its own virtual environment in .venv on first use.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: bench test lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("vsrbench needs Python 3.11 or newer; try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

bench: $(VENV)/.installed
	$(RUN) run_bench.py --methods bicubic,realviformer,instavsr --keep-frames
	$(RUN) run_bench.py figure profile --clip photo-zoom
	$(RUN) run_bench.py figure crops --clip photo-objects
	$(RUN) run_bench.py figure scatter
	$(RUN) run_bench.py report

test: $(VENV)/.installed
	$(RUN) -m pytest

lint: $(VENV)/.installed
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) results/local
