"""AdamW with the paper's values, and the warm-up of its learning rate."""

from collections.abc import Iterable

import torch
from torch import nn


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """Torch's AdamW.

    MiniMax-M1 (arXiv 2506.13585, section 3.2) needs betas (0.9, 0.95) and eps 1e-15, because
    gradients are as small as 1e-18 and hardly correlated from step to step. DeepSpeed's own Adams
    are compiled at first use, for minutes on a CPU, and gain nothing there.
    """
    return torch.optim.AdamW(
        parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay
    )


def learning_rate(step: int, *, lr: float, warmup_steps: int) -> float:
    """Learning rate of an optimizer step, counted from 0: linear warm-up, then constant."""
    return lr * min(1.0, (step + 1) / warmup_steps) if warmup_steps else lr


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
