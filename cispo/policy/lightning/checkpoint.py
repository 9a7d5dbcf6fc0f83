"""Lightning models from and to folders, in the released checkpoint's layout or in transformers'."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.formats.config_json import MODEL_TYPES, refuse_other_logits
from cispo.policy.lightning.formats.convert import write_model
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.parts import in_memory
from cispo.policy.lightning.formats.stored import CONFIG, open_model, read_fields
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.moe import Router
from cispo.policy.lightning.native.build import require_native


def save_lightning(
    model: LightningModel,
    folder: Path,
    *,
    layout: Layout = Layout.RELEASED,
    allow_other_logits: bool = False,
) -> None:
    """Write config.json and weights into a new folder; `load_lightning` reads back the same bits.

    Raises:
        ConfigError: The layout's software would compute other logits; see `refuse_other_logits`.
    """
    if not allow_other_logits:
        refuse_other_logits(model.config, layout)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: in_memory(tensor) for name, tensor in released_tensors(model)}
    write_model(folder, model.config, parts, layout=layout)


def is_lightning(folder: Path) -> bool:
    """Whether a folder holds a lightning model by its config.json."""
    return (folder / CONFIG).is_file() and read_fields(folder).get("model_type") in MODEL_TYPES


def load_lightning(
    folder: Path, *, dtype: torch.dtype, logprob_chunk: int, kernels: str = "auto"
) -> LightningModel:
    """Build the model of a folder in any layout; routers stay float32 in any dtype.

    Holds the model and one block of one tensor in memory.

    Raises:
        ConfigError: A file or tensor is missing, too many, or of another shape than config.json's,
            or config.json leaves open what the model computes.
    """
    stored = open_model(folder)
    model = empty_model(stored.config, dtype=dtype, logprob_chunk=logprob_chunk, kernels=kernels)
    with torch.no_grad():
        for name, tensor in released_tensors(model):
            target, filled = tensor.view(-1), 0
            for block in stored.parts[name].blocks():
                target[filled : filled + len(block)].copy_(block)
                filled += len(block)
    return model


def empty_model(
    config: LightningConfig, *, dtype: torch.dtype, logprob_chunk: int, kernels: str = "auto"
) -> LightningModel:
    """Build a model whose weights are yet to be set, with float32 routers.

    Raises:
        ConfigError: Native kernels are wanted and cannot be built here.
    """
    if kernels == "native":
        require_native()
    model = LightningModel(config, logprob_chunk=logprob_chunk, kernels=kernels).to(dtype)
    for module in model.modules():
        if isinstance(module, Router):
            module.float()
    return model


def released_tensors(model: LightningModel) -> Iterator[tuple[str, Tensor]]:
    """Views of the parameters by the released names: one matrix an expert, w1 and w3 apart."""
    return released_names(model.named_parameters())


def released_names(parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Rename and split a `LightningModel`'s parameters into views by the released names."""
    for name, parameter in parameters:
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
