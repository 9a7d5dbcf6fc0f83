"""What config.json says in either family of layouts, and which of it must not be guessed."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cispo.errors import ConfigError
from cispo.policy.lightning.config import FULL, MODEL_TYPE, LightningConfig
from cispo.policy.lightning.decay import RELEASED
from cispo.policy.lightning.formats.derived import do_slopes_differ
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.rotation_fields import (
    ROTARY_KEY,
    ROTATION_FIELDS,
    rope_theta,
    rotary_dim,
)

NATIVE_TYPE = "minimax"
MODEL_TYPES = (MODEL_TYPE, "minimax_text_01", NATIVE_TYPE)

_NATIVE_DEFAULTS = ("layer_types", "block_size", "num_local_experts", "num_experts_per_tok")
"""Fields for which transformers has defaults that nobody would expect; they must be written out."""

_CARRIED = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "use_cache",
    "attention_dropout",
    "output_router_logits",
    "router_jitter_noise",
)
_CARRIED_RELEASED = ("architectures", "model_type", "auto_map", "shared_moe_mode")
"""Fields that mean nothing to us and are kept, in any layout or in the released one."""

_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}
"""As released; transformers would take 1 and 2 for fields that are missing."""


def read_config(values: Mapping[str, Any], *, where: str) -> LightningConfig:
    """Read a config.json of any layout.

    Args:
        values: Its content.
        where: What errors begin with.

    Raises:
        ConfigError: A field is missing, unknown, ambiguous or not implemented.
    """
    model_type = values.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ConfigError(
            f"{where}: model_type={model_type}: no lightning model, which are "
            f"{', '.join(MODEL_TYPES)}; use policy.backend=transformers"
        )
    is_native = model_type == NATIVE_TYPE
    fields = {key: value for key, value in values.items() if key not in ROTATION_FIELDS}
    if is_native:
        for key in _NATIVE_DEFAULTS:
            if fields.get(key) is None:
                raise ConfigError(
                    f"{where}: {key} is missing, and transformers would take a default; "
                    "write out the value that the weights were trained with"
                )
        if fields.get("head_dim") is None and {"hidden_size", "num_attention_heads"} <= set(fields):
            fields["head_dim"] = fields["hidden_size"] // fields["num_attention_heads"]
    fields["rope_theta"] = rope_theta(values, where=where)
    fields["rotary_dim"] = rotary_dim(
        values, fields.get("head_dim"), is_native=is_native, where=where
    )
    return LightningConfig.from_dict(fields, where=f"{where}: ")


def refuse_other_logits(config: LightningConfig, layout: Layout) -> None:
    """Check that the software of a layout computes what the model does.

    Raises:
        ConfigError: It would compute other logits; the message says why.
    """
    advice = (
        "allow_other_logits=true writes it all the same, with a field of config.json by which "
        "this framework reads it back right"
    )
    if layout == Layout.RELEASED:
        if config.slope_rule != RELEASED and do_slopes_differ(config):
            raise ConfigError(
                f"layout={layout}: the released code has other slopes than transformers' in a "
                "last layer of lightning attention and for head counts that are no power of two, "
                f"so it would compute other logits; {advice}"
            )
    elif FULL in config.layer_types and config.rotary_dim != config.head_dim:
        raise ConfigError(
            f"layout={layout}: the model rotates rotary_dim={config.rotary_dim} dimensions of a "
            f"head, but transformers always head_dim={config.head_dim}, so it would compute other "
            f"logits; {advice}"
        )


def config_fields(
    config: LightningConfig, layout: Layout, *, dtype: str, source: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a config.json that the layout's software and `read_config` understand.

    Args:
        config: The model.
        layout: For whom.
        dtype: Of most weights, for example `bfloat16`.
        source: The config.json that the weights came with, whose other fields are carried over.
    """
    kept = {key: source[key] for key in _CARRIED if key in source}
    if layout == Layout.RELEASED:
        if source.get("model_type") != NATIVE_TYPE:
            kept |= {key: source[key] for key in _CARRIED_RELEASED if key in source}
        return {**config.to_dict(), **_NO_TOKENS, **kept, "torch_dtype": dtype}
    key = "torch_dtype" if layout == Layout.TRANSFORMERS4 else "dtype"
    return {**_native_fields(config), **kept, key: dtype}


def _native_fields(config: LightningConfig) -> dict[str, Any]:
    named = asdict(config)
    del named["rotary_dim"], named["slope_rule"]
    if config.rotary_dim != config.head_dim:
        named[ROTARY_KEY] = config.rotary_dim
    return {
        "architectures": ["MiniMaxForCausalLM"],
        "model_type": NATIVE_TYPE,
        "hidden_act": "silu",
        "sliding_window": None,
        **_NO_TOKENS,
        # version 4 reads rope_theta, version 5 prefers this
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        **named,
        "layer_types": list(config.layer_types),
    }
