# Two commands matter: `make demo` and `make test`. Each sets up all it needs: uv in .tools, the locked packages in .venv.

PYTHON ?= $(shell for p in python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
UV := .tools/bin/uv
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo domains test test-fast test-durations coverage test-slow test-cluster test-kubernetes test-slurm test-airflow check bench scale dist dist-env cluster cluster-stop docs code-lock lock lock-airflow clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F '\t' '{printf "make %-15s %s\n", $$1, $$2}'

.tools/ready:
	@if [ -z "$(PYTHON)" ]; then echo "cuvee: expected python3 3.11 or 3.12, found $$(python3 --version 2>&1); name one with PYTHON=..." >&2; exit 2; fi
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	@touch $@

.venv/ready: requirements.lock pyproject.toml .tools/ready
	@echo "setting up .venv (about 6 GB of packages, once)"
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python "$$(.tools/bin/python -c 'import sys; print(sys._base_executable)')" .venv
	@# compiled here, once: Spark's workers and the trainings are many processes, and not every environment lets them write bytecode
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --offline --python $(BIN)/python --editable .
	@touch $@

demo: .venv/ready  ## the whole road on a small web of its own: 7 to 17 minutes on 2 cores; prints where the report lies
	@$(BIN)/cuvee run experiments/demo.yaml

domains: .venv/ready  ## the question of dilution on the real images of ../shared/data/domains: about an hour and a half on 2 cores
	@$(BIN)/cuvee run experiments/domains.yaml

build/spark.jsa: .venv/ready
	@$(BIN)/python -m tests.support.spark_class_archive $@

# the tests write bytecode whatever the environment says: their many processes would else compile everything anew, each
test test-fast test-durations coverage test-slow test-cluster check: export PYTHONDONTWRITEBYTECODE :=

test: build/spark.jsa  ## the tests: 20 to 28 minutes on 2 cores the first time; the small road that they look at is kept in build/
	@$(BIN)/python -m pytest -n 2

test-fast: .venv/ready  ## those that need neither Spark nor torch: two minutes on 2 cores
	@$(BIN)/python -m pytest -n 2 --fast

test-durations: build/spark.jsa  ## the tests, and each file's seconds into tests/durations.json: the longest run first
	@$(BIN)/python -m pytest -n 2 --write-durations

coverage: build/spark.jsa  ## the tests, and which branches of the code they take: a table, and build/coverage/index.html
	@$(BIN)/python -m pytest -n 2 --cov --cov-config=tests/coverage.ini --cov-report=term --cov-report=html

test-slow: build/spark.jsa  ## the tests that take minutes: kills at random moments, two processes, a bucket, a cluster, a clean room
	@$(BIN)/python -m pytest -m slow

test-slurm: .venv/ready  ## the training grid on a real Slurm of one node, which it installs (Debian), starts on loopback and ends; by root
	@command -v slurmctld >/dev/null || apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
	@infra/slurm/start build/slurm >/dev/null
	@SLURM_CONF=$(CURDIR)/build/slurm/slurm.conf $(BIN)/python -m pytest -m slurm; code=$$?; infra/slurm/stop build/slurm; exit $$code

build/airflow-venv/ready: infra/airflow/requirements.lock .tools/ready
	@mkdir -p build
	@[ -x build/airflow-venv/bin/python ] || $(UV) venv --quiet --python "$$(.tools/bin/python -c 'import sys; print(sys._base_executable)')" build/airflow-venv
	@$(UV) pip sync --quiet --require-hashes --python build/airflow-venv/bin/python infra/airflow/requirements.lock
	@touch $@

test-airflow: .venv/ready build/airflow-venv/ready  ## the DAG in a real Airflow of its own environment, on a small web, twice
	@$(BIN)/python -m pytest -m airflow

test-cluster: build/spark.jsa  ## the tests on a Spark standalone cluster of this machine, workers killed among them
	@$(BIN)/python -m pytest -m slow tests/infra/test_cluster.py tests/infra/test_local_cluster.py

build/kubernetes/ready: infra/kubernetes/requirements.lock .tools/ready
	@$(UV) venv --quiet --clear --python "$$(.tools/bin/python -c 'import sys; print(sys._base_executable)')" build/kubernetes
	@$(UV) pip sync --quiet --require-hashes --python build/kubernetes/bin/python infra/kubernetes/requirements.lock
	@touch $@

test-kubernetes: build/kubernetes/ready  ## the Spark Operator's manifests and the Dockerfile, checked without a cluster
	@build/kubernetes/bin/python infra/kubernetes/check.py
	@build/kubernetes/bin/python -m pytest -q -p no:cacheprovider -c /dev/null --rootdir infra/kubernetes infra/kubernetes

check: build/spark.jsa  ## lint, format, strict types, then the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python infra/reference.py --check
	@$(BIN)/python -m pytest -n 2

bench: .venv/ready  ## the benchmarks, each a ratio within one run, into benchmarks/results.json; needs nginx (Debian: nginx-light)
	@$(BIN)/python -m benchmarks.run

scale: .venv/ready  ## decide, blend, funnel, trace and a takedown's search at 10^5, 10^6 and 10^7 drawn pairs, into benchmarks/results.json
	@$(BIN)/python -m benchmarks.scale

dist: .venv/ready  ## the wheel and the zip for --py-files, in dist; prints the zip's SHA-256
	@$(BIN)/python infra/dist.py

dist-env: dist  ## dist/cuvee-env.tar.gz for executors that have no Python: about 4 GB, minutes
	@$(BIN)/python infra/pack.py

cluster: .venv/ready  ## start a Spark master and two workers on this machine; prints the master's URL
	@$(BIN)/python infra/standalone/cluster.py start

cluster-stop: .venv/ready  ## stop them
	@$(BIN)/python infra/standalone/cluster.py stop

docs: .venv/ready  ## the documentation in build/docs, offline; its reference pages are generated anew
	@$(BIN)/python infra/reference.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/docs/index.html

code-lock: .venv/ready  ## list anew which modules are in the ids of which jobs, in jobs/workflow/code.lock
	@$(BIN)/python -m jobs.workflow.stages

lock: .tools/ready  ## resolve the dependencies anew into requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --no-annotate --no-header pyproject.toml -o requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header infra/kubernetes/requirements.in -o infra/kubernetes/requirements.lock

lock-airflow: .tools/ready  ## the same of Airflow's environment, infra/airflow/requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header infra/airflow/requirements.in -o infra/airflow/requirements.lock

clean:  ## remove what the commands made, but for .venv and .tools
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
