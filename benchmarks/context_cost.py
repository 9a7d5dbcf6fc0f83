"""Time of a token at short and long context: the hybrid beside a softmax-only model of its size."""

import time
from typing import Any

import torch

from benchmarks.generators import Shape, lightning_model
from cispo.policy.lightning.config import FULL
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.native.stepper import NativeStepper
from cispo.policy.lightning.state import DecodeState

CONTEXTS = (1024, 65_536)


def context_costs(shape: Shape, *, quick: bool) -> dict[str, Any]:
    """Milliseconds of one sequence's step and head, by native kernels on one thread.

    States and pages are filled with random numbers instead of by reading so many tokens.
    """
    hybrid = lightning_model(shape)
    softmax = _softmax_only(shape, _parameters(hybrid))
    result: dict[str, Any] = {"states": "filled with random numbers", "rows": 1}
    for name, model in (("hybrid", hybrid), ("softmax_only", softmax)):
        result[name] = {"parameters": _parameters(model)}
        for context in CONTEXTS:
            seconds = _seconds_a_token(model, context, steps=2 if quick else 12)
            result[name][f"milliseconds_at_{context}"] = 1e3 * seconds
    for name in ("hybrid", "softmax_only"):
        short, long = (result[name][f"milliseconds_at_{context}"] for context in CONTEXTS)
        result[name]["growth"] = long / short
        print(f"{name:12} {short:7.2f} ms a token at 1K, {long:7.2f} at 64K: {long / short:.1f}x")
    return result


def _softmax_only(shape: Shape, parameters: int) -> LightningModel:
    """Eight softmax layers whose wider feed-forward networks make up for smaller projections."""
    layers = (FULL,) * 8
    narrow = _parameters(lightning_model(shape, layer_types=layers))
    missing = (parameters - narrow) / (len(layers) * 3 * shape.hidden_size)
    return lightning_model(shape, layer_types=layers, extra_inner=round(missing))


def _parameters(model: LightningModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _seconds_a_token(model: LightningModel, context: int, *, steps: int) -> float:
    stepper = NativeStepper(model)
    state = DecodeState.empty(model.config, 1)
    state.reserve(1, context + steps + 2)
    state.linear.normal_()
    state.pages.normal_()
    state.lengths[0] = context
    tokens = torch.tensor([1])
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        stepper.logits(stepper.step(tokens, state))
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[2:])[steps // 2]
