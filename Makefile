# run: execute the labs · test: check everything · lab: open JupyterLab. Each sets up first.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
READY := .venv/.ready

.PHONY: setup run test lab

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	$(BIN)/python -c "open('$(READY)', 'w').close()"

run: setup
	@$(BIN)/python -m utils.run $(LABS)

test: setup
	@$(BIN)/python -m pytest

lab: setup
	@$(BIN)/python -m utils.checks
	@$(BIN)/python -m jupyterlab labs
