"""The CI workflows: well formed, with few rights, and made of commands that run here too."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NBVAL = "--nbval-lax --nbval-current-env"
NEEDS_MAKE = pytest.mark.skipif(not shutil.which("make"), reason="no make here")
NEEDS_BASH = pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="no bash here")


def jobs(path: Path) -> dict:
    return yaml.safe_load(path.read_text("utf-8"))["jobs"]


def lines() -> list[str]:
    """Every command of every workflow, a line each."""
    return [line for path in WORKFLOWS for job in jobs(path).values() for step in job["steps"]
            for line in step.get("run", "").splitlines()]


def schema(name: str, *paths: Path):
    return subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}",
                           *map(str, paths)], capture_output=True, text=True)


def test_workflows_and_forms_follow_their_schemas(tmp_path):
    done = schema("github-workflows", *WORKFLOWS)
    assert len(WORKFLOWS) == 3 and done.returncode == 0, done.stdout
    done = schema("github-issue-forms", *(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert done.returncode == 0, done.stdout
    (tmp_path / "broken.yml").write_text(WORKFLOWS[0].read_text("utf-8").replace("timeout-minutes", "timeout"), "utf-8")
    assert schema("github-workflows", tmp_path / "broken.yml").returncode, "the check itself notices nothing"


@pytest.mark.skipif(not shutil.which("actionlint"), reason="no actionlint here; CI has a job of its own for it")
def test_actionlint():
    done = subprocess.run(["actionlint", *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_few_rights_no_secrets_an_end_and_pinned_actions(path):
    text, workflow = path.read_text("utf-8"), yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"} and "group" in workflow["concurrency"]
    assert "secrets." not in text and "pull_request_target" not in text
    rights = {right for job in jobs(path).values() for right in job.get("permissions", {}).items()}
    assert rights <= {("contents", "read"), ("issues", "write")}
    for job in jobs(path).values():
        assert job["timeout-minutes"] <= 720
        for used in [step["uses"] for step in job["steps"] if "uses" in step]:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+|docker://rhysd/actionlint:[\d.]+", used), used
        assert job["steps"][0]["with"] == {"persist-credentials": False}
    for line in lines():
        assert "${{" not in line, "what comes from outside goes through env, not into a command"


def test_each_change_is_tried_on_three_systems_with_oldest_and_newest(root):
    job = jobs(root / ".github" / "workflows" / "ci.yml")["test"]
    matrix, project = job["strategy"]["matrix"], tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert {os.split("-")[0] for os in matrix["os"]} == {"ubuntu", "macos", "windows"}
    oldest, newest = [v["python"] for v in matrix["versions"]]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    assert (oldest, newest) == (f"3.{low}", f"3.{int(high) - 1}")
    assert all((root / v["constraints"]).exists() for v in matrix["versions"])


def test_the_oldest_versions_are_the_lower_bounds(root):
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = {}
    extras = sum(project["optional-dependencies"].values(), [])
    for requirement in map(Requirement, project["dependencies"] + extras):
        [bounds[requirement.name]] = [s.version for s in requirement.specifier if s.operator == ">="]
    listed = [Requirement(line) for line in (root / ".github" / "oldest.txt").read_text("utf-8").splitlines()[1:]]
    assert {r.name: str(r.specifier).removeprefix("==") for r in listed} == bounds


def test_every_command_is_a_make_target_or_runs_in_these_tests(root):
    targets = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text("utf-8"), re.M)[1].split()
    here = {".venv/bin/python -m utils.report",  # tests/test_checks.py
            "bash .github/open-issue.sh", nbval_line()}  # below
    commands = lines()
    assert len(commands) >= 6
    for line in commands:
        make = re.fullmatch(r"make (\w+)(?: CONSTRAINTS=\S*)?", line)
        assert line in here or make and make[1] in targets, f"{line}: no make target, and no test runs it"


@NEEDS_MAKE
@pytest.mark.parametrize("constraints, option", [
    ("constraints.txt", " --constraint constraints.txt "), (".github/oldest.txt", " --constraint .github/oldest.txt "),
    ("", " ")], ids=["tested", "oldest", "newest"])
def test_make_installs_the_versions_that_a_workflow_asks_for(root, constraints, option):
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}  # the tests run under make
    done = subprocess.run(["make", "-n", "-W", "pyproject.toml", "test", "PYTHON=python"], cwd=root, text=True,
                          capture_output=True, env={**outside, "CONSTRAINTS": constraints})
    install = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert len(install) == 2 and "[site]" in install[1]
    assert all(f"--disable-pip-version-check{option}--editable " in " ".join(line.split()) for line in install)
    assert "-m pytest" in done.stdout.splitlines()[-1], done.stderr


def nbval_line() -> str:
    [line] = [line for line in lines() if NBVAL in line]
    return line


@pytest.mark.parametrize("saved, good", [("1\n", True), ("2\n", False)])
def test_nbval_over_executed_labs_compares_what_they_printed(saved, good, tmp_path):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    output = nbformat.v4.new_output("stream", name="stdout", text=saved)
    source = "# NBVAL_CHECK_OUTPUT\nprint(1)"
    notebook.cells.append(nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output]))
    folder = tmp_path / "out" / "flan-t5-base"
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / "01_probe.ipynb")
    words = nbval_line().split()
    assert words[0] == ".venv/bin/python" and words[-1] == "out/flan-t5-base"
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == good and ("1 passed" if good else "1 failed") in done.stdout, done.stdout
    assert (tmp_path / "out" / "nbval.xml").exists()


@NEEDS_BASH
@pytest.mark.parametrize("found, asked", [("", "issue create --title It broke --label bug --body run 7"),
                                          ("12", "issue comment 12 --body run 7")], ids=["new", "open already"])
def test_a_break_opens_one_issue(found, asked, tmp_path):
    gh = tmp_path / "gh"
    gh.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/log\n[ "$2" != list ] || echo "{found}"\n')
    gh.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TITLE": "It broke", "RUN": "run 7"}
    subprocess.run(["bash", ".github/open-issue.sh"], cwd=ROOT, env=env, check=True)
    first, second = (tmp_path / "log").read_text("utf-8").splitlines()
    assert '--search in:title "It broke"' in first and second.startswith(asked)
    assert subprocess.run(["bash", "-n", ".github/open-issue.sh"], cwd=ROOT).returncode == 0
