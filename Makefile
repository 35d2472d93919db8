# Everything a developer or the CI runs. `make check` before every commit, `make test` before every push.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The newest Python that is at least 3.11 and can make environments; a pyenv shim for an absent version does not run.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
PORT ?= 8000

BIN := .venv/bin
FAST := not slow and not cluster and not browser
READY := .venv/.ready

# This tree, in every process that is started from here (Ray workers too), whatever the environment has installed.
export PYTHONPATH := $(CURDIR)/.links:$(CURDIR)
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help
help: ## show the targets
	@sed -n 's/^\([.a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

.PHONY: .venv
.venv: $(READY) ## the environment, made or brought up to date

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv found: set PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev,test,lint,docs]'
	touch $@

.PHONY: lint lint-style lint-mypy lint-pyright lint-imports
lint: lint-style lint-mypy lint-pyright lint-imports ## format, lint, types, import contracts; -j2 takes two thirds of the time

lint-style: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

lint-mypy: $(READY)
	$(BIN)/mypy

lint-pyright: $(READY)
	$(BIN)/pyright

lint-imports: $(READY)
	$(BIN)/lint-imports

.PHONY: audit
audit: $(READY) ## security rules over our code, known vulnerabilities of what is installed
	$(BIN)/ruff check --select S --ignore S101,S603 entities cluster api
	$(BIN)/python .ci/audit.py

.PHONY: check
check: lint ## lint, and the fast tests
	$(BIN)/pytest -n 2 -m '$(FAST)'

# At a time. Each test with a cluster waits for half of its life, so three fit two cores; but Ray gives up when it has not
# started within 30 s, which three that start at the same time need on a slow machine.
JOBS ?= 2

.PHONY: test
test: $(READY) ## the tests: the fast ones, then those with clusters and browsers of their own; make test JOBS=3
	status=0; $(BIN)/pytest -n $(JOBS) -m '$(FAST)' $(ARGS) || status=1; \
	$(BIN)/pytest -n $(JOBS) --dist loadgroup -m 'not ($(FAST)) and not long' $(ARGS) || status=1; exit $$status

.PHONY: test-long
test-long: $(READY) ## those that `make test` leaves out because each takes a minute or more: most campaigns, the whole benchmark suite, tiny
	$(BIN)/pytest -m long $(ARGS)

.PHONY: stories
stories: $(READY) ## the stories on virtual time, crashed at every point; tells how many points were tried
	$(BIN)/pytest tests/stories

.PHONY: hostile
hostile: $(READY) ## the suites again under each hostile configuration, half an hour: make hostile ARGS='evict twice --seed 1'
	$(BIN)/python -m tests.hostile $(ARGS)

.PHONY: postgres-versions
postgres-versions: $(READY) ## the tests about Postgres on 15 to 18 (npm has the servers): make postgres-versions ARGS='16 --only store'
	$(BIN)/python -m tests.postgres $(ARGS)

.PHONY: mutants
mutants: $(READY) ## plant each known bug and see it killed by the simulation: make mutants ARGS='--mutant M4', or ARGS=--tests
	$(BIN)/python -m simulation.kill $(ARGS)

.PHONY: format
format: $(READY) ## format, and fix what can be fixed by a tool
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: demo
demo: $(READY) ## food delivery on http://127.0.0.1:$PORT
	$(BIN)/perdure dev examples.food_delivery.app --port $(PORT)

.PHONY: clean
clean: ## remove caches and builds; keeps .venv and .perdure
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: bench
bench: $(READY) ## the benchmarks with their goals and ceilings, a quarter of an hour: make bench ARGS='--only calls --json FILE'
	$(BIN)/python -m bench $(ARGS)

.PHONY: schemathesis
schemathesis: $(READY) ## is the OpenAPI true? Thousands of requests: make schemathesis ARGS='--seed 1 --examples 300'
	$(BIN)/python -m tests.openapi $(ARGS)

.PHONY: docs errors
docs: $(READY) errors ## the documentation as a site, in build/site; fails if a link leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

errors: $(READY) ## docs/errors.md, from the code
	@$(BIN)/python -c 'from perdure.api.explain import errors_markdown as text; print(text(), end="")' >.errors.md
	@mv .errors.md docs/errors.md

SEEDS ?= 1000

.PHONY: simulate
simulate: $(READY) ## the cluster under simulated faults: make simulate SEEDS=1000 ARGS='--workload W3'
	$(BIN)/python -m simulation --corpus --seeds $(SEEDS) $(ARGS)

.PHONY: chaos chaos-short
chaos: $(READY) ## several Ray nodes under load and every fault we know for 30 minutes: make chaos ARGS='--seed 1'
	$(BIN)/python -m chaos --minutes 30 $(ARGS)

chaos-short: $(READY) ## the same for a minute and a half, with the starting and the checking about three
	$(BIN)/python -m chaos --minutes 1.5 --reminders 20000 $(ARGS)

CAMPAIGNS := approvals counters dedicated exactly-once-messages long-lives orders passivation rolling years zombie

.PHONY: campaigns
campaigns: $(READY) ## real faults on a real cluster, one campaign after the other, about fifteen minutes
	status=0; for name in $(CAMPAIGNS); do $(BIN)/python -m campaigns $$name || status=1; done; exit $$status

.PHONY: campaign
campaign: $(READY) ## one of them: make campaign NAME=orders ARGS='--rounds 10 --seed 1'
	$(BIN)/python -m campaigns $(NAME) $(ARGS)

.PHONY: chaos-postgres nightly
chaos-postgres: $(READY) ## kill -9 of Postgres three times: until throughput is back to 90 per cent
	$(BIN)/python -m chaos postgres $(ARGS)

NIGHTLY := test-long hostile postgres-versions mutants simulate schemathesis chaos chaos-postgres campaigns

nightly: $(READY) ## all that takes long, one after the other, four to five hours; logs in build/nightly
	@mkdir -p build/nightly; status=0; for step in $(NIGHTLY); do \
	if $(MAKE) --no-print-directory $$step SEEDS=100000 >build/nightly/$$step.log 2>&1; \
	then echo "$$(date +%T) ok      $$step"; else echo "$$(date +%T) FAILED  $$step: build/nightly/$$step.log"; status=1; fi; \
	done; exit $$status
