"""SageMaker Studio, as far as a machine without it can tell: the start-up script in an empty home, labs as jobs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
LABS = sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))
SCRIPT, PAGE = ROOT / "labs" / "studio-on-start.sh", ROOT / "labs" / "STUDIO.md"
HAS_TOOLS = os.name == "posix" and all(map(shutil.which, ("bash", "flock", "git")))
NEEDS_TOOLS = pytest.mark.skipif(not HAS_TOOLS, reason="no bash, flock or git here")

# Stands in for conda: waits to be let go, then makes a Python that writes down what pip is asked for and
# hands the rest to the real one.
CONDA = """#!/bin/bash
echo "conda $*" >> "$HOME/calls"
until [ -e "$HOME/go" ]; do sleep 0.05; done
[ ! -e "$HOME/broken" ] || { echo "conda: no room"; exit 1; }
prefix="${@: -1}"
mkdir -p "$prefix/bin"
cat > "$prefix/bin/python" <<'END'
#!/bin/bash
[ "$2" != pip ] || { echo "pip ${*:3} in $PWD" >> "$HOME/calls"; exit 0; }
exec "REAL" "$@"
END
chmod +x "$prefix/bin/python"
"""


@pytest.fixture
def space(tmp_path):
    """A home with nothing in it, a repository to clone, and `start`, which runs the script there."""
    home, repository, tools = tmp_path / "home", tmp_path / "repository", tmp_path / "tools"
    for folder in (home, repository, tools):
        folder.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "environment.yml"):
        shutil.copy(ROOT / name, repository)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    (tools / "conda").write_text(CONDA.replace("REAL", sys.executable))
    (tools / "conda").chmod(0o755)

    def start(repository=repository) -> None:
        env = {"HOME": str(home), "PATH": f"{tools}:/usr/bin:/bin", "LABS_REPOSITORY": f"file://{repository}"}
        subprocess.run(["bash", SCRIPT], env=env, check=True, timeout=60, cwd="/", stdin=subprocess.DEVNULL)
    yield home, start
    (home / "go").touch()  # whatever a failed test left waiting


def told(home: Path, wanted: str) -> str:
    """The log once it ends in a line that begins so."""
    for _ in range(600):
        text = (home / "llm-course-labs.log").read_text() if (home / "llm-course-labs.log").exists() else ""
        if text and text.splitlines()[-1].startswith(wanted):
            return text
        time.sleep(0.05)
    raise AssertionError(f"the log does not end in {wanted!r}: {text}")


def calls(home: Path) -> list[str]:
    return (home / "calls").read_text().splitlines() if (home / "calls").exists() else []


@NEEDS_TOOLS
def test_the_script_leaves_at_once_and_gets_all_ready_below_home(space):
    home, start = space
    start()  # returns although conda waits
    told(home, "2")  # at work
    start()  # and so does a second start
    (home / "go").touch()
    assert "FAILED" not in told(home, "ready")
    environment = home / ".conda" / "envs" / "llm-course-labs"
    assert calls(home) == [f"conda env create --quiet --file environment.yml --prefix {environment}"]
    assert (home / "llm-course-labs" / "environment.yml").exists()
    kernel = json.loads((home / ".local/share/jupyter/kernels/llm-course-labs/kernel.json").read_text())
    assert kernel["display_name"] == "LLM Course Labs" and "ipykernel_launcher" in kernel["argv"]
    assert kernel["env"] == {"HF_HOME": str(home / ".cache" / "huggingface")}
    outside = {p.name for p in home.iterdir()} - {"go", "calls"}
    assert outside <= {".conda", ".local", ".cache", ".ipython", "llm-course-labs", "llm-course-labs.log",
                       "llm-course-labs.log.lock"}


@NEEDS_TOOLS
def test_a_restart_does_nothing_and_new_versions_are_installed_once(space):
    home, start = space
    (home / "go").touch()
    start()
    told(home, "ready")
    for changed, wanted in ((False, []), (True, ["pip --version", "pip install --quiet --constraint constraints.txt "
                                                 "--editable ."]), (False, [])):
        before = len(calls(home))
        if changed:
            os.utime(home / "llm-course-labs" / "constraints.txt")
        (home / "llm-course-labs.log").write_text("")
        start()
        told(home, "ready")
        assert [c.partition(" in ")[0] for c in calls(home)[before:]] == wanted
        assert all(c.endswith(" in " + str(home / "llm-course-labs")) for c in calls(home)[before:])


@NEEDS_TOOLS
def test_what_fails_is_told_and_the_next_start_goes_on(space, tmp_path):
    home, start = space
    start(tmp_path / "nowhere")
    assert "nowhere" in told(home, "FAILED") and not (home / "llm-course-labs").exists()
    for name in ("go", "broken"):
        (home / name).touch()
    (home / "llm-course-labs.log").write_text("")
    start()
    assert "conda: no room" in told(home, "FAILED") and "ready" not in told(home, "FAILED").splitlines()
    (home / "broken").unlink()
    start()
    told(home, "ready")
    assert [c.split()[0] for c in calls(home)] == ["conda", "conda"]


@NEEDS_TOOLS
def test_the_script_is_sound_bash_and_small_enough_for_studio():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    assert len(SCRIPT.read_text("utf-8")) < 16384, "the limit of a lifecycle configuration"
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", SCRIPT]).returncode == 0


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_a_lab_has_one_parameter_cell_and_starts_with_it(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    [at] = [i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", [])]
    assert cells[at].source.startswith("LAB_PROFILE = None  #")
    [begins] = [i for i, c in enumerate(cells) if re.search(r"^profile = start\(", c.source, re.M)]
    assert begins > at and "name=LAB_PROFILE)" in cells[begins].source


@pytest.mark.slow
@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_a_lab_runs_as_a_job_with_another_profile(path, tmp_path):
    """The page's command, over the lab up to the cell after its start; all of it runs in tests/test_labs.py."""
    notebook = nbformat.read(path, 4)
    begins = next(i for i, c in enumerate(notebook.cells) if re.search(r"^profile = start\(", c.source, re.M))
    ends = [i for i, c in enumerate(notebook.cells) if i > begins and c.cell_type == "code"][0]
    notebook.cells = notebook.cells[: ends + 1]
    nbformat.write(notebook, tmp_path / path.name)
    (tmp_path / "profiles.toml").write_text("[job]\n", "utf-8")

    [line] = re.findall(r"^\S*python -m papermill .*$", PAGE.read_text("utf-8"), re.M)
    words = [{"labs/01_prompting_and_generation.ipynb": path.name, "flan-t5-base": "job"}.get(w, w)
             for w in shlex.split(line)[1:]]
    env = {**os.environ, "LAB_PROFILES": str(tmp_path / "profiles.toml"), "LAB_OUT": str(tmp_path)}  # LAB_PROFILE=tiny
    done = subprocess.run([sys.executable, *words, "--no-progress-bar"], cwd=tmp_path, env=env, text=True,
                          capture_output=True)
    assert done.returncode == 0 and "does not contain a cell" not in done.stderr, done.stderr
    cells = [c for c in nbformat.read(tmp_path / "job.ipynb", 4).cells if c.cell_type == "code"]
    tags = [c.metadata.get("tags", []) for c in cells]
    assert tags.index(["injected-parameters"]) == tags.index(["parameters", "setup"]) + 1
    assert "profile job ·" in "".join(o.get("text", "") for c in cells for o in c.outputs)
    assert all(c.execution_count for c in cells)


def test_the_page_names_what_exists_and_its_memory_is_enough(root):
    text = PAGE.read_text("utf-8")
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (root / "labs" / name).exists(), name
    assert "conda env create -f environment.yml" in text and "HF_HOME" in text
    rows = re.findall(r"\| tiny \| \d+ cores.*?\| ([\d.]+) GB \|", (root / "README.md").read_text("utf-8"))
    assert rows and all(2 * float(gb) <= 8 for gb in rows), "8 GB is no longer twice what a lab needs: correct the page"
