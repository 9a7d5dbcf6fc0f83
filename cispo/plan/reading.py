"""Reads an architecture from the fields of a config.json (stdlib only)."""

from collections.abc import Mapping
from typing import Any

from cispo.errors import ConfigError
from cispo.plan.architecture import Architecture, Block
from cispo.plan.layers import Attention, FeedForward, Lightning, Softmax

LIGHTNING_TYPES = ("minimax_m1", "minimax_text_01", "minimax")
SOFTMAX_TYPES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "smollm3")


def read_architecture(fields: Mapping[str, Any], *, where: str) -> Architecture:
    """Read a lightning hybrid, in our names or the released ones, or a plain softmax transformer.

    Args:
        fields: Of config.json, or of `policy.architecture`; without `model_type` it is a hybrid.
        where: What errors begin with.

    Raises:
        ConfigError: A field is missing or bad, or the kind of model is not known here.
    """
    kind = fields.get("model_type", LIGHTNING_TYPES[0])
    if kind not in LIGHTNING_TYPES + SOFTMAX_TYPES:
        known = ", ".join(LIGHTNING_TYPES + SOFTMAX_TYPES)
        raise ConfigError(
            f"{where}: model_type={kind}: its layers are unknown here; there are {known}"
        )
    hidden, heads = _size(fields, "hidden_size", where), _size(fields, "num_attention_heads", where)
    layers = _size(fields, "num_hidden_layers", where)
    softmax = Softmax(
        heads=heads,
        kv_heads=_size(fields, "num_key_value_heads", where, default=heads),
        head_dim=_size(fields, "head_dim", where, default=hidden // heads),
        has_bias=bool(fields.get("attention_bias", kind == "qwen2")),
        has_head_norms=kind in ("qwen3", "qwen3_moe"),
    )
    feed_forward = _feed_forward(fields, where)
    num_full = _num_full(fields, layers, where) if kind in LIGHTNING_TYPES else layers
    counts: tuple[tuple[int, Attention], ...] = (
        (layers - num_full, Lightning(heads=heads, head_dim=softmax.head_dim)),
        (num_full, softmax),
    )
    return Architecture(
        name=where,
        vocab_size=_size(fields, "vocab_size", where),
        hidden_size=hidden,
        blocks=tuple(
            Block(count=count, attention=attention, feed_forward=feed_forward)
            for count, attention in counts
            if count
        ),
        is_tied=bool(fields.get("tie_word_embeddings", False)),
    )


def _feed_forward(fields: Mapping[str, Any], where: str) -> FeedForward:
    experts = fields.get("num_local_experts", fields.get("num_experts", 1))
    width = "moe_intermediate_size" if "moe_intermediate_size" in fields else "intermediate_size"
    if experts == 1:
        return FeedForward(width=_size(fields, "intermediate_size", where))
    return FeedForward(
        width=_size(fields, width, where),
        experts=_size({"num_experts": experts}, "num_experts", where),
        chosen=_size(fields, "num_experts_per_tok", where),
    )


def _num_full(fields: Mapping[str, Any], layers: int, where: str) -> int:
    """Softmax layers of a hybrid.

    Raises:
        ConfigError: Nothing says which they are: transformers' default of one in two is no model's.
    """
    kinds = fields.get("layer_types", fields.get("attn_type_list"))
    if kinds is None:
        raise ConfigError(f"{where}: lacks layer_types (or attn_type_list)")
    if len(kinds) != layers:
        raise ConfigError(f"{where}: layer_types has {len(kinds)} entries for {layers} layers")
    return sum(kind in (1, "full_attention") for kind in kinds)


def _size(fields: Mapping[str, Any], key: str, where: str, *, default: int | None = None) -> int:
    value = fields.get(key)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"{where}: lacks {key}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}: {key}={value}: must be a number >= 1")
    return value
