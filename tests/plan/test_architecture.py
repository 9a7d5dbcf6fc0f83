import json
from pathlib import Path

import pytest
import yaml

from cispo.errors import ConfigError
from cispo.plan.published import M1, QWEN3_235B, R1
from cispo.plan.reading import read_architecture

ROOT = Path(__file__).parents[2]

LLAMA = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
"""SmolLM2-135M."""

QWEN = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""Qwen2.5-0.5B."""

TINY = {
    "vocab_size": 10,
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 3,
    "layer_types": ["linear_attention", "full_attention"],
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}


def test_m1_has_the_published_numbers_of_parameters() -> None:
    assert M1.parameters == 456_089_655_296
    assert round(M1.active_parameters / 1e9, 2) == 45.94
    assert round(M1.active_parameters_with_head / 1e9, 2) == 47.17
    assert M1.num_layers == 80
    assert M1.num_lightning_layers == 70


def test_m1s_weights_take_the_bytes_that_its_checkpoint_names() -> None:
    assert M1.weight_bytes(2) == 912_210_767_872  # total_size of model.safetensors.index.json


def test_r1_and_qwen3_have_their_published_numbers() -> None:
    assert round(R1.parameters / 1e9) == 671
    # The reference counts matrices and routers, and no norms.
    assert round((R1.matrices() + R1.router_parameters) / 1e9, 2) == 36.62
    assert QWEN3_235B.parameters == 235_093_634_560


def test_caches_of_m1_are_those_of_its_shapes() -> None:
    assert M1.state_bytes() == 280 * 2**20  # 70 layers x 64 heads x 128^2 x 4 bytes
    assert M1.cache_bytes_per_token(2) == 40_960  # 10 layers x 2 x 8 heads x 128 x 2 bytes


def test_the_shipped_policy_is_m1() -> None:
    shipped = yaml.safe_load((ROOT / "conf/policy/minimax_m1.yaml").read_text())
    read = read_architecture(shipped["architecture"], where="policy.architecture")
    assert read.blocks == M1.blocks
    assert read.parameters == M1.parameters


def test_a_tiny_hybrid_is_counted_by_hand() -> None:
    d, inner, key = 4, 6, 3
    lightning = d * 3 * inner + d * inner + inner * d + inner  # qkv, gate, out, inner norm
    softmax = d * inner + 2 * d * key + inner * d
    experts = 2 * 3 * d * 6 + 2 * d  # two experts and their router
    whole = lightning + softmax + 2 * (experts + 2 * d) + d + 2 * 10 * d
    read = read_architecture(TINY, where="here")
    assert read.parameters == whole
    assert read.active_parameters == whole - 2 * (3 * d * 6) - 2 * 10 * d


def test_softmax_models_have_the_sizes_of_their_checkpoints() -> None:
    assert read_architecture(LLAMA, where="smol").parameters == 134_515_008
    assert read_architecture(QWEN, where="qwen").parameters == 494_032_768


def test_released_and_own_names_of_layers_mean_the_same() -> None:
    released = {k: v for k, v in TINY.items() if k != "layer_types"} | {"attn_type_list": [0, 1]}
    assert read_architecture(released, where="a") == read_architecture(TINY, where="a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "model_type=gpt2"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": 0}, "hidden_size=0"),
        ({"hidden_size": "4"}, "hidden_size=4"),
        ({"layer_types": None}, "lacks layer_types"),
        ({"layer_types": ["full_attention"]}, "1 entries for 2 layers"),
        ({"num_experts_per_tok": None}, "lacks num_experts_per_tok"),
    ],
)
def test_an_architecture_that_cannot_be_read_is_refused(
    change: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read_architecture({**TINY, **change}, where="here")


def test_a_step_of_many_tokens_meets_all_experts() -> None:
    feed = M1.blocks[0].feed_forward
    assert feed.touched_experts(1) == pytest.approx(2)
    assert feed.touched_experts(2) == pytest.approx(2 + 2 * 30 / 32)
    assert feed.touched_experts(1000) == pytest.approx(32)


def test_the_reading_agrees_with_the_model_itself() -> None:
    torch = pytest.importorskip("torch")
    from cispo.policy.lightning.config import LightningConfig
    from cispo.policy.lightning.model import LightningModel

    fields = {**TINY, "head_dim": 4, "rotary_dim": 2}
    with torch.device("meta"):
        model = LightningModel(LightningConfig.from_dict(fields), kernels="torch")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert read_architecture(json.loads(json.dumps(fields)), where="here").parameters == count
