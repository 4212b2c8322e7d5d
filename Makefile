# Every command of this project; CI calls the same ones. `make` alone lists them.

PYTHON := .venv/bin/python
UV := .cache/uv/bin/uv
# What comes out tomorrow is to break nothing today.
UV_PIN := uv==0.13.9
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE)

ENGINES := triton vllm ray

# Where Python may not keep bytecode, every program that a test starts compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help demo test test-fast verify conformance determinism check trace bench fuzz fuzz-api engines generate lock lock-engines lock-bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 21

demo: .venv/trial ## a real engine, a small model, a poem: no GPU needed, nothing left behind
	$(PYTHON) -m llama_orch.demo

test: .venv/dev ## every test; what this machine cannot run is named at the end
	$(PYTHON) -m pytest

test-fast: .venv/dev ## unit and contract tests, in less than a minute
	$(PYTHON) -m pytest tests/unit tests/contract -m 'not slow'

conformance: .venv/dev ## every adapter against every known way of an engine to mislead it, as one matrix
	$(PYTHON) -m tools.conformance

verify: .venv/dev ## every documented example and code block, played against the running product
	$(PYTHON) -m pytest tests/contract/test_examples.py tests/contract/test_documents.py tests/contract/test_backup.py \
		tests/contract/test_client_example.py tests/contract/test_monitoring.py

FUZZ_CASES := 300

fuzz-api: .venv/dev ## hostile and valid requests made from the API's own documents; FUZZ_CASES=300 for each operation
	LLAMA_ORCH_FUZZ_CASES=$(FUZZ_CASES) $(PYTHON) -m pytest tests/contract/test_api_fuzz.py --timeout 3600

check: .venv/dev ## style, types, import direction, purity, generated files, requirements
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	.venv/bin/lint-imports --no-logo
	$(PYTHON) -m tools.check_pure
	$(PYTHON) -m tools.generate_contracts --check
	$(PYTHON) -m tools.trace --check

trace: .venv/dev ## requirements without a passing test in the last run of `make test`
	$(PYTHON) -m tools.trace

bench: .venv/dev $(UV) ## what the relay costs beside nginx, LiteLLM and the least Python allows; results in bench/results
	@sh tools/bench_environment.sh
	$(PYTHON) -m bench

determinism: .venv/dev ## 64 seeds on two replicas of every engine that is there, byte for byte
	$(PYTHON) -m pytest tests/determinism

engines: $(UV) ## real Triton, vLLM and Ray Serve for the tests: 2.5 GB below .cache/engines, with Python 3.11
	@for engine in $(ENGINES); do sh tools/engine_environment.sh $$engine || missing=1; done; test -z "$$missing"

SECONDS_EACH := 30

fuzz: .venv/dev ## hostile models, guided by coverage, where atheris is installed; SECONDS_EACH=30
	$(PYTHON) -m tools.fuzz --seconds $(SECONDS_EACH)

generate: .venv/dev ## OpenAPI documents and schemas from the types in contracts
	$(PYTHON) -m tools.generate_contracts

lock: $(UV) ## pin the requirements anew; UPGRADE=--upgrade takes newer ones
	$(LOCK) pyproject.toml --all-extras --group build --output-file requirements/dev.txt
	$(LOCK) --constraint requirements/dev.txt pyproject.toml --output-file requirements/runtime.txt
	$(LOCK) --constraint requirements/dev.txt pyproject.toml --extra trial --output-file requirements/trial.txt
	$(LOCK) --constraint requirements/dev.txt --group build --output-file requirements/build.txt

lock-engines: $(UV) ## pin the real engines of the tests anew; UPGRADE=--upgrade takes newer ones
	@sh tools/lock_engines.sh $(UPGRADE)

lock-bench: $(UV) ## pin anew what the benchmark measures beside ours; UPGRADE=--upgrade takes newer ones
	@sh tools/lock_bench.sh $(UPGRADE)

clean: ## remove the environment, caches and results
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

# The demo's environment grows into the developer's. Both are stamps: a second run does nothing.
.venv/trial .venv/dev: .venv/%: requirements/%.txt requirements/build.txt pyproject.toml tools/environment.sh
	@sh tools/environment.sh $*

$(UV):
	python3 -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check --retries 10 --timeout 60 $(UV_PIN)
