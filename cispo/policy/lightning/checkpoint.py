"""Folders of lightning models: config.json and safetensors with the released checkpoint's names."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cispo.errors import ConfigError
from cispo.policy.lightning.config import MODEL_TYPE, LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.moe import Router

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def save_lightning(model: LightningModel, folder: Path) -> None:
    """Write config.json and model.safetensors; `load_lightning` reads back the same bits."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config.to_dict(), "dtype": str(model.lm_head.weight.dtype).split(".")[1]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in released_tensors(model)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def is_lightning(folder: Path) -> bool:
    """Whether a folder holds a lightning model by its config.json."""
    file = folder / "config.json"
    return file.is_file() and json.loads(file.read_text()).get("model_type") == MODEL_TYPE


def load_lightning(folder: Path, *, dtype: torch.dtype, logprob_chunk: int) -> LightningModel:
    """Build the model of a folder; routers stay float32 in any dtype.

    Raises:
        ConfigError: A file or tensor is missing, too many, or of another shape than config.json's.
    """
    config = LightningConfig.from_dict(json.loads((folder / "config.json").read_text()))
    model = empty_model(config, dtype=dtype, logprob_chunk=logprob_chunk)
    targets = dict(released_tensors(model))
    with torch.no_grad():
        for name, tensor in _stored_tensors(folder):
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if (target := targets.pop(name, None)) is None:
                raise ConfigError(f"policy.path={folder}: config.json has no place for {name}")
            if target.shape != tensor.shape:
                raise ConfigError(
                    f"policy.path={folder}: {name} is {list(tensor.shape)}, "
                    f"but config.json makes it {list(target.shape)}"
                )
            target.copy_(tensor)
    if targets:
        raise ConfigError(f"policy.path={folder}: {min(targets)} and perhaps more are missing")
    return model


def empty_model(
    config: LightningConfig, *, dtype: torch.dtype, logprob_chunk: int
) -> LightningModel:
    """Build a model whose weights are yet to be set, with float32 routers."""
    model = LightningModel(config, logprob_chunk=logprob_chunk).to(dtype)
    for module in model.modules():
        if isinstance(module, Router):
            module.float()
    return model


def released_tensors(model: LightningModel) -> Iterator[tuple[str, Tensor]]:
    """Views of the parameters by the released names: one matrix an expert, w1 and w3 apart."""
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        if name.endswith(".experts.gate_up_proj"):
            prefix = name.removesuffix("gate_up_proj")
            for expert, (w1, w3) in enumerate(t.chunk(2) for t in tensor):
                yield f"{prefix}{expert}.w1.weight", w1
                yield f"{prefix}{expert}.w3.weight", w3
        elif name.endswith(".experts.down_proj"):
            prefix = name.removesuffix("down_proj")
            yield from ((f"{prefix}{expert}.w2.weight", w2) for expert, w2 in enumerate(tensor))
        else:
            yield name, tensor


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of all shards, one at a time."""
    files = [WEIGHTS]
    if (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    for file in files:
        if not (folder / file).is_file():
            raise ConfigError(f"policy.path={folder}: {file} is missing")
        with safe_open(folder / file, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - not a mapping
                yield name, shard.get_tensor(name)
