# make demo         a real language model behind a root and two sites (ONCE=1: end after one response)
# make test         the tests, without the slow ones, in WORKERS=3 processes (ARGS="-k name" to choose)
# make test-all     all tests, as CI runs them
# make compiled     the tests of the data path, compiled to native code (skipped, with the reason, without a C compiler)
# make chaos        faults on real processes, each for its full time (45 minutes; ARGS="-k name")
# make check        formatting, lint, imports between rooms, types (.ci/check)
# make bench        how fast it is on this machine, into docs/reference/benchmarks.md (ARGS="--only json", or --help)
# make docs         the documentation as a site, in build/site; a broken link is an error
# make lock         the versions of this .venv, into deploy/constraints.txt, once all tests have passed with them
# make audit        known vulnerabilities of these versions (asks pypi.org)
# make clean        remove .venv, caches and build outputs
#
# Each target sets up .venv by itself and needs nothing but Python 3.11 or newer.

MIN_PYTHON := 3.11
WORKERS := 3
BIN := .venv/bin
# The tests of the modules that tools/compiled.py names. ARGS=tests/whole adds whole trees, which doubles the time.
COMPILED_TESTS := tests/relay tests/balancing tests/http tests/registry tests/runtime/test_metrics.py tests/uplink/test_links.py tests/test_node.py
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test test-all compiled chaos check bench docs lock audit clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

demo: .venv/.demo
	@$(BIN)/python tools/demo.py $(if $(ONCE),--once)

test: .venv/.dev
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --quick $(ARGS)

test-all: .venv/.dev .venv/compat/.made
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# Without a C compiler this is no error: the package is then installed uncompiled, too.
compiled: .venv/.dev
	@$(BIN)/python tools/compiled.py build/compiled --whole --quick; status=$$?; \
	if test $$status = 3; then echo "skipped: the tests of the compiled data path" >&2; exit 0; fi; \
	test $$status = 0 || exit $$status; \
	cd build/compiled && "$(CURDIR)/$(BIN)/python" -m hierarchy --version | grep compiled && \
	"$(CURDIR)/$(BIN)/python" -m pytest -n $(WORKERS) --dist loadfile $(COMPILED_TESTS) $(ARGS)

chaos: .venv/.dev
	@$(BIN)/python -m pytest tests/chaos --full $(ARGS)

check: .venv/.dev
	@.ci/check

bench: .venv/.dev
	@$(BIN)/python tools/bench/run.py $(ARGS)

docs: .venv/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)
	@echo "build/site/index.html"

lock: .venv/.dev
	@$(BIN)/python tools/lock.py > deploy/constraints.txt

# The only target that needs the Internet: not part of CI.
audit: .venv/.dev
	@$(PIP) install --quiet pip-audit
	@$(BIN)/pip-audit --requirement deploy/constraints.txt --no-deps --disable-pip

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# A virtual environment contains its own path and that of its Python. If either is wrong, it is made again.
ifneq ($(filter demo test test-all compiled chaos check bench docs lock audit,$(MAKECMDGOALS)),)
ifneq ($(shell test "`cat .venv/.path 2>/dev/null`" = "$(CURDIR)" && $(BIN)/python -c "print('usable')" 2>/dev/null),usable)
.PHONY: .venv/.path
endif
endif

.venv/.path:
	@python=; for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	    then python=$$candidate; break; fi; done; \
	if test -z "$$python"; then \
	    echo "error: no Python $(MIN_PYTHON) or newer with its venv module was found;" >&2; \
	    echo "       install one (Debian: apt install python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	    exit 1; fi; \
	echo "making .venv with `$$python --version`"; \
	$$python -m venv --clear .venv && printf '%s\n' "$(CURDIR)" > .venv/.path

# Shows the names and sizes of packages only; the whole output of pip is in .venv/pip.log.
define install
	@echo "installing hierarchy-llm[$(EXTRAS)] into .venv (once):"
	@{ $(PIP) install --progress-bar off -e '.[$(EXTRAS)]' 2>&1; echo $$? > .venv/pip.status; } | tee .venv/pip.log \
	    | while read -r verb what rest; do case "$$verb" in \
	        Collecting) printf '  %s\n' "$$what";; \
	        Downloading) case "$$rest" in *MB*) printf '    downloading %s\n' "$$rest";; esac;; \
	        Installing) test "$$what" != collected || printf '  writing them to .venv\n';; \
	    esac; done
	@test "`cat .venv/pip.status`" = 0 || { tail -n 20 .venv/pip.log >&2; exit 1; }
	@touch $@
endef

.venv/.demo: EXTRAS = local
.venv/.demo: .venv/.path pyproject.toml
	$(install)

.venv/.dev: EXTRAS = local,dev
.venv/.dev: .venv/.path pyproject.toml
	$(install)
	@touch .venv/.demo

# In the same environment: mkdocs runs none of this package, but `make docs` then needs no second one.
.venv/.docs: EXTRAS = docs
.venv/.docs: .venv/.path pyproject.toml
	$(install)

# FastChat is no longer maintained and needs old versions of other packages, so it gets an environment of its own.
.venv/compat/.made: .venv/.dev pyproject.toml
	@echo "installing FastChat's own package into .venv/compat (once), for tests/compat"
	@$(BIN)/python -m venv --clear .venv/compat
	@$(BIN)/python -c 'import pathlib, tomllib; project = tomllib.loads(pathlib.Path("pyproject.toml").read_text()); \
	    print(*project["project"]["optional-dependencies"]["compat"], sep="\n")' > .venv/compat/requirements.txt
	@if .venv/compat/bin/python -m pip --disable-pip-version-check install --progress-bar off --retries 2 \
	    -r .venv/compat/requirements.txt > .venv/compat/pip.log 2>&1; then touch $@; else \
	    { grep '^ERROR:' .venv/compat/pip.log || tail -n 1 .venv/compat/pip.log; } \
	        | tail -n 1 | sed 's/^ERROR: //' > .venv/compat/failed; \
	    echo "could not (`cat .venv/compat/failed`): the tests that run FastChat's programs are skipped" >&2; fi
