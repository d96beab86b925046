"""Faults planted in a copy of the repository, of the kind that spoil results in silence: the tests notice each.

One fast test is named for every fault; it must fail where the fault is and pass where it is not.
"""

import multiprocessing
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# name: (what stands in one file of utils, what is planted there, the test that is to notice)
FAULTS = {
    "labels padded with 0": ("pad_label: int = IGNORED", "pad_label: int = 0", "test_a_batch_hides_its_padding"),
    "attention mask dropped": ('"attention_mask": seen if mask else torch.ones_like(ids)',
                               '"attention_mask": torch.ones_like(ids)', "test_a_batch_hides_its_padding"),
    "baseline trained in place": ("return get_peft_model(copy.deepcopy(model), config)",
                                  "return get_peft_model(model, config)",
                                  "test_an_adapter_leaves_the_base_alone_merges_and_switches_off"),
    "shots drawn from the test split": ('/ f"{split}.csv")', '/ "test.csv")', "test_no_dialogue_in_two_splits"),
    "sign of the KL": ("rewards = -beta * (logp - ref_logp) * mask", "rewards = beta * (logp - ref_logp) * mask",
                       "test_the_score_is_earned_by_the_last_token_and_kl_is_paid_by_every_one"),
    "reward read at position 0": ("    return places[label]\n", "    return 0\n",
                                  "test_the_order_of_the_labels_changes_nothing"),
    "reference trained with the policy": ("return copy.deepcopy(policy).requires_grad_(False).eval()",
                                          "return policy.eval()",
                                          "test_the_first_step_starts_at_the_reference_which_never_moves"),
    "metric on ten rows": ("predictions=list(predictions), references=references,",
                           "predictions=list(predictions)[:10], references=references[:10],",
                           "test_rouge_scores_every_row"),
}


def file_of(name: str) -> str:
    """The file that holds the test."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    [found] = [p for p in files if re.search(rf"^def {name}\(", p.read_text("utf-8"), re.M)]
    return found.name


def place(text: str) -> Path:
    """The file of utils that holds the text, once."""
    found = [p for p in sorted((ROOT / "utils").rglob("*.py")) if text in p.read_text("utf-8")]
    assert len(found) == 1 and found[0].read_text("utf-8").count(text) == 1, f"{text!r} stands in {found}"
    return found[0].relative_to(ROOT)


def copy_of_the_repository(folder: Path) -> Path:
    """utils and tests copied, data linked where the system can link."""
    def link(source, target):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    ignore = shutil.ignore_patterns("__pycache__", "build")
    for name in ("utils", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copytree(ROOT / "data" / "build", folder / "data" / "build", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data", folder / "data", ignore=ignore, copy_function=link, dirs_exist_ok=True)
    for name in ("labs", "pyproject.toml", "constraints.txt"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, folder / name)
    return folder


def in_the_copy(folder: str, names: tuple[str, ...]) -> None:
    """Body of a process: pytest on these tests of the copy, which imports the copy's utils; its output to a file."""
    with open(Path(folder) / "said.txt", "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    assert "utils" not in sys.modules
    os.chdir(folder)
    os.environ["LAB_OUT"] = str(Path(folder) / "out")
    sys.path.insert(0, folder)
    selected = [f"tests/{file_of(name)}::{name}" for name in names]
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", folder, *selected]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{fault: (exit code, what its test said)}, and under "" that of all of them on an untouched copy; two at a time,
    from a process that has the large libraries loaded already where the system can fork."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["pytest", "torch", "transformers", "datasets", "evaluate", "peft", "sklearn"])

    def run(folder, *names):
        process = context.Process(target=in_the_copy, args=(str(folder), names))
        process.start()
        process.join(300)
        process.kill()
        return process.exitcode, (folder / "said.txt").read_text("utf-8", errors="replace")

    def one(fault):
        folder = copy_of_the_repository(tmp_path_factory.mktemp("repository", numbered=True))
        if not fault:
            return run(folder, *dict.fromkeys(name for *_, name in FAULTS.values()))
        text, planted, name = FAULTS[fault]
        target = folder / place(text)
        target.write_text(target.read_text("utf-8").replace(text, planted), encoding="utf-8")
        return run(folder, name)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(["", *FAULTS], pool.map(one, ["", *FAULTS]), strict=True))


def test_an_untouched_copy_passes(runs):
    code, said = runs[""]
    assert code == 0, said[-3000:]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_noticed(fault, runs):
    code, said = runs[fault]
    assert code == 1 and "FAILED" in said, f"{fault} went unnoticed:\n{said[-2000:]}"
