"""What users bring: tables as spreadsheets and chat exports write them, long dialogues, settings of other models."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from utils import claims, dialogues, generation, metrics, models, needs, profile, prompts, rollouts, tasks
from utils.course import check
from utils.course import run as labs

ROWS = [("a", "#Person1#: Well, well, the key, please.\n#Person2#: Here.", "#Person1# asks, politely.", "mill"),
        ("b", "#Person1#: Shut the gate; now.\n#Person2#: Yes.", "The gate is shut.", "geese")]


def csv(rows=ROWS, separator=",", end="\n", columns=("id", "dialogue", "summary", "topic")) -> str:
    quoted = [[f'"{value}"' for value in row[: len(columns)]] for row in rows]
    return end.join([separator.join(columns), *(separator.join(row) for row in quoted)]).replace("\n", end) + end


@pytest.mark.parametrize("content", [
    csv().encode(), csv(separator=";").encode(), csv(separator="\t").encode(), csv(end="\r\n").encode(),
    csv(end="\r").encode(), csv().encode("utf-8-sig"), csv(separator=";").encode("utf-16"),
    ("\n" + csv(columns=(" id", "dialogue ", "summary", "topic"))).encode(), (csv() + "\n\n").encode(),
    csv(separator="|").encode(), csv().encode("utf-32"), ("sep=;\n" + csv(separator=";")).encode(),
    csv(columns=("ID", "Dialogue", "SUMMARY", "Topic")).encode(), (csv() + ",,,\n, ,,\n").encode(),
    csv().replace("topic\n", "topic,,\n").replace('mill"\n', 'mill",,\n').replace('geese"\n', 'geese",,\n').encode(),
    (csv(ROWS[:1]) + "\ufeff" + csv(ROWS[1:])).encode("utf-8-sig"), csv().replace(',"', ', "').encode(),
    csv().replace("please.\n", "please. \n\n \n").encode(), csv().replace("please.\n", "please.\u2028").encode(),
    csv().replace('"The gate', '" The gate').encode()],
    ids=["plain", "semicolons", "tabs", "CRLF", "CR", "BOM", "UTF-16", "blanks in the header", "blank lines", "bars",
         "UTF-32", "Excel's first line", "capitals", "blank rows", "columns without a name", "two files joined",
         "blanks around", "blank turns", "line separators", "blanks in a text"])
def test_a_table_is_read_however_it_was_written(content, tmp_path):
    (tmp_path / "test.csv").write_bytes(content)
    table = dialogues.load_split(str(tmp_path), "test")
    assert list(table[["id", "dialogue", "summary", "topic"]].itertuples(index=False, name=None)) == ROWS
    assert dialogues.lead(table["dialogue"][0], 1) == "#Person1#: Well, well, the key, please."


@pytest.mark.parametrize("content, message", [
    (csv().encode("utf-16")[2:], "holds zero bytes, as UTF-16 without its mark does: save the file as UTF-8"),
    (csv().encode() + "ä".encode("cp1252"), "line 6: byte [0-9]+ is not UTF-8: save the file as UTF-8"),
    (b"PK\x03\x04 and so on", "is a spreadsheet or an archive: save it as csv"),
    (b"\x1f\x8b\x08 and so on", "is packed by gzip: unpack it"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
    (b"id,dialogue,summary,topic,summary\n1,d,s,t,u\n", "has two columns summary: keep one of them"),
    (b"id,dialogue,summary,topic\n1,d,s,t\n2,d,s\n", "line 3: 3 fields where the header has 4: put texts .* a comma"),
    (b'id;dialogue;summary;topic\n1;say "hi";s;t\n2;"say "hi"";s;t\n', "line 3: .* and double quotes inside"),
    (b'id,dialogue,summary,topic\n1,"d,s,t\n', "line [23]: unexpected end of data"),
    (b"1,#Person1#: Hi.,greets,chat\n", "lacks the columns dialogue, summary; it has 1, #Person1#: Hi., greets, chat"),
], ids=["UTF-16 without mark", "cp1252", "xlsx", "gzip", "LFS", "a column twice", "a field too few", "quotes inside",
        "a quote never closed", "no header"])
def test_a_table_that_cannot_be_read_is_named_in_one_line(content, message, tmp_path):
    (tmp_path / "test.csv").write_bytes(content)
    with pytest.raises(dialogues.DataError, match=f"test.csv.*{message}") as error:
        dialogues.load_split(str(tmp_path), "test")
    assert "\n" not in str(error.value)


def test_files_are_found_up_to_capitals_and_long_texts_are_read(tmp_path):
    long = "#Person1#: word\n" * 20_000
    (tmp_path / "TEST.CSV").write_text(f'dialogue,summary\n"{long}",s\n', encoding="utf-8")
    [row] = dialogues.load_split(str(tmp_path), "test").to_dict("records")
    assert row == {"id": "test_0", "dialogue": long.strip(), "summary": "s", "topic": ""}


def test_rows_that_are_repeated_are_left_out_aloud_and_equal_summaries_are_not(tmp_path, capsys):
    (tmp_path / "test.csv").write_text(csv([*ROWS, ROWS[0], ("c", *ROWS[0][1:])]), encoding="utf-8")
    assert dialogues.load_split(str(tmp_path), "test")["id"].tolist() == ["a", "b", "c"]
    assert "1 of 4 rows repeat an earlier row and are left out (a)" in capsys.readouterr().out


def test_pairs_that_teach_nothing_are_left_out_aloud(tmp_path, capsys):
    rows = "dialogue,chosen,rejected\nd,good,bad\nd,,bad\nd,good,good\n,good,bad\ne,better,worse\n"
    (tmp_path / "train.csv").write_text(rows, encoding="utf-8")
    table = dialogues.load_pairs(str(tmp_path), "train")
    assert table["id"].tolist() == ["train_0", "train_4"] and table["dialogue"].tolist() == ["d", "e"]
    said = capsys.readouterr().out
    assert "2 of 5 rows lack a text and are left out (train_1, train_3)" in said
    assert "1 of 3 rows have the same text twice and are left out (train_2)" in said
    (tmp_path / "train.csv").write_text("dialogue,chosen,rejected\nd,same,same\n", encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="train.csv: all 1 rows have the same text twice"):
        dialogues.load_pairs(str(tmp_path), "train")


def task(folder, content: bytes, name: str = "qa"):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "test.jsonl").write_bytes(content)
    return tasks.load_task(name, "test", folder)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", ""], ids=["LF", "CRLF", "blank lines", "no last line end"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tasks_are_read_however_they_were_written(end, encoding, tmp_path):
    lines = '{"input": "é?", "target": "NA", "level": 2}' + (end or "\n") + '{"input": "b", "target": "c"}' + end
    assert task(tmp_path, lines.encode(encoding)) == [{"input": "é?", "target": "NA", "level": 2},
                                                     {"input": "b", "target": "c"}]


@pytest.mark.parametrize("name, line, message", [
    ("qa", '{"input": "a"}', "line 2 lacks target; it has input"), ("qa", "[1]", "line 2: no object in braces"),
    ("qa", '{"input": "a", "target": "b"', "line 2: not JSON"),
    ("qa", '{"input": "a", "target": null}', "line 2: target should be a str, and is null"),
    ("qa", '{"input": "", "target": "b"}', 'line 2: input should be a str, and is ""'),
    ("reply", '{"input": "a", "target": "b"}', "line 2 lacks accepted"),
    ("reply", '{"input": "a", "target": "b", "accepted": "b"}', "line 2: accepted should be a list"),
    ("reply", '{"input": "a", "target": "b", "accepted": ["c"]}', "line 2: no answer could be right"),
    ("code", '{"input": "a", "target": "1 + 1", "expected": "3"}', "line 2: no answer could be right"),
    ("tool_call", '{"input": "a", "target": "b"}', "line 2: no answer could be right"),
    ("labels", '{"input": "a", "target": "b", "labels": ["b"]}', "line 2 lacks instruction, shots"),
    ("qa", "", "no items")])
def test_a_task_that_cannot_be_scored_is_named_in_one_line(name, line, message, tmp_path):
    with pytest.raises(dialogues.DataError, match=f"test.jsonl.*{message}"):
        task(tmp_path, f"\n{line}\n".encode(), name)
    with pytest.raises(dialogues.DataError, match="train.jsonl does not exist; the folder holds: test.jsonl"):
        tasks.load_task(name, "train", tmp_path)


def test_topic_may_be_missing_and_other_columns_stay(tmp_path):
    (tmp_path / "test.csv").write_text("summary,mood,id,dialogue\nS,glad,1,D\n", encoding="utf-8")
    [row] = dialogues.load_split(str(tmp_path), "test").to_dict("records")
    assert row == {"id": "1", "dialogue": "D", "summary": "S", "topic": "", "mood": "glad"}


def test_rows_without_a_summary_are_left_out_aloud(tmp_path, capsys):
    rows = [("s-1", "one", "x", ""), ("s-2", "two", "", ""), ("s-3", "three", "y", ""), ("s-4", "four", "  ", "")]
    (tmp_path / "test.csv").write_text(csv(rows), encoding="utf-8")
    table = dialogues.load_split(str(tmp_path), "test")
    assert table["id"].tolist() == ["s-1", "s-3"] and table.index.tolist() == [0, 1]
    assert "2 of 4 rows have no summary and are left out (s-2, s-4)" in capsys.readouterr().out
    (tmp_path / "test.csv").write_text(csv([r for r in rows if r[0] in ("s-2", "s-4")]), encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="test.csv: no row has a summary"):
        dialogues.load_split(str(tmp_path), "test")


def test_preferences_and_heated_dialogues_go_through_the_same_door(tmp_path):
    (tmp_path / "train.csv").write_text("id,dialogue,good,bad\n1,d,g,b\n", encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="train.csv lacks the columns chosen, rejected; it has id, "):
        dialogues.load_pairs(str(tmp_path), "train")
    with pytest.raises(dialogues.DataError, match="test.csv does not exist; the folder holds: train.csv"):
        dialogues.load_pairs(str(tmp_path), "test")
    (tmp_path / "train.csv").write_text("dialogue;chosen;rejected\nd;c;NA\n", encoding="utf-8")
    assert dialogues.load_pairs(str(tmp_path), "train").to_dict("records") == [
        {"id": "train_0", "dialogue": "d", "chosen": "c", "rejected": "NA"}]
    (tmp_path / "train.csv").write_text(csv(), encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="train.csv lacks the column summary_civil"):
        dialogues.load_split(str(tmp_path), "train", ["summary_civil"])
    (tmp_path / "train.csv").write_text("dialogue,summary,summary_civil\nd,s,\n", encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="train.csv: no row has a summary_civil"):
        dialogues.load_split(str(tmp_path), "train", ["summary_civil"])


def table_of(*texts: str) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"d_{i}" for i in range(len(texts))], "dialogue": texts, "summary": "s"})


def test_dialogues_are_fitted_to_the_window_by_dropping_last_turns(tiny, capsys):
    tokenizer = tiny[1]
    long = "\n".join(f"#Person{i % 2 + 1}#: This is turn number {i}." for i in range(600))
    table = prompts.fit_window(tokenizer, table_of("#Person1#: Hi.", long, "#Person1#: Bye."), window=200)
    short, kept, last = table["dialogue"]
    assert (short, last) == ("#Person1#: Hi.", "#Person1#: Bye.") and long.startswith(kept + "\n")
    more = "\n".join(long.split("\n")[: kept.count("\n") + 2])
    n, too_many = (prompts.count_tokens(tokenizer, prompts.summary_prompt(text)) for text in (kept, more))
    assert n <= 200 < too_many, "as many turns as fit, and no more"
    assert "1 of 3 dialogues pass the window of 200 tokens: their last turns are dropped (d_1)" in (
        capsys.readouterr().out)
    for text, reason in (("word " * 300, "it has no line ends"), ("word " * 300 + "\nshort", "its first turn alone")):
        with pytest.raises(prompts.PromptTooLong, match=f"dialogue d_1 does not fit .*{reason}"):
            prompts.fit_window(tokenizer, table_of("#Person1#: Hi.", text), window=200)


def test_a_meeting_is_fitted_in_a_number_of_looks_that_grows_with_its_logarithm(tiny, monkeypatch):
    looks = []
    count = prompts.count_tokens
    monkeypatch.setattr(prompts, "count_tokens", lambda *given: looks.append(1) or count(*given))
    prompts.fit_window(tiny[1], table_of("\n".join(f"#Person1#: Turn {i}." for i in range(1200))), window=200)
    assert len(looks) < 15


def test_the_ceiling_is_that_of_dialogues_with_several_references():
    ceiling = metrics.reference_ceiling([["a b", "a b"], ["alone"], ["a b", "c d"]])
    assert np.allclose(ceiling, [100, np.nan, 0], equal_nan=True)
    assert np.isnan(metrics.reference_ceiling([["alone"]])).all()


def test_generation_settings_of_a_checkpoint_change_nothing(tiny, tmp_path):
    model, tokenizer = tiny
    asked = [prompts.summary_prompt(f"#Person1#: Shall we meet on {day}?") for day in ("Monday", "Friday")]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = ('{"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "num_beams": 4, "min_length": 30, '
                '"no_repeat_ngram_size": 2, "temperature": 0.3, "do_sample": true, "top_k": 5, "max_length": 20, '
                '"repetition_penalty": 2.0, "length_penalty": 2.0, "forced_bos_token_id": 5}')
    (tmp_path / "generation_config.json").write_text(settings, encoding="utf-8")
    other, _ = models.load_model(str(tmp_path))
    for options in ({}, {"do_sample": True, "seed": 3}):
        texts = [generation.generate(m, tokenizer, asked, **options) for m in (model, other)]
        assert texts[0] == texts[1]
    asked = [tokenizer(text)["input_ids"] for text in asked]
    uniform = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    drawn = [rollouts.rollout(m, tokenizer, asked, max_new_tokens=12, uniform=uniform)[1] for m in (model, other)]
    assert drawn[0] == drawn[1]
    other.save_pretrained(tmp_path / "again")  # transformers refuses settings that contradict one another


def test_a_graphics_card_without_kernels_leaves_the_work_to_the_cpu(monkeypatch):
    monkeypatch.delenv("LAB_DEVICE", raising=False)
    for name, value in (("is_available", True), ("is_bf16_supported", False), ("get_device_name", "an old card"),
                        ("get_arch_list", ["sm_75", "sm_80", "sm_90a"])):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    for capability, device in (((6, 0), "cpu"), ((7, 5), "cuda"), ((12, 0), "cuda")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, found=capability: found)
        where, _, why = profile.choose_device()
        assert where.type == device and ("compute capability 6.0" in why) == (device == "cpu")


@pytest.mark.parametrize("variables", [pytest.param({"PMI_SIZE": "4"}, marks=pytest.mark.slow),
                                       {"WORLD_SIZE": "4", "RANK": "0"}])
def test_variables_of_a_batch_system_stop_no_training(variables):
    code = ("from utils import dialogues, models, training\n"
            "model, tokenizer = models.load_model('data/models/tiny')\n"
            "pairs = training.summary_pairs(dialogues.load_split('data/dialogues', 'train'), 4)\n"
            "settings = {'epochs': 1, 'learning_rate': 1e-4, 'batch': 4}\n"
            "print(training.fine_tune(model, tokenizer, pairs, settings).steps)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=profile.ROOT,
                          env={**os.environ, **variables})
    assert done.stdout.strip().endswith("1"), done.stderr[-1000:]


def run(code: str, folder=profile.ROOT, **variables):
    """Runs Python code in a folder with more environment variables; those that are None are taken away."""
    env = {k: v for k, v in {**os.environ, "PYTHONPATH": str(profile.ROOT), **variables}.items() if v is not None}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=env)


@pytest.mark.parametrize("encoding", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("cp932", "cp874")),
                                      "ascii"])
def test_a_lab_begins_on_a_console_of_any_encoding(encoding):
    done = subprocess.run([sys.executable, "-c", "from utils.profile import start; start()"], capture_output=True,
                          cwd=profile.ROOT, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and done.stdout.startswith(b"profile "), done.stderr[-500:]


SCORE = "from utils import metrics; print(metrics.rouge1(['a boat sails'], [['a boat sails']]))"


def test_rouge_writes_nothing_below_the_hubs_home(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(SCORE, HF_HOME=str(tmp_path / "file" / "below"))  # where not even root can write
    assert done.stdout == "[100.]\n", done.stderr[-500:]


@pytest.mark.parametrize("variable, below", [("LAB_OUT", ""), ("LAB_OUT", "tiny/claims"), ("LAB_CHECKPOINTS", "")])
def test_a_folder_that_takes_nothing_is_named_at_the_start(variable, below, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_OUT", str(tmp_path / "out"))
    monkeypatch.delenv("LAB_CHECKPOINTS", raising=False)
    assert profile.folder_faults(profile.load_profile("tiny")) == []
    assert not (tmp_path / "out").exists(), "trying leaves nothing behind"
    place = tmp_path / "place" / below
    place.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv(variable, str(tmp_path / "place"))
    for make in (lambda: place.write_text(""), lambda: place.symlink_to(tmp_path / "gone")):
        make()
        faults = profile.folder_faults(profile.load_profile("tiny"))
        assert faults and str(place) in faults[0] and f"nothing can be written: set {variable}" in faults[0]
        place.unlink()


def test_a_home_folder_and_dots_in_a_profile_are_places(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    lines = '[mine]\nmodel = "~/models/mine"\ndialogues = "./mine"\njudge = "../judge"\nwritten = "~"\n'
    (tmp_path / "own.toml").write_text(lines, encoding="utf-8")
    monkeypatch.setenv("LAB_PROFILES", "~/own.toml")
    monkeypatch.setenv("LAB_OUT", "~/results")
    mine = profile.load_profile("mine")
    assert Path(mine.model) == tmp_path / "models" / "mine"
    assert (mine.dialogues, mine.judge) == (str(profile.ROOT / "mine"), str(profile.ROOT.parent / "judge"))
    assert mine.written == "~" and mine.out == tmp_path / "results" / "mine"
    monkeypatch.setenv("LAB_PROFILE", " mine ")
    assert profile.load_profile().name == "mine"


@pytest.mark.parametrize("value, kind", [("CPU ", "cpu"), ("cuda", None), ("gpu:1", None)])
def test_lab_device_is_cpu_or_named_as_unknown(value, kind, monkeypatch):
    monkeypatch.setenv("LAB_DEVICE", value)
    if kind:
        assert profile.choose_device()[0].type == kind
    else:
        with pytest.raises(profile.SetupError, match=f"LAB_DEVICE={value} is not known: cpu leaves a GPU alone"):
            profile.choose_device()


@pytest.mark.parametrize("variable, value, part", [
    ("ALL_PROXY", "socks5h://127.0.0.1:9", "httpx[socks]"), ("HTTPS_PROXY", "proxy.example:port", "HTTPS_PROXY"),
    ("SSL_CERT_FILE", "/no/such/file.pem", "SSL_CERT_FILE")])
def test_a_proxy_that_stops_jupyterlab_is_a_fault(variable, value, part, monkeypatch):
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert check.proxy_fault() == ""
    monkeypatch.setenv(variable, value)
    fault = check.proxy_fault()
    assert part in fault and variable in fault and "\n" not in fault


def test_a_backend_that_matplotlib_does_not_know_is_a_fault():
    code = "from utils.course.check import backend_fault; print(backend_fault())"
    assert "MPLBACKEND=nonsense (" in run(code, MPLBACKEND="nonsense").stdout
    assert run(code, MPLBACKEND="Agg").stdout == "\n"


@pytest.mark.parametrize("backend", ["Agg", "nonsense"])
def test_a_lab_that_is_run_has_its_figures_whatever_mplbackend_says(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", backend)
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    source = "from matplotlib import pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, tmp_path / "07_probe.ipynb")
    labs.execute(tmp_path / "07_probe.ipynb", tmp_path / "out" / "tiny", lambda text: None)
    outputs = nbformat.read(tmp_path / "out" / "tiny" / "07_probe.ipynb", 4).cells[0].outputs
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1


def test_a_notebook_that_git_left_in_conflict_is_named_in_one_line(tmp_path):
    path = tmp_path / "07_probe.ipynb"
    path.write_text('{"cells": [],\n<<<<<<< HEAD\n"metadata": {}}', encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="07_probe.ipynb is not a notebook .git left marks .* in line 2"):
        labs.read_notebook(path)
    path.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', encoding="utf-8-sig")
    assert labs.read_notebook(path).cells == []


def test_claims_that_are_damaged_are_named(tmp_path):
    (tmp_path / "01.json").write_text('[{"lab": 1', encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="01.json is no JSON"):
        claims.read_claims(tmp_path / "01.json")


def own_profile(folder, **values):
    """The profile tiny with other values, as start() hands it to a lab."""
    mine = profile.load_profile("tiny")
    vars(mine).update(device="cpu", dtype=torch.float32, **values)
    return mine


@pytest.mark.parametrize("lab, entry, change, message", [
    (2, "dialogues", {}, "has 1 dialogues in train.csv, and profile tiny asks for 2000"),
    (1, "dialogues", {"shots": [0, 3]}, "asks for (3|2000):"),
    (3, "heated", {}, "lacks the column summary_civil"),
    (3, "preferences", {}, "lacks the columns chosen, rejected")])
def test_a_lab_is_stopped_at_its_start_by_what_it_would_stop_at_later(lab, entry, change, message, tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text("id,dialogue,summary\n1,d,s\n", encoding="utf-8")
    mine = own_profile(tmp_path, **{entry: str(tmp_path)}, **change)
    with pytest.raises(dialogues.DataError, match=message):
        needs.require(mine, lab)
    assert any(re.search(message, fault) for fault in needs.find_faults(mine))


def test_what_a_lab_will_shorten_is_said_before_it_runs(tmp_path, capsys):
    for split in ("train", "validation", "test"):
        rows = [f"{split}_{i},#Person1#: word word {i},s" for i in range(9)]
        rows[3] = f'{split}_3,"{chr(10).join(["#Person1#: one two three"] * 300)}",s'
        (tmp_path / f"{split}.csv").write_text("\n".join(["id,dialogue,summary", *rows]), encoding="utf-8")
    needs.tell(own_profile(tmp_path, dialogues=str(tmp_path), shots=[0, 1]), [1])
    said = capsys.readouterr().out
    assert "1 of 9 dialogues pass the window of 768 tokens: their last turns are dropped (test_3)" in said
