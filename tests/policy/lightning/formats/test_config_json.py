"""What config.json leaves open is refused with what to set."""

import json

import pytest

from cispo.errors import ConfigError
from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.formats.config_json import config_fields, read_config
from cispo.policy.lightning.formats.layouts import Layout

PLACE = "folder/config.json"


@pytest.fixture
def native(folders):
    return json.loads(folders.network().config.to_json_string())


@pytest.fixture
def released(lightning):
    return config_fields(lightning.config(), Layout.RELEASED, dtype="float32", source={})


def read(fields):
    return read_config({k: v for k, v in fields.items() if v != "absent"}, where=PLACE)


def test_the_released_m1_is_read_as_published():
    # the fields of MiniMax-M1's config.json
    alpha = 3.5565588200778455
    config = read(
        {
            "architectures": ["MiniMaxM1ForCausalLM"],
            "attention_dropout": 0.0,
            "attn_type_list": [int(layer % 8 == 7) for layer in range(80)],
            "auto_map": {"AutoConfig": "configuration_minimax_m1.MiniMaxM1Config"},
            "bos_token_id": None,
            "eos_token_id": None,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 6144,
            "initializer_range": 0.02,
            "intermediate_size": 9216,
            "layernorm_full_attention_alpha": alpha,
            "layernorm_full_attention_beta": 1.0,
            "layernorm_linear_attention_alpha": alpha,
            "layernorm_linear_attention_beta": 1.0,
            "layernorm_mlp_alpha": alpha,
            "layernorm_mlp_beta": 1.0,
            "max_position_embeddings": 10240000,
            "model_type": "minimax_m1",
            "num_attention_heads": 64,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 80,
            "num_key_value_heads": 8,
            "num_local_experts": 32,
            "output_router_logits": False,
            "postnorm": True,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000000,
            "rotary_dim": 64,
            "router_aux_loss_coef": 0.001,
            "router_jitter_noise": 0.0,
            "shared_intermediate_size": 0,
            "shared_moe_mode": "sigmoid",
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.45.2",
            "use_cache": True,
            "vocab_size": 200064,
        }
    )
    assert config.rotary_dim == 64
    assert config.rope_theta == 1e7
    assert config.layer_types[:8] == (LINEAR,) * 7 + (FULL,)
    assert (config.full_attn_alpha_factor, config.mlp_beta_factor) == (alpha, 1.0)


def test_both_released_types_and_transformers_type_are_read(released, native):
    assert read({**released, "model_type": "minimax_text_01"}) == read(released)
    config = read(native)
    assert config.rotary_dim == config.head_dim == 8
    assert config.rope_theta == 5000.0
    assert config.layer_types == (LINEAR, FULL, LINEAR)


def test_a_head_size_that_transformers_works_out_is_worked_out(native):
    assert read({**native, "head_dim": None}).head_dim == 32 // 4


@pytest.mark.parametrize("layout", Layout)
def test_a_config_survives_every_layout(lightning, layout):
    config = lightning.config(rotary_dim=4, rope_theta=777.0, max_position_embeddings=4096)
    fields = config_fields(config, layout, dtype="float32", source={})
    assert read(json.loads(json.dumps(fields))) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rotary_dim": "absent"}, "rotary_dim is missing.*set it"),
        ({"rotary_dim": "absent", "partial_rotary_factor": 0.5}, "rotary_dim is missing.*set it"),
        ({"partial_rotary_factor": 1.0}, "rotary_dim makes 8, partial_rotary_factor makes 16"),
        ({"rope_theta": "absent"}, "rope_theta is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type=linear"),
        ({"rotary_dim": 18}, "rotary_dim=18: must be even"),
        ({"head_dim": "absent"}, "lacks head_dim"),
        ({"hidden_size": None}, "hidden_size=None"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"layer_types": [LINEAR] * 4}, "layer_types=.*contradict"),
        ({"model_type": "llama"}, "model_type=llama.*policy.backend=transformers"),
        ({"model_type": "absent"}, "model_type=None"),
    ],
)
def test_a_released_config_that_leaves_something_open_is_refused(released, changes, words):
    with pytest.raises(ConfigError, match=f"^{PLACE}.*{words}"):
        read({**released, **changes})


def test_two_fields_that_agree_are_no_contradiction(released, native):
    twice = {
        **released,
        "partial_rotary_factor": 0.5,
        "layer_types": [LINEAR, FULL, LINEAR, LINEAR],
    }
    assert read(twice) == read(released)
    assert read({**native, "rotary_dim": 8, "rope_theta": 5000.0}) == read(native)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rotary_dim": 4}, "rotary_dim makes 4 .*set cispo_rotary_dim=4 .* or 8"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor makes 4 .*set cispo_rotary_dim=4"),
        (
            {
                "rope_parameters": {
                    "rope_theta": 5000.0, "rope_type": "default", "partial_rotary_factor": 0.5
                }
            },
            "rope_parameters.partial_rotary_factor makes 4 ",
        ),
        (
            {"_name_or_path": "MiniMaxAI/MiniMax-M1-40k-hf"},
            "rotates 64 of 128.*cispo_rotary_dim=64",
        ),
        (
            {"hidden_size": 6144, "num_hidden_layers": 80, "head_dim": 128},
            "rotates 64 of 128.*cispo_rotary_dim=64",
        ),
        ({"rope_theta": 777.0}, "rope_theta=777.0, but rope_parameters.rope_theta=5000.0"),
        ({"rope_parameters": "absent"}, "rope_theta is missing"),
        (
            {"rope_parameters": {"rope_theta": 5000.0, "rope_type": "yarn", "factor": 4.0}},
            "rope_type=yarn",
        ),
        ({"layer_types": "absent"}, "layer_types is missing.*default"),
        ({"block_size": "absent"}, "block_size is missing.*default"),
        ({"num_local_experts": "absent"}, "num_local_experts is missing.*default"),
    ],
)  # fmt: skip
def test_a_config_of_transformers_that_leaves_something_open_is_refused(native, changes, words):
    with pytest.raises(ConfigError, match=f"^{PLACE}: .*{words}"):
        read({**native, **changes})


@pytest.mark.parametrize("dims", [4, 8])
def test_our_own_field_says_what_the_weights_expect(native, dims):
    open_fields = {**native, "rotary_dim": 4, "_name_or_path": "MiniMaxAI/MiniMax-M1-40k-hf"}
    assert read({**open_fields, "cispo_rotary_dim": dims}).rotary_dim == dims


def test_the_rotary_base_of_version_four_is_read(native):
    config = read({**native, "rope_parameters": "absent", "rope_theta": 777})
    assert config.rope_theta == 777.0
