"""Backward passes written by hand have no derivative of their own; asking for one is an error."""

import torch


def refuse_second_derivative() -> None:
    """Call in a backward pass that autograd cannot differentiate again.

    Raises:
        RuntimeError: The gradient is being recorded, as with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a lightning model has no second derivative: take the gradient without create_graph"
        )
