# Nine verbs. Each makes the environment it needs; nothing is installed outside $(VENV).

VENV ?= .venv
DATA ?= .data
PORT ?= 8000
JOBS ?= 200
SEED ?= 1
STORE ?= folder
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

ADVISORIES ?= https://api.osv.dev

BENCHMARKS = speed.presets speed.projector accuracy.espirit

.PHONY: demo serve test laws check docs audit bench chaos
.DELETE_ON_ERROR:

demo: $(VENV)/.run ## reconstruct one real MR and one real CT slice through the service, with pictures
	$(VENV)/bin/python -m benchmarks.demo

serve: $(VENV)/.run ## the whole service on PORT, its data in DATA
	PORT='$(PORT)' DATA='$(DATA)' exec $(VENV)/bin/udig serve

test: $(VENV)/.dev ## every test, against a real Postgres and Valkey for each process of tests
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

laws: $(VENV)/.dev ## the tests that need no server and take less than 90 s together, to run while working
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 -m 'not slow and not long and not service' $(PYTEST_ARGS)

check: $(VENV)/.dev ## lint, format, strict types, layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --python-version 3.10 --package udig_client
	$(VENV)/bin/lint-imports

docs: $(VENV)/.dev ## write the parts of the documents that the code decides, and the site in build/site
	$(VENV)/bin/python client/generate_sync.py
	$(VENV)/bin/python -m docs.generate
	$(VENV)/bin/python -m benchmarks.report
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet

audit: $(VENV)/.run ## look up what the images install, and the C libraries inside, among known weaknesses, where an index of them can be reached
	@if curl --silent --fail --max-time 10 --output /dev/null $(ADVISORIES)/v1/vulns/PYSEC-2023-74; then \
		test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit \
			&& $(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }; \
		$(VENV)/audit/bin/pip-audit --disable-pip --require-hashes --progress-spinner off \
			--vulnerability-service osv --osv-url $(ADVISORIES)/v1/query \
			--requirement api/requirements.txt --requirement worker/requirements.txt \
			&& $(VENV)/bin/python -m benchmarks.audit_libraries --index $(ADVISORIES); \
	else $(VENV)/bin/python -m benchmarks.audit_libraries; \
		echo 'no index of advisories can be reached: dependencies are pinned by hash and were not looked up'; fi

bench: $(VENV)/.dev ## measure; prints tables; python -m benchmarks.record keeps them
	@for name in $(BENCHMARKS); do $(VENV)/bin/python -m benchmarks.$$name || exit 1; done

chaos: $(VENV)/.dev ## JOBS jobs while processes, servers, disks and clocks fail by SEED; a verdict in under 10 minutes
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.chaos --jobs '$(JOBS)' --seed '$(SEED)' --store '$(STORE)'

install = $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e

$(VENV)/.run: $(VENV)/.made pyproject.toml client/pyproject.toml constraints.txt
	@echo 'installing into $(VENV): a minute or two'
	$(install) '.[engine,service,embedded,dicom,demo]' -e './client[cli,numpy]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml client/pyproject.toml constraints.txt
	@echo 'installing into $(VENV): a minute or two'
	$(install) '.[dev]' -e './client[cli,numpy]'
	@touch $@ $(VENV)/.run

$(VENV)/.made:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed; none was found on the PATH' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
