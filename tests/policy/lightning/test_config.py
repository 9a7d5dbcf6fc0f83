import pytest

from cispo.errors import ConfigError
from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig


def _fields(lightning):
    return lightning.config().to_dict()


def test_a_config_survives_its_own_file_form(lightning):
    config = lightning.config()
    assert LightningConfig.from_dict(config.to_dict()) == config


def test_both_spellings_of_a_field_are_read(lightning):
    fields = _fields(lightning)
    assert fields["attn_type_list"] == [0, 1, 0, 0]
    fields.pop("attn_type_list")
    fields["layer_types"] = [FULL, LINEAR, LINEAR, LINEAR]
    fields["mlp_alpha_factor"] = fields.pop("layernorm_mlp_alpha")
    config = LightningConfig.from_dict(fields)
    assert config.layer_types == (FULL, LINEAR, LINEAR, LINEAR)
    assert config.mlp_alpha_factor == 1.5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hiden_size", 3, "hiden_size=3"),
        ("rotary_dim", 18, "rotary_dim=18"),
        ("rotary_dim", 7, "rotary_dim=7"),
        ("num_key_value_heads", 3, "num_key_value_heads=3"),
        ("attn_type_list", [0, 1], "num_hidden_layers=4"),
        ("num_experts_per_tok", 4, "num_local_experts=3"),
        ("postnorm", False, "postnorm=False"),
        ("hidden_size", 0, "hidden_size=0"),
    ],
)
def test_a_bad_field_is_refused_by_name(lightning, key, value, message):
    with pytest.raises(ConfigError, match=message):
        LightningConfig.from_dict({**_fields(lightning), key: value})


def test_a_missing_field_is_named(lightning):
    fields = _fields(lightning)
    del fields["rotary_dim"]
    with pytest.raises(ConfigError, match="rotary_dim"):
        LightningConfig.from_dict(fields)
