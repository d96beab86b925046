"""Stands in for the hub: what the full-size profile takes from there, scaled down, and a server on loopback.

REAL is what the hub's repositories look like; each stand-in has those files, and a test compares them. The model is
the bundled one written down the way FLAN-T5 is: gated-gelu, an lm_head of its own, dropout, a config that says so. It
computes what the bundled model computes, so the labs' claims hold on it.
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
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, RobertaConfig
from transformers import RobertaForSequenceClassification as Roberta

ROOT = Path(__file__).resolve().parent.parent
MODEL, DIALOGUES = "google/flan-t5-base", "knkarthick/dialogsum"
REWARD, JUDGE = "facebook/roberta-hate-speech-dynabench-r4-target", "unitary/toxic-bert"
PICKLE_ONLY = "martin-ha/toxic-comment-model"
REAL = {  # November 2026: the commit that main stands for, and files; FLAN-T5 has a spiece.model besides
    f"models/{MODEL}": ("7bcac572ce56db69c1ea7c8af255c5d7c9672fc2", "config.json generation_config.json "
                        "model.safetensors pytorch_model.bin tokenizer.json tokenizer_config.json"),
    f"datasets/{DIALOGUES}": ("a968e7aee0602e257935f1321a02e4287f7d5848", "README.md test.csv train.csv "
                              "validation.csv"),
    f"models/{REWARD}": ("391c99ab8b3f65beb77746a2cf6ddf1ddf9817e6", "config.json merges.txt model.safetensors "
                         "pytorch_model.bin tokenizer_config.json vocab.json"),
    f"models/{JUDGE}": ("4d6c22e74ba2fdd26bc4f7238f50766b045a0d94", "config.json model.safetensors pytorch_model.bin "
                        "tokenizer_config.json vocab.txt"),
    f"models/{PICKLE_ONLY}": ("9842c08b35a4687e7b211187d676986c8c96256d", "config.json pytorch_model.bin "
                              "tokenizer_config.json vocab.txt")}
TAIL = 60  # one dialogue in so many is too long for 512 tokens, as in DialogSum, where the longest has 985 words


def snapshots(folder: Path) -> dict[str, dict[str, Path]]:
    """Every repository of REAL, as hub() takes them: below its commit, and below main."""
    makers = {MODEL: model_snapshot, DIALOGUES: dialogues_snapshot, REWARD: roberta_snapshot, JUDGE: bert_snapshot,
              PICKLE_ONLY: pickle_snapshot}
    repos = {}
    for repo, (sha, _) in REAL.items():
        place = makers[repo.partition("/")[2]](folder / repo.replace("/", "-"))
        repos[repo] = {sha: place, "main": place}
    return repos


def model_snapshot(folder: Path) -> Path:
    """A model directory laid out like google/flan-t5-base, with a pickle beside that nobody may open."""
    bundled = ROOT / "data" / "models" / "tiny"
    folder.mkdir(parents=True)
    config = json.loads((bundled / "config.json").read_text("utf-8"))
    scale = config["d_model"] ** -0.5  # the tied model scales before its head, FLAN-T5 does not
    for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
        del config[key]
    config |= {"tie_word_embeddings": False, "n_positions": 512, "output_past": True, "transformers_version": "4.23.1",
               "dropout_rate": 0.1}
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
    """A folder laid out like knkarthick/dialogsum: three csv files in its columns, a card, and a tail of dialogues
    that are too long for the model."""
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        table = pd.read_csv(ROOT / "data" / "dialogues" / f"{split}.csv", dtype=str, keep_default_na=False)
        different = table["dialogue"].drop_duplicates().tolist()
        longer = {d: "\n".join(different[i:i + 12]) for i, d in enumerate(different) if i % TAIL == TAIL // 2}
        table["dialogue"] = [longer.get(dialogue, dialogue) for dialogue in table["dialogue"]]
        table[["id", "dialogue", "summary", "topic"]].to_csv(folder / f"{split}.csv", index=False)
    (folder / "README.md").write_text("---\nlanguage: en\n---\n", "utf-8")
    return folder


def preference_pairs() -> list[tuple[str, str]]:
    pairs = pd.read_csv(ROOT / "data" / "preferences" / "train.csv", keep_default_na=False)[:1984]
    return list(zip(pairs["chosen"], pairs["rejected"], strict=True))


def roberta_snapshot(folder: Path) -> Path:
    """A classifier like Facebook's: a RoBERTa with vocab.json and merges.txt, no tokenizer.json, a tokenizer that does
    not know its window, 514 positions, labels nothate and hate."""
    folder.mkdir(parents=True)
    words = ByteLevelBPETokenizer()
    words.train_from_iterator([text for pair in preference_pairs() for text in pair], vocab_size=4000, min_frequency=1,
                              show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    words.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}), "utf-8")
    config = RobertaConfig(vocab_size=words.get_vocab_size(), max_position_embeddings=514, type_vocab_size=1,
                           id2label={0: "nothate", 1: "hate"}, label2id={"nothate": 0, "hate": 1}, **SMALL)
    return train_classifier(Roberta, config, folder, lambda rude: rude.long())


def bert_snapshot(folder: Path) -> Path:
    """A classifier like Unitary's: a BERT with vocab.txt, six labels, each with a probability of its own."""
    folder.mkdir(parents=True)
    words = BertWordPieceTokenizer()
    words.train_from_iterator([text for pair in preference_pairs() for text in pair], vocab_size=4000,
                              show_progress=False)
    words.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}), "utf-8")
    labels = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
    config = BertConfig(vocab_size=words.get_vocab_size(), problem_type="multi_label_classification",
                        id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}, **SMALL)
    return train_classifier(BertForSequenceClassification, config, folder,
                            lambda rude: torch.stack([rude, 0 * rude, 0 * rude, 0 * rude, rude, 0 * rude], 1))


SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
         "initializer_range": 0.1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # learns in seconds


def train_classifier(kind, config, folder: Path, target) -> Path:
    """Trains it on the preference pairs in a few seconds; target(rude [n]) makes what its loss wants."""
    torch.manual_seed(0)
    config.save_pretrained(folder)  # AutoTokenizer asks for the model's kind
    tokenizer, model, pairs = AutoTokenizer.from_pretrained(folder), kind(config), preference_pairs()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for i in range(0, len(pairs), 32):
        texts = [text for side in zip(*pairs[i:i + 32], strict=True) for text in side]
        fed = tokenizer(texts, padding=True, truncation=True, max_length=96, return_tensors="pt")
        loss = model(input_ids=fed["input_ids"], attention_mask=fed["attention_mask"],
                     labels=target(torch.arange(2.0).repeat_interleave(32))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not to be fetched")
    return folder


def pickle_snapshot(folder: Path) -> Path:
    """A classifier whose weights are there as a pickle alone."""
    folder.mkdir(parents=True)
    BertConfig(id2label={0: "non-toxic", 1: "toxic"}, label2id={"non-toxic": 0, "toxic": 1}, **SMALL
               ).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}), "utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"not to be fetched")
    return folder


def commit(repo: str, revision: str) -> str:
    """The commit that a revision stands for: 40 hexadecimal digits."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    return REAL[repo][0] if repo in REAL and revision == "main" else hashlib.sha1(
        f"{repo} {revision}".encode()).hexdigest()


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
                body = {"id": repo.partition("/")[2], "sha": sha,
                        "siblings": [{"rfilename": n, "size": (folder / n).stat().st_size} for n in names]}
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
