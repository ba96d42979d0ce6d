# make demo: from a clean clone to a trained model and its report. make test: the whole test suite.
# Both need Python 3.11 or newer, pip and make, and nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test browser clean

demo: $(VENV)/.installed
	$(BIN)/visus train digits

# Tests start hundreds of processes: compiled files are kept between them, whatever the environment says.
test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What the tests of the web page drive, where the machine has Debian's packages and we may install them.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then echo "chromium is there"; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium chromium-driver; \
	else echo "Install chromium and chromedriver to run tests/browser; without them they are skipped" >&2; exit 1; fi

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: its version decides which build of the other packages fits.
$(VENV)/.installed: $(BIN)/python constraints.txt pyproject.toml
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e '.[test,parity,tensorboard,plots,fast,parquet,export,openvino,serve]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
