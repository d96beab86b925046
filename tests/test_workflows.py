"""The CI workflows: well formed, with few rights, covering what the project promises, made of commands that exist."""

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
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
NEEDS_MAKE = pytest.mark.skipif(not shutil.which("make"), reason="no make here")
NEEDS_BASH = pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="no bash here")


def read(name: str) -> dict:
    workflow = yaml.safe_load(WORKFLOWS[name].read_text("utf-8"))
    return workflow | {"on": workflow.pop(True)}  # YAML reads the word "on" as true


def commands(job: dict) -> list[str]:
    """The lines that a job's steps run."""
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


def bounds(project: dict) -> dict[str, str]:
    """{package: lower bound} of the project's requirements, those of its extras too."""
    listed = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    return {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in map(Requirement, listed)}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def schema(name: str, *paths: Path):
    return subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}",
                           *map(str, paths)], capture_output=True, text=True)


def test_workflows_and_forms_follow_their_schemas(tmp_path):
    done = schema("github-workflows", *WORKFLOWS.values())
    assert done.returncode == 0, done.stdout
    done = schema("github-issue-forms", *(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert done.returncode == 0, done.stdout
    broken = WORKFLOWS["ci"].read_text("utf-8").replace("timeout-minutes", "timeout")
    (tmp_path / "broken.yml").write_text(broken, "utf-8")
    assert schema("github-workflows", tmp_path / "broken.yml").returncode, "the check itself notices nothing"


@pytest.mark.skipif(not shutil.which("actionlint"), reason="no actionlint here; CI has a job of its own for it")
def test_actionlint():
    done = subprocess.run(["actionlint", *map(str, WORKFLOWS.values())], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", WORKFLOWS)
def test_few_rights_no_secrets_an_end_and_pinned_actions(name):
    text, workflow = WORKFLOWS[name].read_text("utf-8"), read(name)
    assert workflow["permissions"] == {"contents": "read"} and "group" in workflow["concurrency"]
    assert "secrets." not in text and "pull_request_target" not in workflow["on"]
    for job in workflow["jobs"].values():
        assert set(job.get("permissions", {}).items()) <= {("contents", "read"), ("issues", "write")}
        assert job["timeout-minutes"] < 360, "a hosted runner ends a job after 360 minutes"
        for used in [step["uses"] for step in job["steps"] if "uses" in step]:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+|docker://rhysd/actionlint:[\d.]+", used), used
        assert job["steps"][0]["with"] == {"persist-credentials": False}
        for line in commands(job):
            assert "${{" not in line, "what comes from outside goes through env, not into a command"


# What is covered


def test_each_change_is_tried_on_all_systems_and_pythons_with_tested_and_oldest_versions(project):
    runs = read("ci")["jobs"]["test"]["strategy"]["matrix"]["include"]
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups())
    assert {run["python"] for run in runs} == {f"3.{minor}" for minor in range(low, high)}
    assert {run["os"].split("-")[0] for run in runs} == {"ubuntu", "macos", "windows"}
    tested_on = re.search(r"Python (3\.\d+)", (ROOT / "constraints.txt").read_text("utf-8"))[1]
    linux = {(run["python"], run["constraints"]) for run in runs if run["os"].startswith("ubuntu")}
    assert {(tested_on, "constraints.txt"), (f"3.{low}", ".github/oldest.txt")} <= linux
    assert all((ROOT / run["constraints"]).is_file() for run in runs)


def test_documents_are_passed_over_by_the_labs_and_taken_by_the_pages():
    labs, pages = read("ci")["on"], read("pages")["on"]
    for event in ("push", "pull_request"):
        assert "paths" not in labs[event] and labs[event]["paths-ignore"] == pages[event]["paths"]
    assert {"**.md", "labs/site/**"} <= set(pages["push"]["paths"])


def test_everything_is_tried_weekly_and_each_lab_at_full_size():
    weekly, gpu = read("weekly"), read("gpu")
    assert "schedule" in weekly["on"] and "schedule" in gpu["on"]
    assert "make test-all" in commands(weekly["jobs"]["everything"])
    assert "make test CONSTRAINTS=" in commands(weekly["jobs"]["newest"]), "the newest releases"
    assert "profiles" in weekly["jobs"]["issue"]["needs"]
    labs = sorted(path.name[:2] for path in (ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))
    assert gpu["jobs"]["lab"]["strategy"]["matrix"]["lab"] == labs


def test_the_oldest_versions_are_the_lower_bounds(project):
    lines = (ROOT / ".github" / "oldest.txt").read_text("utf-8").splitlines()
    listed = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {r.name: r.specifier for r in listed} == {
        name: SpecifierSet(f"=={version}") for name, version in bounds(project).items()}


# That it can be run


def words_after(command: str) -> set[str]:
    """The first word that any workflow gives to the command."""
    lines = [line for name in WORKFLOWS for job in read(name)["jobs"].values() for line in commands(job)]
    return {line.removeprefix(command).split()[0] for line in lines if line.startswith(command + " ")}


def test_every_make_target_and_every_command_of_the_course_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert {"test", "test-all"} <= words_after("make") <= targets
    for word in words_after(".venv/bin/labs"):
        done = subprocess.run([sys.executable, "-m", "utils.course", word, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@NEEDS_MAKE
@pytest.mark.parametrize("constraints", ["constraints.txt", ".github/oldest.txt", ""])
def test_make_installs_the_versions_that_a_workflow_asks_for(constraints):
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}  # the tests run under make
    done = subprocess.run(["make", "--dry-run", "--always-make", "test", "PYTHON=python"], cwd=ROOT, text=True,
                          capture_output=True, env={**outside, "CONSTRAINTS": constraints})
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert installs, done.stderr
    for line in installs:
        assert re.findall(r"--constraint (\S+)", line) == ([constraints] if constraints else [])


def notebook(path: Path, source: str) -> None:
    """A notebook of one cell that asks for its output to be compared; saved is what another profile printed."""
    cell = nbformat.v4.new_code_cell(f"# NBVAL_CHECK_OUTPUT\n{source}", execution_count=1, outputs=[
        nbformat.v4.new_output("stream", name="stdout", text="saved\n")])
    kernel = {"kernelspec": {"name": "python3", "display_name": "p"}}
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(metadata=kernel, cells=[cell]), path)


@NEEDS_BASH
@pytest.mark.parametrize("source, good", [("print('other')", True), ("raise ValueError('bad')", False)])
def test_the_full_size_step_runs_every_cell_and_compares_nothing(source, good, tmp_path):
    notebook(tmp_path / "labs" / "07_probe.ipynb", source)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', "utf-8")
    python.chmod(0o755)
    [step] = [s["run"] for s in read("gpu")["jobs"]["lab"]["steps"] if "nbval" in s.get("run", "")]
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", step], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "LAB": "07"})
    assert (done.returncode == 0) == good and ("1 passed" if good else "1 failed") in done.stdout, done.stdout
    assert (tmp_path / "out" / "nbval.xml").exists()


@NEEDS_BASH
@pytest.mark.parametrize("fault, good", [("", True), ("profile x needs more memory than there is on cpu", True),
                                         ("the hub has no model x", False)])
def test_every_profile_is_looked_at_weekly(fault, good, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "labs").mkdir()
    shutil.copy(ROOT / "labs" / "profiles.toml", tmp_path / "labs")
    labs = tmp_path / ".venv" / "bin" / "labs"
    labs.write_text(f'#!/bin/sh\necho "$LAB_PROFILE" >> seen\n[ -z "{fault}" ] || echo "{fault}" >&2\n', "utf-8")
    labs.chmod(0o755)
    [step] = [s["run"] for s in read("weekly")["jobs"]["profiles"]["steps"] if "profile" in s.get("run", "")]
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", step], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == good, done.stdout + done.stderr
    names = [name for name in tomllib.loads((ROOT / "labs" / "profiles.toml").read_text("utf-8")) if name != "common"]
    assert (tmp_path / "seen").read_text("utf-8").split() == names


@NEEDS_BASH
@pytest.mark.parametrize("number, asked", [("", "create"), ("12", "comment 12")], ids=["new", "open already"])
def test_a_failure_opens_one_issue(number, asked, tmp_path):
    """With a program gh that notes what it is asked, and answers with the number of an open issue."""
    gh = tmp_path / "gh"
    gh.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/log\n[ "$2" != list ] || echo "{number}"\n')
    gh.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TITLE": "It broke", "RUN": "run 7"}
    subprocess.run(["bash", ".github/open-issue.sh"], cwd=ROOT, env=env, check=True)
    search, answer = (tmp_path / "log").read_text("utf-8").splitlines()
    assert "It broke" in search and answer.startswith(f"issue {asked}") and "run 7" in answer
