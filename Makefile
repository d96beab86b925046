# run: execute the labs · test: check everything · lab: open JupyterLab · site, slides: web pages · student: the labs
# without solutions · grade SUBMISSION=path: a notebook or a folder of them graded. Each sets up first.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
READY := .venv/.ready
SITE := .venv/.site
PAGES := -q -n -W --keep-going -E -c labs/site -d out/doctrees

.PHONY: setup run test lab site slides student grade

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	$(BIN)/python -c "open('$(READY)', 'w').close()"

$(SITE): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[site]"
	$(BIN)/python -c "open('$(SITE)', 'w').close()"

run: setup
	@$(BIN)/python -m utils.run $(LABS)

test: $(SITE)
	@$(BIN)/python -m pytest

lab: setup
	@$(BIN)/python -m utils.checks
	@$(BIN)/python -m jupyterlab labs

site: $(SITE)
	@$(BIN)/python -m sphinx $(PAGES) . out/site
	@echo "open out/site/index.html"

slides: $(SITE)
	@$(BIN)/python -m sphinx $(PAGES) -b revealjs . out/slides
	@echo "open a lab in out/slides/labs/"

student: setup
	@$(BIN)/python -m utils.student

grade: setup
	@$(BIN)/python -m utils.grade $(if $(SUBMISSION),"$(SUBMISSION)")
