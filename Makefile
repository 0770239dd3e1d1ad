# What a visitor, a contributor and CI run; `make help` lists it.

# The pure row: decisions without effects, of which no branch may go untested.
PURE := nodeagent/select.py nodeagent/plan.py nodeagent/readiness.py nodeagent/retention.py \
	nodeagent/policy.py $(wildcard nodeagent/admission/*.py)

BIN := .venv/bin
TWO := --numprocesses 2 --dist loadgroup
comma := ,
space := $(subst ,, )

COMPILE := build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' $(UPGRADE) --group build pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak cluster image lint check bench bench-cluster lock clean
.NOTPARALLEL:

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## Install what is missing (at once when nothing is)
	@tooling/setup.sh requirements-dev.lock

demo: ## See it work: a cache, a node and its agent, on this machine
	@tooling/setup.sh requirements.lock
	@$(BIN)/nodeagent demo

test: lint $(PURE) ## All that CI checks: lint, both test suites, coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TWO) tests
	$(BIN)/coverage run -m pytest $(TWO) integration
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=100 --include=$(subst $(space),$(comma),$(PURE))

lint: setup ## Style, formatting, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint ## The inner loop: lint and the fast tests
	$(BIN)/pytest $(TWO) tests

cluster: setup ## Make what the test cluster runs: Kubernetes, a base image (10 minutes, once)
	@$(BIN)/python -m integration.cluster build

image: ## Make the agent's image, build/nodeagent.tar (as root, with mmdebstrap)
	@daemonset/image/build.sh build/nodeagent.tar

bench: ## Measure the numbers of docs/benchmarks.md (half an hour on a quiet machine)
	@tooling/setup.sh requirements.lock
	@$(BIN)/nodeagent bench

soak: cluster ## Let faults of the test cluster last for minutes (a quarter of an hour)
	@$(BIN)/pytest integration -m soak

bench-cluster: cluster ## Measure a fleet and a webhook on the test cluster (half an hour)
	@met=0; for one in measure measure_snapshot measure_webhook; do \
		$(BIN)/python -m integration.$$one || met=1; done; exit $$met

lock: ## Renew the locks (UPGRADE=--upgrade for newer versions)
	python3 -m venv build/uv
	build/uv/bin/pip install --quiet uv
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --output-file requirements-dev.lock --group dev --constraints requirements.lock

clean: ## Remove all that was made here
	rm -rf .venv build dist .coverage* .hypothesis .import_linter_cache .*_cache
	find nodeagent tests integration -name __pycache__ -prune -exec rm -rf {} +
