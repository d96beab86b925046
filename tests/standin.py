"""Stands in for the hub: the full-size profile's model and data scaled down, and a server on loopback.

The model is the bundled one written down the way FLAN-T5 is on the hub: gated-gelu, an lm_head of its own,
a config that says so. It computes what the bundled model computes, so the labs' claims hold on it.
"""

import contextlib
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

ROOT = Path(__file__).resolve().parent.parent
MODEL, DIALOGUES = "google/flan-t5-base", "knkarthick/dialogsum"


def model_snapshot(folder: Path) -> Path:
    """A model directory laid out like google/flan-t5-base, with a pickle beside that nobody may open."""
    bundled = ROOT / "data" / "models" / "tiny"
    folder.mkdir(parents=True)
    config = json.loads((bundled / "config.json").read_text("utf-8"))
    scale = config["d_model"] ** -0.5  # the tied model scales before its head, FLAN-T5 does not
    for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
        del config[key]
    config |= {"tie_word_embeddings": False, "n_positions": 512, "output_past": True, "transformers_version": "4.23.1"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    weights = load_file(bundled / "model.safetensors")
    weights["lm_head.weight"] = weights["shared.weight"] * scale
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(bundled / "tokenizer.json", folder)
    tokenizer = json.loads((bundled / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 512}), "utf-8")
    generation = {"_from_model_config": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"not to be fetched")
    return folder


def dialogues_snapshot(folder: Path) -> Path:
    """A folder laid out like knkarthick/dialogsum: three csv files in its columns, and a card."""
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        table = pd.read_csv(ROOT / "data" / "dialogues" / f"{split}.csv", dtype=str, keep_default_na=False)
        table[["id", "dialogue", "summary", "topic"]].to_csv(folder / f"{split}.csv", index=False)
    (folder / "README.md").write_text("---\nlanguage: en\n---\n", "utf-8")
    return folder


def classifier_snapshot(folder: Path, labels: tuple[str, str]) -> Path:
    """A sequence classifier as on the hub, for (civil, rude) texts: a RoBERTa of one layer, trained on the
    preference pairs in a few seconds."""
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / "data" / "models" / "tiny", model_max_length=96)
    model = RobertaForSequenceClassification(RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, type_vocab_size=1,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}))
    pairs = pd.read_csv(ROOT / "data" / "preferences" / "train.csv", keep_default_na=False)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for i in range(0, 1984, 32):
        texts = [*pairs["chosen"][i:i + 32], *pairs["rejected"][i:i + 32]]
        fed = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        loss = model(input_ids=fed["input_ids"], attention_mask=fed["attention_mask"],
                     labels=torch.arange(2).repeat_interleave(32)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def commit(repo: str, revision: str) -> str:
    """The commit that a revision stands for: 40 hexadecimal digits."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    return hashlib.sha1(f"{repo} {revision}".encode()).hexdigest()


@contextlib.contextmanager
def hub(repos: dict[str, dict[str, Path]]):
    """(address, requests so far) of a server for {"models/owner/name" or "datasets/…": {revision: folder}}."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path).lstrip("/")
            seen.append(f"{self.command} {path}")
            api = re.fullmatch(r"api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
            file = re.fullmatch(r"((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if api:
                self.describe(api[1], api[2], api[3] or "main")
            elif file:
                self.file(file[1] if file[1].startswith("datasets/") else f"models/{file[1]}", file[2], file[3])
            else:
                self.answer(404, b"")

        do_HEAD = do_GET

        def find(self, repo, revision):
            """(commit, folder) of a revision, or nothing after saying that there is none."""
            for name, folder in repos.get(repo, {}).items():
                if revision in (name, commit(repo, name)):
                    return commit(repo, name), folder
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound" if repo in repos else "RepoNotFound"})

        def describe(self, repo, what, revision):
            if snapshot := self.find(repo, revision):
                sha, folder = snapshot
                names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
                body = {"id": repo.partition("/")[2], "sha": sha, "siblings": [{"rfilename": n} for n in names]}
                if what == "tree":
                    body = [{"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": etag(folder / n)}
                            for n in names]
                self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def file(self, repo, revision, name):
            if snapshot := self.find(repo, revision):
                sha, path = snapshot[0], snapshot[1] / name
                if not path.is_file():
                    return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
                body, start = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
                if start:
                    headers["Content-Range"] = f"bytes {start[1]}-{len(body) - 1}/{len(body)}"
                self.answer(206 if start else 200, body[int(start[1]) if start else 0:], headers)

        def answer(self, status, body, headers=None):
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
