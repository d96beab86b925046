"""What users bring: tables as spreadsheets and chat exports write them, long dialogues, settings of other models."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from utils import dialogues, generation, metrics, models, profile, prompts

ROWS = [("a", "#Person1#: Well, well, the key, please.\n#Person2#: Here.", "#Person1# asks, politely.", "mill"),
        ("b", "#Person1#: Shut the gate; now.\n#Person2#: Yes.", "The gate is shut.", "geese")]


def csv(rows=ROWS, separator=",", end="\n", columns=("id", "dialogue", "summary", "topic")) -> str:
    quoted = [[f'"{value}"' for value in row[: len(columns)]] for row in rows]
    return end.join([separator.join(columns), *(separator.join(row) for row in quoted)]).replace("\n", end) + end


@pytest.mark.parametrize("content", [
    csv().encode(), csv(separator=";").encode(), csv(separator="\t").encode(), csv(end="\r\n").encode(),
    csv(end="\r").encode(), csv().encode("utf-8-sig"), csv(separator=";").encode("utf-16"),
    ("\n" + csv(columns=(" id", "dialogue ", "summary", "topic"))).encode(), (csv() + "\n\n").encode()],
    ids=["plain", "semicolons", "tabs", "CRLF", "CR", "BOM", "UTF-16", "blanks in the header", "blank lines"])
def test_a_table_is_read_however_it_was_written(content, tmp_path):
    (tmp_path / "test.csv").write_bytes(content)
    table = dialogues.load_split(str(tmp_path), "test")
    assert list(table[["id", "dialogue", "summary", "topic"]].itertuples(index=False, name=None)) == ROWS
    assert dialogues.lead(table["dialogue"][0], 1) == "#Person1#: Well, well, the key, please."


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
        {"dialogue": "d", "chosen": "c", "rejected": "NA"}]
    (tmp_path / "train.csv").write_text(csv(), encoding="utf-8")
    with pytest.raises(dialogues.DataError, match="train.csv lacks the column summary_civil"):
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
    assert "1 of 3 dialogues pass the window of 200 tokens" in capsys.readouterr().out
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


@pytest.mark.parametrize("variables", [{"PMI_SIZE": "4"}, {"WORLD_SIZE": "4", "RANK": "0"}])
def test_variables_of_a_batch_system_stop_no_training(variables):
    code = ("from utils import dialogues, models, training\n"
            "model, tokenizer = models.load_model('data/models/tiny')\n"
            "pairs = training.summary_pairs(dialogues.load_split('data/dialogues', 'train'), 4)\n"
            "settings = {'epochs': 1, 'learning_rate': 1e-4, 'batch': 4}\n"
            "print(training.fine_tune(model, tokenizer, pairs, settings).steps)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=profile.ROOT,
                          env={**os.environ, **variables})
    assert done.stdout.strip().endswith("1"), done.stderr[-1000:]


@pytest.mark.parametrize("encoding", ["cp932", "cp874", "ascii"])
def test_a_lab_begins_on_a_console_of_any_encoding(encoding):
    done = subprocess.run([sys.executable, "-c", "from utils.profile import start; start()"], capture_output=True,
                          cwd=profile.ROOT, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and done.stdout.startswith(b"profile "), done.stderr[-500:]
