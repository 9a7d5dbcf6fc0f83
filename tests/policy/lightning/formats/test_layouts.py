"""Names and sizes of the released M1 in each layout, against what was published of it."""

import math

import pytest

from cispo.errors import ConfigError
from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.formats.layouts import Layout, detect_layout, stored_tensors

M1 = LightningConfig(
    vocab_size=200064,
    hidden_size=6144,
    intermediate_size=9216,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=128,
    layer_types=((LINEAR,) * 7 + (FULL,)) * 10,
    rotary_dim=64,
    num_local_experts=32,
    num_experts_per_tok=2,
    block_size=256,
)


def is_weight(tensor):
    return not tensor.name.endswith(("_decay", "slope_rate"))


@pytest.mark.parametrize("layout", Layout)
def test_the_released_model_has_456_billion_weights(layout):
    sizes = [math.prod(t.shape) for t in stored_tensors(M1, layout) if is_weight(t)]
    assert round(sum(sizes) / 1e9) == 456


@pytest.mark.parametrize(
    ("layout", "tensors_of_experts", "buffers"),
    [
        (Layout.RELEASED, 1 + 32 * 3, 0),
        (Layout.TRANSFORMERS4, 1 + 32 * 3, 4),
        (Layout.TRANSFORMERS5, 3, 4),
    ],
)
def test_a_layer_has_as_many_tensors_as_published(layout, tensors_of_experts, buffers):
    tensors = list(stored_tensors(M1, layout))
    # two norms and four projections in either kind of layer; embedding, last norm and head
    layers = 80 * (2 + 4 + tensors_of_experts) + 70 * buffers
    assert len(tensors) == layers + 3
    assert len({tensor.name for tensor in tensors}) == len(tensors)


def test_all_layouts_hold_the_same_numbers():
    released = {p for t in stored_tensors(M1, Layout.RELEASED) for p in t.parts}
    for layout in (Layout.TRANSFORMERS4, Layout.TRANSFORMERS5):
        parts = [p for t in stored_tensors(M1, layout) if is_weight(t) for p in t.parts]
        assert set(parts) == released
        assert len(parts) == len(released)


def test_names_of_one_layout_beside_the_config_of_another_are_refused():
    names = ["model.norm.weight", "model.layers.0.mlp.experts.down_proj"]
    assert detect_layout(names, is_native=True, where="folder") == Layout.TRANSFORMERS5
    with pytest.raises(ConfigError, match=r"folder: .*down_proj is a name of transformers"):
        detect_layout(names, is_native=False, where="folder")
    names = ["model.norm.weight", "model.layers.0.self_attn.slope_rate"]
    assert detect_layout(names, is_native=True, where="folder") == Layout.TRANSFORMERS4
    with pytest.raises(ConfigError, match="slope_rate is a name of transformers"):
        detect_layout(names, is_native=False, where="folder")
