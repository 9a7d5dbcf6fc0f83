"""Logits of models that go to transformers and come from there, with rotary over the whole head."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from cispo.policy.lightning.checkpoint import load_lightning, save_lightning
from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.formats.convert import write_model
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.stored import open_model

SHAPES = {
    "experts": {},
    "dense": {"num_local_experts": 1, "num_experts_per_tok": 1},
    "tied": {"tie_word_embeddings": True},
    "linear_only": {"layer_types": [LINEAR, LINEAR], "num_hidden_layers": 2},
    "softmax_only": {"layer_types": [FULL, FULL], "num_hidden_layers": 2},
    "odd_heads": {"num_attention_heads": 6, "num_key_value_heads": 3},
    "one_layer": {"layer_types": [LINEAR], "num_hidden_layers": 1},
}


def our_logits(folder, ids):
    model = load_lightning(folder, dtype=torch.float32, logprob_chunk=16)
    with torch.no_grad():
        hidden, _ = model.hidden(ids, torch.tensor([0, len(ids)], dtype=torch.int32))
        return hidden @ model.lm_head.weight.T


def their_logits(network, ids):
    with torch.no_grad():
        return network(ids.unsqueeze(0), use_cache=False).logits[0]


def loud(model):
    """Make its logits about as large as a trained model's."""
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)
    return model


def check_equal(ours, theirs):
    assert float(theirs.std()) > 0.5  # so that 1e-4 says something
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.fixture
def ids():
    return torch.randint(0, 64, (75,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", [None, Layout.TRANSFORMERS5])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_of_transformers_has_the_same_logits_here(folders, tmp_path, ids, shape, layout):
    network = folders.network(**SHAPES[shape])
    folder = tmp_path / "theirs"
    network.save_pretrained(folder)
    if layout is not None:
        model = open_model(folder)
        folder = tmp_path / "fused"
        folder.mkdir()
        write_model(folder, model.config, model.parts, layout=layout)
    check_equal(our_logits(folder, ids), their_logits(network, ids))


@pytest.mark.parametrize("layout", [Layout.TRANSFORMERS4, Layout.TRANSFORMERS5])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_of_ours_has_the_same_logits_in_transformers(
    lightning, tmp_path, ids, shape, layout
):
    changes = {"layer_types": (LINEAR, FULL, LINEAR, LINEAR), **SHAPES[shape]}
    model = loud(lightning.model(rotary_dim=16, **changes))
    save_lightning(model, tmp_path / "ours", layout=layout)
    network, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    problems = {kind: found for kind, found in report.items() if found}
    if shape == "tied":
        problems.pop("missing_keys", None)
    assert problems == {}
    check_equal(our_logits(tmp_path / "ours", ids), their_logits(network, ids))


def test_stored_slopes_decide_in_transformers_too(lightning, tmp_path):
    # the last layer's slope is twice as large by transformers' own rule
    ids = torch.randint(0, 96, (4000,), generator=torch.Generator().manual_seed(1))
    model = lightning.model(
        rotary_dim=16, num_hidden_layers=2, layer_types=(FULL, LINEAR), num_attention_heads=8
    )
    loud(model)
    save_lightning(model, tmp_path, layout=Layout.TRANSFORMERS5)
    network = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = their_logits(network, ids)
    check_equal(our_logits(tmp_path, ids), theirs)
    attention = network.model.layers[1].self_attn
    attention.slope_rate.mul_(2.0)
    decays = attention.decay_factors(attention.slope_rate)
    names = ("query_decay", "key_decay", "diagonal_decay")
    for name, decay in zip(names, decays, strict=True):
        getattr(attention, name).copy_(decay)
    assert float((their_logits(network, ids) - theirs).abs().max()) > 1e-3


def test_half_of_a_head_rotated_is_another_model_in_transformers(lightning, tmp_path, ids):
    model = loud(lightning.model())
    save_lightning(model, tmp_path, layout=Layout.TRANSFORMERS5, allow_other_logits=True)
    network = AutoModelForCausalLM.from_pretrained(tmp_path)
    gap = (our_logits(tmp_path, ids) - their_logits(network, ids)).abs().max()
    assert float(gap) > 0.01
    config = json.loads((tmp_path / "config.json").read_text())
    config["cispo_rotary_dim"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_equal(our_logits(tmp_path, ids), their_logits(network, ids))
