"""Bytes that a forward pass keeps for its backward pass, by layer; a part of learner_memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cispo.policy.lightning.layer import LightningLayer
from cispo.policy.lightning.model import LightningModel

LIGHTNING, SOFTMAX, REST = "lightning layer", "softmax layer", "embedding, last norm and head"


def kept_bytes(model: LightningModel, forward: Callable[[], object]) -> dict[str, float]:
    """Count what autograd saves in a forward pass, each storage once and no parameter.

    Returns:
        Bytes by part; those of layers are of one layer of its kind, mean over them.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    counted: Counter[str] = Counter()
    part = REST
    alive: list[Tensor] = []  # an address that is free again would be taken for one that is known

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            alive.append(tensor)
            counted[part] += storage.nbytes()
        return tensor

    def enter(layer: torch.nn.Module, _: object) -> None:
        nonlocal part
        assert isinstance(layer, LightningLayer)
        part = LIGHTNING if layer.is_linear else SOFTMAX

    def leave(*_: object) -> None:
        nonlocal part
        part = REST

    kinds = [layer for layer in model.model.layers if isinstance(layer, LightningLayer)]
    with (
        _hooks(kinds, enter, leave),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        forward()
    numbers = Counter(LIGHTNING if layer.is_linear else SOFTMAX for layer in kinds)
    return {name: size / numbers.get(name, 1) for name, size in counted.items()}


@contextmanager
def _hooks(
    layers: list[LightningLayer],
    enter: Callable[[torch.nn.Module, object], None],
    leave: Callable[..., None],
) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(enter) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
