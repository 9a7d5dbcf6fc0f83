"""Which tensors a lightning model is stored in, layout by layout."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from cispo.errors import ConfigError
from cispo.policy.lightning.config import LINEAR, LightningConfig


class Layout(StrEnum):
    """Whose names and config.json a folder uses.

    Attributes:
        RELEASED: MiniMax's own, of M1 and Text-01: one matrix an expert.
        TRANSFORMERS4: What transformers writes, version 5 included: the same names, and the decays
            of the lightning layers as tensors.
        TRANSFORMERS5: What transformers 5 calls its weights in memory, and reads as well: `mlp`,
            with a layer's experts in two tensors.
    """

    RELEASED = "released"
    TRANSFORMERS4 = "transformers4"
    TRANSFORMERS5 = "transformers5"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor of a layout.

    Attributes:
        name: Its name in the files.
        shape: Its shape.
        parts: What it consists of, one after the other and equally long, by the names of
            TRANSFORMERS4, which all layouts share.
        is_optional: Whether a folder may lack it, because it can be computed or is not used.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    is_optional: bool = False


def detect_layout(names: Collection[str], *, is_native: bool, where: str) -> Layout:
    """Tell the layout from the names of tensors.

    Args:
        names: All names in the folder.
        is_native: Whether config.json is one of transformers' own model type.
        where: What an error begins with.

    Raises:
        ConfigError: Names and config.json are of different layouts.
    """
    fused = [name for name in names if ".mlp.experts." in name]
    native = fused + [name for name in names if name.endswith(".slope_rate")]
    if native and not is_native:
        raise ConfigError(
            f"{where}: {native[0]} is a name of transformers, but config.json is that of a "
            "released checkpoint; give the folder the config.json that belongs to its weights"
        )
    if not is_native:
        return Layout.RELEASED
    return Layout.TRANSFORMERS5 if fused else Layout.TRANSFORMERS4


def stored_tensors(config: LightningConfig, layout: Layout) -> Iterator[StoredTensor]:
    """All tensors of a model in a layout, in the order of its layers."""
    width, vocabulary = config.hidden_size, config.vocab_size
    yield _plain("model.embed_tokens.weight", vocabulary, width)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        yield _plain(f"{prefix}input_layernorm.weight", width)
        yield from _attention(config, layer, f"{prefix}self_attn.")
        if layout != Layout.RELEASED and config.layer_types[layer] == LINEAR:
            yield from _decays(config, f"{prefix}self_attn.")
        yield _plain(f"{prefix}post_attention_layernorm.weight", width)
        yield from _experts(config, layout, prefix)
    yield _plain("model.norm.weight", width)
    yield _plain("lm_head.weight", vocabulary, width, is_optional=config.tie_word_embeddings)


def _plain(name: str, *shape: int, is_optional: bool = False) -> StoredTensor:
    return StoredTensor(name=name, shape=shape, parts=(name,), is_optional=is_optional)


def _attention(config: LightningConfig, layer: int, prefix: str) -> Iterator[StoredTensor]:
    width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    kv_inner = config.num_key_value_heads * config.head_dim
    if config.layer_types[layer] == LINEAR:
        yield _plain(f"{prefix}qkv_proj.weight", 3 * inner, width)
        yield _plain(f"{prefix}output_gate.weight", inner, width)
        yield _plain(f"{prefix}norm.weight", inner)
        yield _plain(f"{prefix}out_proj.weight", width, inner)
    else:
        yield _plain(f"{prefix}q_proj.weight", inner, width)
        yield _plain(f"{prefix}k_proj.weight", kv_inner, width)
        yield _plain(f"{prefix}v_proj.weight", kv_inner, width)
        yield _plain(f"{prefix}o_proj.weight", width, inner)


def _decays(config: LightningConfig, prefix: str) -> Iterator[StoredTensor]:
    H, block = config.num_attention_heads, config.block_size
    yield _plain(f"{prefix}slope_rate", H, 1, 1, is_optional=True)
    yield _plain(f"{prefix}query_decay", H, block, 1, is_optional=True)
    yield _plain(f"{prefix}key_decay", H, block, 1, is_optional=True)
    yield _plain(f"{prefix}diagonal_decay", 1, H, block, block, is_optional=True)


def _experts(config: LightningConfig, layout: Layout, prefix: str) -> Iterator[StoredTensor]:
    E, inner, width = config.num_local_experts, config.intermediate_size, config.hidden_size
    shared = f"{prefix}block_sparse_moe."
    if layout != Layout.TRANSFORMERS5:
        yield _plain(f"{shared}gate.weight", E, width, is_optional=E == 1)
        for expert in range(E):
            yield _plain(f"{shared}experts.{expert}.w1.weight", inner, width)
            yield _plain(f"{shared}experts.{expert}.w2.weight", width, inner)
            yield _plain(f"{shared}experts.{expert}.w3.weight", inner, width)
        return
    names = [f"{shared}experts.{expert}." for expert in range(E)]
    gate_up = tuple(f"{name}{w}.weight" for name in names for w in ("w1", "w3"))
    yield StoredTensor(
        name=f"{prefix}mlp.gate.weight",
        shape=(E, width),
        parts=(f"{shared}gate.weight",),
        is_optional=E == 1,
    )
    yield StoredTensor(
        name=f"{prefix}mlp.experts.gate_up_proj", shape=(E, 2 * inner, width), parts=gate_up
    )
    yield StoredTensor(
        name=f"{prefix}mlp.experts.down_proj",
        shape=(E, width, inner),
        parts=tuple(f"{name}w2.weight" for name in names),
    )
