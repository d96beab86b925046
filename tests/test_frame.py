"""The project's own files agree with one another."""

import json
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from utils.profile import OPTIONAL, PROFILES, profile_table, read_profiles


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def pins(root):
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {r.name: r for r in (Requirement(line) for line in lines if line and not line.startswith("#"))}


def test_every_dependency_is_pinned_inside_its_range(project, pins):
    extras = sum(project["optional-dependencies"].values(), [])
    needed = [Requirement(d) for d in project["dependencies"] + extras]
    assert {r.name for r in needed} == set(pins), "pyproject.toml and constraints.txt list different packages"
    for requirement in needed:
        [pin] = pins[requirement.name].specifier
        assert pin.operator == "==", f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(Version(pin.version)), f"{requirement.name}: {pin} is out of its range"


def test_environment_yml_takes_its_packages_from_the_project(root, project):
    text = (root / "environment.yml").read_text(encoding="utf-8")
    assert f"python{project['requires-python']}" in text, "environment.yml and pyproject.toml want different Pythons"
    assert "--constraint constraints.txt" in text and "--editable ." in text
    assert not re.search(r"^\s+- [a-z-]+[=<>]=", re.sub(r"- python.*", "", text), re.M), "a package is listed twice"


def test_ruff(root):
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_registry_address_and_no_machine_path(root):
    # Spelt in two halves, so that this file passes its own test.
    forbidden = ["pypi" + ".org", "files.python" + "hosted", "registry.npm" + "js", "deb.deb" + "ian", str(root) + "/"]
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [root / name for name in listed if name and (root / name).suffix not in {".safetensors", ".png"}]
    paths = [path for path in paths if path.is_file()]  # not those that have just been removed
    assert {root / "README.md", root / "pyproject.toml", root / "labs" / "profiles.toml"} <= set(paths)
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert not [f for f in forbidden if f in text], path
        assert path.suffix != ".md" or not re.search(r"@[A-Z]+@", text), f"{path}: a gap was left to fill"


def test_labs_read_the_keys_that_profiles_have(root):
    tables = read_profiles(PROFILES)
    keys = {name: profile_table(name, tables).keys() for name in tables if name != "common"}
    assert all(own ^ keys["tiny"] <= OPTIONAL.keys() for own in keys.values()), "a key of tiny is missing"
    cells = [cell for path in sorted((root / "labs").glob("*.ipynb"))
             for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    labs, utils = ({key for text in texts for key in re.findall(r"\bprofile\.(\w+)", text)} for texts in (
        ["".join(cell["source"]) for cell in cells], [p.read_text("utf-8") for p in (root / "utils").rglob("*.py")]))
    assert labs - keys["flan-t5-base"] <= {"name", "root", "out", "checkpoints", "device", "dtype", "why"}
    pinned = {key for key in OPTIONAL if key.endswith("_revision")}  # read as part of the names that they pin
    assert keys["flan-t5-base"] - pinned <= labs | utils, "nobody reads these keys of labs/profiles.toml"


def test_readme_names_the_labs_and_commands(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    labs = [p.name for p in (root / "labs").glob("*.ipynb")]
    for needed in ["make run", "make test", "make lab", "make site", *labs]:
        assert needed in text, f"README.md does not mention {needed}"


def test_notebook_json_has_no_machine_path(root):
    for path in (root / "labs").glob("*.ipynb"):
        text = json.dumps(json.loads(path.read_text(encoding="utf-8")))
        assert "/home/" not in text and "/root/" not in text and "Users" not in text, path.name
