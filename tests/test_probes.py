"""Looking inside the bundled model: attention maps, heads switched off, the tokens of a name."""

import copy

import numpy as np
import pytest
import torch

from utils import probes, training

PAIRS = [("Summarize the conversation.\n\n#Person1#: Is it far?\n#Person2#: No.\nSummary:", "#Person1# asks the way."),
         ("Translate English to French.\n\nNora likes salad.\nAnswer:", "Nora aime la salade.")]


def inputs_of(tokenizer):
    batch = training.collate(training.encode(tokenizer, PAIRS))
    return batch, {k: batch[k] for k in ("input_ids", "attention_mask")}


def test_maps_are_distributions_and_the_decoder_never_looks_ahead(tiny):
    model, tokenizer = tiny
    batch, inputs = inputs_of(tokenizer)
    maps = probes.attention_maps(model, inputs, batch["decoder_input_ids"])
    n, m, layers, heads = batch["labels"].shape[1], batch["input_ids"].shape[1], 3, 4
    assert {k: tuple(v.shape) for k, v in maps.items()} == {
        "encoder": (2, layers, heads, m, m), "decoder": (2, layers, heads, n, n), "cross": (2, layers, heads, n, m)}
    for a in maps.values():
        assert torch.allclose(a.sum(-1), torch.ones(()), atol=1e-5)
    assert maps["decoder"].triu(1).abs().max() == 0
    pads = batch["attention_mask"][1] == 0
    assert pads.any() and maps["cross"][1][..., pads].max() == 0


def test_maps_need_eager_attention(tiny):
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    model.set_attn_implementation("sdpa")
    batch, inputs = inputs_of(tokenizer)
    with pytest.raises(ValueError, match='load it with attention="eager"'):
        probes.attention_maps(model, inputs, batch["decoder_input_ids"])


def test_a_head_that_is_off_writes_nothing_and_comes_back(tiny):
    """Compared with the head's part of the layer's output, computed from its attention map."""
    model, tokenizer = tiny
    batch, _ = inputs_of(tokenizer)
    before, outputs = copy.deepcopy(model.state_dict()), []
    layer = model.decoder.block[0].layer[1].EncDecAttention
    watch = layer.register_forward_hook(lambda *seen: outputs.append((seen[3], seen[2])), with_kwargs=True)
    with torch.inference_mode():
        model(**batch)
        with probes.without_heads(model, [(0, 2)]):
            model(**batch)
    watch.remove()
    (on, kwargs), (off, _) = outputs
    with torch.inference_mode():
        value = layer.v(kwargs["key_value_states"]).unflatten(-1, (4, 64))[:, :, 2]           # [batch, read, 64]
        written = on[2][:, 2] @ value @ before["decoder.block.0.layer.1.EncDecAttention.o.weight"][:, 128:192].T
    assert written.abs().max() > 0.01 and torch.allclose(on[0] - off[0], written, atol=1e-4)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_heads_come_back_after_an_error_and_a_wrong_head_is_named(tiny):
    before = tiny[0].decoder.block[2].layer[1].EncDecAttention.o.weight.clone()
    with pytest.raises(IndexError, match="layer 2 has heads 0 to 3, not 4"):
        with probes.without_heads(tiny[0], [(2, 1), (2, 4)]):
            pass
    assert torch.equal(before, tiny[0].decoder.block[2].layer[1].EncDecAttention.o.weight)


def test_the_same_head_twice_comes_back(tiny):
    before = tiny[0].decoder.block[1].layer[1].EncDecAttention.o.weight.clone()
    with probes.without_heads(tiny[0], [(1, 1), (1, 1)]):
        pass
    assert torch.equal(before, tiny[0].decoder.block[1].layer[1].EncDecAttention.o.weight)


def test_tokens_of_a_span(tiny):
    text = "Then #Person1# left."
    coded = tiny[1](text, return_offsets_mapping=True)
    here = probes.tokens_of(coded["offset_mapping"], [(5, 14)])
    tokens = np.array(tiny[1].convert_ids_to_tokens(coded["input_ids"]))
    assert "".join(tokens[here.numpy()]).strip() == "#Person1#" and not here[-1], "the end token is no name"
    assert not probes.tokens_of(coded["offset_mapping"], []).any()


def test_token_nats_are_the_loss_and_silence_changes_them(tiny):
    model, tokenizer = tiny
    plain, silent = probes.token_nats(model, tokenizer, PAIRS, [[], [(2, 1), (2, 2)]])
    labels = [len(r["labels"]) for r in training.encode(tokenizer, PAIRS)]
    assert [len(a) for a in plain] == labels
    assert np.isclose(np.concatenate(plain).mean(), training.mean_loss(model, tokenizer, PAIRS), atol=1e-5)
    with probes.without_heads(model, [(2, 1), (2, 2)]):
        [expected] = probes.token_nats(model, tokenizer, PAIRS)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(silent, expected, strict=True))
    assert max(np.abs(a - b).max() for a, b in zip(silent, plain, strict=True)) > 1e-3
