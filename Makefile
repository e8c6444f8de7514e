# Needs python3 (3.11 or newer) and make. Everything else goes into .venv, with the versions of constraints.txt.
#
#   make demo        check, compile, train and compare five rules
#   make test        ruff, mypy and the tests          make test-long   the tests that take minutes
#   make test-zoo    networks of transformers, and biotorch beside ours (from the package index, into .venv-zoo)
#   make bench       the numbers that we hold to       make lint, fmt   only look, or mend the format
#   make clean       what the tools left behind        make distclean   .venv and .venv-zoo too
#
# Variables: PYTHON=python3.12 to choose another Python, VENV=folder, WORKERS=4 for more test processes,
# PYTEST="-k linear -x" for more arguments.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST ?=

RUN := $(VENV)/bin/python
STAMP := $(VENV)/installed
ZOO := $(VENV)-zoo
STARTED := $(VENV)/install-was-interrupted

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
unexport PYTHONHOME
unexport PYTHONPATH

# The stamp says that an installation ended, and where. The environment may have been moved or damaged since.
NEEDED := ruledsl_torch torch jax flax optax lark pydantic typer sklearn matplotlib grain pytest xdist ruff mypy
LOOK := import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))
SOUND := $(shell [ "$$(cat "$(STAMP)" 2>/dev/null)" = "$$PWD" ] && "$(RUN)" -c "$(LOOK)" $(NEEDED) 2>/dev/null && echo yes)

.DELETE_ON_ERROR:
.PHONY: demo test test-long test-zoo bench lint fmt install clean distclean again

demo: $(STAMP)
	@"$(RUN)" examples/demo.py

test: lint
	OMP_NUM_THREADS=1 "$(RUN)" -m pytest -q -n $(WORKERS) -m "not long" $(PYTEST)

test-long: $(STAMP)
	OMP_NUM_THREADS=1 "$(RUN)" -m pytest -q -n $(WORKERS) -m long $(PYTEST)

# What a zoo needs would change what the other tests run with. So it has an environment of its own, which sees all that
# .venv has (PyTorch is not installed twice) and leaves it as it is.
test-zoo: $(ZOO)/installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$(ZOO)/bin/python" -m pytest -q -n $(WORKERS) tests/zoo $(PYTEST)

$(ZOO)/installed: $(STAMP) tests/zoo/requirements.txt
	"$(RUN)" -m venv --clear "$(ZOO)"
	"$(RUN)" -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
	    "$$("$(ZOO)/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	"$(ZOO)/bin/python" -m pip install --quiet -c constraints.txt -r tests/zoo/requirements.txt
	"$(ZOO)/bin/python" -m pip install --quiet --no-deps --no-build-isolation -r tests/zoo/alone.txt
	@touch "$@"

bench: $(STAMP)
	@"$(RUN)" -m benchmarks

lint: $(STAMP)
	"$(RUN)" -m ruff check .
	"$(RUN)" -m ruff format --check .
	"$(RUN)" -m mypy --strict ruledsl

fmt: $(STAMP)
	"$(RUN)" -m ruff check --fix .
	"$(RUN)" -m ruff format .

install: $(STAMP)

# An environment that works is brought up to date; one whose installation was cut short, that lost a package or its
# Python, or that came here from another folder, is made anew.
$(STAMP): pyproject.toml constraints.txt $(if $(SOUND),,again)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "ruledsl needs Python 3.11 or newer, and $(PYTHON) is not: try  make PYTHON=python3.12"; exit 1; }
	@if [ -e "$(STARTED)" ] || [ -e "$(STAMP)" -a -z "$(SOUND)" ] || ! "$(RUN)" -m pip --version >/dev/null 2>&1; then \
	    if [ -d "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ] && [ -n "$$(ls -A "$(VENV)")" ]; then \
	        echo "$(VENV) exists and is no Python environment: choose another folder with  make VENV=folder"; exit 1; \
	    fi; \
	    echo "Making $(VENV) and installing the pinned packages. This takes a few minutes, once."; \
	    "$(PYTHON)" -m venv --clear "$(VENV)"; \
	fi
	@touch "$(STARTED)"
	"$(RUN)" -m pip install --quiet -c constraints.txt setuptools
	"$(RUN)" -m pip install -c constraints.txt --no-build-isolation -e '.[dev]'
	@rm "$(STARTED)" && pwd > "$(STAMP)"

again:

clean:
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis benchmarks/results
	find ruledsl rules backends examples tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	if [ -e "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	if [ -e "$(ZOO)/pyvenv.cfg" ]; then rm -rf "$(ZOO)"; fi
