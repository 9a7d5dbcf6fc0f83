"""Write a lightning model in any layout, from memory or from other files."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cispo.errors import ConfigError
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.formats.config_json import config_fields
from cispo.policy.lightning.formats.derived import derived_part, is_derived
from cispo.policy.lightning.formats.layouts import Layout, StoredTensor, stored_tensors
from cispo.policy.lightning.formats.parts import DTYPE_NAMES, DTYPES, Part
from cispo.policy.lightning.formats.stored import CONFIG, StoredModel
from cispo.policy.lightning.formats.write_safetensors import Outgoing, write_shards

MAX_SHARD_BYTES = 5 * 10**9

_EMBEDDING = "model.embed_tokens.weight"


def write_model(
    folder: Path,
    config: LightningConfig,
    parts: Mapping[str, Part],
    *,
    layout: Layout,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json and weights into an existing folder, config.json last.

    Holds one block of one tensor in memory, however large the model is. Whether the layout's
    software computes the same logits is for `refuse_other_logits` to say.

    Args:
        folder: Where to.
        config: The model.
        parts: Its numbers by the names that all layouts share.
        layout: How to store it.
        dtype: Of the weights; routers and decays are never narrowed. None keeps each tensor's own.
        max_shard_bytes: Largest file, unless one tensor alone is larger.
        source: Its earlier config.json, whose fields without a meaning here are carried over.

    Raises:
        ConfigError: The disk is too small.
    """
    tensors = list(_outgoing(config, parts, layout, dtype))
    needed, free = sum(t.num_bytes for t in tensors), shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(f"{folder}: needs {needed:,} bytes and the disk has {free:,} left")
    write_shards(folder, tensors, max_shard_bytes=max_shard_bytes)
    stored = next(tensor.dtype for tensor in tensors if tensor.name == _EMBEDDING)
    name = str(DTYPES[stored]).removeprefix("torch.")
    fields = config_fields(config, layout, dtype=name, source=source or {})
    (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n")


def copy_beside(model: StoredModel, folder: Path, *, layout: Layout) -> None:
    """Copy what belongs to a model and is not weights: tokenizer, generation config, licence.

    Code goes along only where config.json may still name it.
    """
    weights = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
    keeps_code = model.layout == layout == Layout.RELEASED
    for file in sorted(model.folder.iterdir()):
        is_hidden_or_weights = file.name.startswith(".") or file.name.endswith(weights)
        if not file.is_file() or is_hidden_or_weights or file.name == CONFIG:
            continue
        if keeps_code or file.suffix != ".py":
            shutil.copyfile(file, folder / file.name)


def _outgoing(
    config: LightningConfig, parts: Mapping[str, Part], layout: Layout, dtype: torch.dtype | None
) -> Iterator[Outgoing]:
    for stored in stored_tensors(config, layout):
        found = [parts[name] for name in stored.parts if name in parts]
        if len(found) == len(stored.parts):
            pass
        elif is_derived(stored.name) or (layout != Layout.RELEASED and _is_router(stored)):
            found = [derived_part(config, stored)]
        elif stored.is_optional:
            continue
        else:
            raise ConfigError(f"the model to write has no {stored.name}")
        if len({part.dtype for part in found}) > 1:
            raise ConfigError(f"the experts of {stored.name} are stored in several types")
        own = found[0].dtype
        yield Outgoing(
            name=stored.name, dtype=_dtype(stored, own, dtype), shape=stored.shape, parts=found
        )


def _dtype(stored: StoredTensor, own: str, dtype: torch.dtype | None) -> str:
    if dtype is None:
        return own
    is_narrower = dtype.itemsize < DTYPES[own].itemsize
    if is_narrower and (_is_router(stored) or is_derived(stored.name)):
        return own
    return DTYPE_NAMES[dtype]


def _is_router(stored: StoredTensor) -> bool:
    return stored.parts[0].endswith(".block_sparse_moe.gate.weight")
