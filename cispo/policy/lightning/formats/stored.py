"""A folder with a lightning model, checked before any of its weights is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cispo.errors import ConfigError
from cispo.policy.lightning.config import LINEAR, LightningConfig
from cispo.policy.lightning.decay import TRANSFORMERS
from cispo.policy.lightning.formats.config_json import NATIVE_TYPE, read_config
from cispo.policy.lightning.formats.derived import slope_rule_of
from cispo.policy.lightning.formats.layouts import Layout, detect_layout, stored_tensors
from cispo.policy.lightning.formats.parts import Part
from cispo.policy.lightning.formats.read_safetensors import Entry, read_entries

CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """What a folder holds.

    Attributes:
        folder: The folder.
        layout: How it is stored.
        config: The model.
        fields: All of config.json.
        parts: Its numbers by the names that all layouts share; see `StoredTensor.parts`.
    """

    folder: Path
    layout: Layout
    config: LightningConfig
    fields: Mapping[str, Any]
    parts: Mapping[str, Part]


def open_model(folder: Path) -> StoredModel:
    """Read config.json and where the tensors are; reads no weights.

    Raises:
        ConfigError: A file or tensor is missing, too many, or of another shape than config.json's,
            or config.json leaves open what the model computes.
    """
    fields = read_fields(folder)
    config = stored_config(folder)
    entries = read_entries(folder)
    is_native = fields["model_type"] == NATIVE_TYPE
    layout = detect_layout(entries.keys(), is_native=is_native, where=str(folder))
    if is_native:
        config = _with_slope_rule(config, entries, folder)
    parts = _parts(config, layout, entries, folder)
    return StoredModel(folder=folder, layout=layout, config=config, fields=fields, parts=parts)


def stored_config(folder: Path) -> LightningConfig:
    """Read the architecture from a folder's config.json alone.

    Raises:
        ConfigError: It is missing or bad.
    """
    return read_config(read_fields(folder), where=str(folder / CONFIG))


def read_fields(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises:
        ConfigError: There is none, or it is no JSON object.
    """
    try:
        fields = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{folder / CONFIG} is no JSON object")
    return fields


def _with_slope_rule(
    config: LightningConfig, entries: Mapping[str, Entry], folder: Path
) -> LightningConfig:
    """The model in transformers computes with the slopes that it finds, whoever wrote them."""
    linear = [i for i, kind in enumerate(config.layer_types) if kind == LINEAR]
    if not linear:
        return config
    stored = entries.get(f"model.layers.{linear[-1]}.self_attn.slope_rate")
    if stored is None:
        return replace(config, slope_rule=TRANSFORMERS)
    if stored.shape != (config.num_attention_heads, 1, 1):
        return config  # refused with all other shapes
    slopes = torch.cat(list(stored.parts(1)[0].blocks())).view(stored.shape)
    rule = slope_rule_of(config, slopes, linear[-1], where=str(folder))
    return replace(config, slope_rule=rule)


def _parts(
    config: LightningConfig, layout: Layout, entries: Mapping[str, Entry], folder: Path
) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    known = {tensor.name: tensor for tensor in stored_tensors(config, layout)}
    for name, entry in entries.items():
        if name not in known:
            raise ConfigError(f"{folder}: config.json has no place for {name}")
        if entry.shape != known[name].shape:
            raise ConfigError(
                f"{folder}: {name} is {list(entry.shape)}, "
                f"but config.json makes it {list(known[name].shape)}"
            )
        names = known[name].parts
        parts |= zip(names, entry.parts(len(names)), strict=True)
    missing = [t.name for t in known.values() if not t.is_optional and t.name not in entries]
    if missing:
        raise ConfigError(f"{folder}: {missing[0]} and {len(missing) - 1} more are missing")
    return parts
