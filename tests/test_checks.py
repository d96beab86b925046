"""A wrong environment, a package in the way, a disk that takes nothing: each is said in one line."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
import yaml

from utils import claims, profile
from utils.course import check, run

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [["run", "99"], ["check"]]  # should a check miss its fault, no lab is run


def python(*words, path=(ROOT,), **options):
    """Runs Python in the checkout with folders on PYTHONPATH, by default the checkout itself."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **options.pop("env", {})}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env=env, **options)


def the_one_line(done) -> str:
    """What a command that failed says, which must be one line."""
    assert done.returncode, done.stdout
    [line] = done.stderr.strip().split("\n")
    return line


def test_nothing_is_said_where_all_is_well(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert check.find_faults() == []
    assert profile.writing_fault(tmp_path / "not" / "yet" / "there") == ""
    done = python("-m", "utils.course", "check")
    assert done.returncode == 0 and done.stdout.startswith("all is well") and not done.stderr


def test_a_kernel_with_other_versions_is_named_at_the_labs_first_call(tmp_path):
    info = tmp_path / "transformers-4.57.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.57.1\n")
    done = python("-c", "from utils.profile import start; start()", path=[tmp_path, ROOT])
    line = done.stderr.strip().split("\n")[-1]
    assert "this kernel is not the labs' environment" in line and "transformers 4.57.1 instead of <6,>=5.0" in line
    assert sys.executable in line and "make lab" in line and done.stdout == ""


def test_a_python_without_the_labs_is_named(tmp_path):
    (tmp_path / "p.toml").write_text('[project]\nname = "no-such-labs"\ndependencies = ["no-such-thing>=1", "torch"]\n')
    text = profile.environment_fault(tmp_path / "p.toml")
    assert "has no no-such-labs, no no-such-thing." in text


@pytest.mark.parametrize("init", [True, False], ids=["package", "bare folder"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_another_package_called_utils(tmp_path, init, words):
    (tmp_path / "utils").mkdir()
    if init:
        (tmp_path / "utils" / "__init__.py").write_text("")
    line = the_one_line(python("-m", "utils.course", *words, path=[tmp_path]))
    assert line.startswith("another package called utils comes before") and str(tmp_path / "utils") in line
    assert "PYTHONPATH" in line


def test_a_kernel_of_another_environment(tmp_path):
    venv.create(tmp_path / "other", symlinks=os.name != "nt")
    other = tmp_path / "other" / ("Scripts" if os.name == "nt" else "bin") / Path(sys.executable).name
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    kernel = {"argv": [str(other), "-m", "x"], "display_name": "x", "language": "x"}
    (spec / "kernel.json").write_text(json.dumps(kernel))
    line = the_one_line(python("-m", "utils.course", "check", env={"JUPYTER_PATH": str(tmp_path / "jupyter")}))
    assert "kernel python3 is another environment's" in line and str(other) in line and str(spec) in line


def on_a_disk(folder: Path, options: str, code: str, *words):
    """Runs Python code with a small file system mounted at the folder, which holds the results."""
    folder.mkdir()
    unshare = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"', folder]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LAB_OUT": str(folder)}
    return subprocess.run([*unshare, sys.executable, "-c", code, *words], env=env, capture_output=True, text=True)


def test_a_read_only_checkout(tmp_path):
    done = on_a_disk(tmp_path / "disk", "ro", "from utils.profile import start; start()")
    line = done.stderr.strip().split("\n")[-1]
    assert f"results go to {tmp_path / 'disk' / 'tiny'}, where nothing can be written: set LAB_OUT" in line, done.stderr
    code = "import sys; from utils.course.cli import main; sys.exit(main(['run', '1']))"
    line = the_one_line(on_a_disk(tmp_path / "other", "ro", code))
    assert line.startswith(f"results go to {tmp_path / 'other' / 'tiny'}, where nothing can be written: set LAB_OUT")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_full_while_a_claim_is_written(tmp_path):
    results = type("P", (), {"out": tmp_path})
    claims.claim(results, 1, "first", 1.0, n=1, unit="x", control="none")
    (tmp_path / "claims" / "01.part").symlink_to("/dev/full")
    with pytest.raises(profile.SetupError, match="cannot be written to .*claims: No space left on device. Make room"):
        claims.claim(results, 1, "second", 2.0, n=1, unit="x", control="none")
    assert [c["claim"] for c in claims.read_claims(tmp_path / "claims" / "01.json")] == ["first"]


def probe(path: Path, source: str) -> Path:
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, path)
    return path


def test_a_disk_that_is_full_while_a_lab_is_written(tmp_path):
    code = ("import pathlib, sys; from utils.course import cli, run; "
            "run.find_labs = lambda numbers: [pathlib.Path(sys.argv[1])]; sys.exit(cli.main(['run']))")
    done = on_a_disk(tmp_path / "disk", "size=64k", code, probe(tmp_path / "07_probe.ipynb", "print(1)"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().split("\n")[-1]  # the kernel may have had something to say before
    assert last.startswith(f"results cannot be written to {tmp_path / 'disk'}: No space left on device. Make room")


@pytest.mark.skipif(os.name == "nt", reason="no such signal on Windows")
def test_a_kernel_that_dies_is_said_to_have_run_out_of_memory(tmp_path):
    path = probe(tmp_path / "07_probe.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RuntimeError, match="code cell 1: its kernel died, .* because memory ran out: lower batch"):
        run.execute(path, tmp_path / "out" / "tiny", lambda text: None)


def test_a_disk_that_is_nearly_full_is_said_at_the_start(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    assert profile.space_fault(tmp_path) == "" or free < profile.LEAST_SPACE
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("D", (), {"free": 300 * 2**20}))
    assert profile.space_fault(tmp_path, 200 * 2**20) == ""
    assert "only 300 MB are free" in profile.space_fault(tmp_path, 2**30) and "may need 1074 MB" in profile.space_fault(
        tmp_path, 2**30)


def test_the_report_tells_what_one_needs_and_no_secret():
    done = python("-m", "utils.course", "report", env={"HF_TOKEN": "hf_secret", "HF_HOME": str(ROOT / "out" / "cache")})
    lines = done.stdout.strip().split("\n")
    assert done.returncode == 0 and 17 <= len(lines) <= 22, done.stderr
    for needed in ("commit", sys.executable, "torch 2", "transformers 5", "profile    tiny", "GB free", "cores", "bf16",
                   str(ROOT / "out" / "cache")):
        assert needed in done.stdout, needed
    assert "hf_secret" not in done.stdout and "FAULT" not in done.stdout


def test_the_report_comes_out_of_a_broken_installation_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setenv("LAB_PROFILE", "huge")
    text = "\n".join(check.report_lines())
    assert "memory     ModuleNotFoundError" in text and "profile    there is no profile 'huge'" in text


def test_the_bug_form_asks_for_the_report(root):
    form = yaml.safe_load((root / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8"))
    asked = {part["id"]: part for part in form["body"]}
    assert "labs report" in asked["report"]["attributes"]["description"]
    assert asked["report"]["validations"]["required"]
