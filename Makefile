# make demo   the whole story on embedded data
# make test   the whole test suite
# make lint   ruff, mypy, import directions
# make results-small   the small studies again, beside what is published: half an hour on two cores
# make docs   the site, into site/; opens from disk
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint results-small docs clean

demo: $(VENV)/demo.stamp
	$(BIN)/ecc demo $(ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check ecc tests experiments examples docs/hooks.py
	$(BIN)/ruff format --check ecc tests experiments examples docs/hooks.py
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean $(ARGS)

results-small: $(VENV)/test.stamp
	$(BIN)/python experiments/results_small.py $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@ $(VENV)/demo.stamp

$(VENV)/docs.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
