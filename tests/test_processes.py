"""Several processes end where one does, with whole copies (DDP) or shares (FSDP2) of the weights, stopped or not."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from utils import models, rl, training
from utils.course import sharding
from utils.profile import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torch for Windows lacks what torchrun needs")
PAIRS = [(f"w{5 + i % 20} w{9 + i % 7}" + " w3" * (i % 6), f"w{5 + i % 20}" + " w8" * (i % 4)) for i in range(33)]
SETTINGS = {"epochs": 4, "learning_rate": 3e-3, "batch": 8, "accumulate": 2, "checks": 4}  # 12 steps, a check every 3
PPO = {"steps": 4, "batch": 7, "rows": 4, "learning_rate": 1e-3, "max_new_tokens": 6, "checkpoint_every": 2}
KINDS = ("whole", "sharded", "ppo")


class Stopped(Exception):
    pass


def new_model():
    torch.manual_seed(0)  # no dropout: it cannot agree
    return T5ForConditionalGeneration(T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_decoder_layers=2, num_heads=2, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, initializer_factor=0.5)).eval()


def score(texts):
    return [len(text) / 10 for text in texts]


def work(kind: str, folder: Path, stop: bool = False, accelerator=None):
    """(weights, what was logged) of one training; None where it is stopped after its second checkpoint."""
    from test_rl import PROMPTS, words

    model, tokenizer, calls = new_model(), words(), []

    def collator(rows):
        calls.append(len(rows))
        if stop and len(calls) == 16:  # in the eighth step: two batches each, and a row that tells trainings apart
            raise Stopped
        return training.collate(rows)

    def callback(record):
        if stop and record["step"] == 2:
            raise Stopped

    try:
        if kind == "ppo":
            run = rl.align(model, tokenizer, PROMPTS, score, PPO, folder=folder, callback=callback,
                           accelerator=accelerator)
            timings = ("seconds", "rollout", "scoring", "update")
            logged = [v for record in run.history for k, v in record.items() if k not in timings]
        else:
            run = training.fine_tune(model, tokenizer, PAIRS, SETTINGS, seed=3, validation=PAIRS[:11], folder=folder,
                                     collator=collator, accelerator=accelerator,
                                     sharding=sharding if kind == "sharded" and accelerator else None)
            logged = [v for _, v in run.losses + run.validation]
            assert len(run.losses) == 12 and len(run.validation) == 4
    except Stopped:
        return None
    return {k: v.clone() for k, v in sharding.gather(model.state_dict()).items()}, logged


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
import torch
from accelerate import Accelerator
import test_processes as t
out = Path(sys.argv[1])
for kind in t.KINDS:
    accelerator = Accelerator(cpu=True)
    made = {name: t.work(kind, out / name / kind, accelerator=accelerator) for name in ("fresh", "one")}
    assert t.work(kind, out / "two" / kind, stop=True, accelerator=accelerator) is None
    torch.save(made, out / f"{kind}-{accelerator.process_index}.pt")
"""


def torchrun(*command: str, **env: str) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, cwd=ROOT, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env})
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{kind: {who: (weights, logged)}}; who is one (process), two-0 and two-1 (of two), one>two and two>one (stopped
    among the first, finished by the others)."""
    out = tmp_path_factory.mktemp("processes")
    made = {kind: {"one": work(kind, out / "alone" / kind)} for kind in KINDS}
    for kind in KINDS:
        assert work(kind, out / "one" / kind, stop=True) is None
        assert list((out / "one" / kind).glob("*/*")), "no checkpoint was there to go on from"
    torchrun(sys.executable, "-c", WORKER, str(out))
    for kind in KINDS:
        assert not list((out / "one" / kind).glob("*/step*")), "a finished training leaves what it ended with alone"
        for rank in (0, 1):
            found = torch.load(out / f"{kind}-{rank}.pt")
            made[kind] |= {f"two-{rank}": found["fresh"], f"one>two-{rank}": found["one"]}
        assert list((out / "two" / kind).glob("*/*")), "no checkpoint was there to go on from"
        made[kind]["two>one"] = work(kind, out / "two" / kind)
        for name in ("fresh", "one"):  # by two processes, and taken up by one as it is
            made[kind][f"{name} again"] = work(kind, out / name / kind, stop=True)
    return made


@pytest.mark.parametrize("who", ["two-0", "two-1", "one>two-0", "one>two-1", "two>one", "fresh again", "one again"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_like_one(results, kind, who):
    weights, logged = results[kind]["one"]
    others, also = results[kind][who]
    assert set(others) == set(weights)
    apart = max(float((others[k] - v).abs().max()) for k, v in weights.items())
    assert apart < 1e-5, f"a weight is {apart:.1e} off"
    assert logged == pytest.approx(also, abs=1e-5)
    start = new_model().state_dict()
    assert max(float((start[k] - v).abs().max()) for k, v in weights.items()) > 1e-3, "nothing was trained"


SHORT = """
[short]
train_examples = 16
validation_examples = 8
policy_examples = 16
heated_prompts = 4
civil_prompts = 4
max_new_tokens = 8
preferences = "{folder}"
full = {{ batch = 8 }}
ppo = {{ steps = 1, batch = 4 }}
"""


@pytest.mark.slow
def test_the_command_trains_and_saves(tmp_path):
    """One process fine-tunes, two align; on the bundled model, with the tiny profile cut short."""
    pairs = pd.read_csv(ROOT / "data" / "preferences" / "train.csv", keep_default_na=False)
    pairs[:32].to_csv(tmp_path / "train.csv", index=False)
    profiles = (ROOT / "labs" / "profiles.toml").read_text(encoding="utf-8")
    (tmp_path / "profiles.toml").write_text(profiles + SHORT.format(folder=tmp_path.as_posix()), encoding="utf-8")
    env = {"LAB_PROFILES": str(tmp_path / "profiles.toml"), "LAB_PROFILE": "short", "LAB_OUT": str(tmp_path),
           "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "utils.course", "train"]
    alone = subprocess.run([*command, "fine-tune"], capture_output=True, text=True, cwd=ROOT, timeout=300,
                           env={**os.environ, **env})
    assert alone.returncode == 0, alone.stderr[-3000:]
    printed = {"fine-tune": alone.stdout, "align": torchrun(*command, "align", **env)}
    before = models.load_model(str(ROOT / "data" / "models" / "tiny"))[0].state_dict()
    for task, count in (("fine-tune", 1), ("align", 2)):
        folder = tmp_path / "short" / "models" / task
        assert printed[task].count(f"{count} process(es)") == 1 and str(folder) in printed[task]
        model, tokenizer = models.load_model(str(folder))
        moved = max(float((before[k] - v).abs().max()) for k, v in model.state_dict().items())
        assert 1e-5 < moved < 1e-2 and tokenizer("x")["input_ids"][-1] == tokenizer.eos_token_id
    assert not list((tmp_path / "short" / "checkpoints").glob("*/*"))
