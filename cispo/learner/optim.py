"""AdamW with the paper's values, and the schedule of its learning rate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import nn

from cispo.config import Decay


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
        parameters, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate as a function of the optimizer step, so that a resume needs one number.

    Attributes:
        lr: Rate after the warm-up.
        warmup_steps: Steps of linear warm-up; 0 has none.
        decay: How the rate falls after the warm-up.
        decay_steps: Steps in which it falls.
        final_lr_fraction: Of `lr`, what is left after that.
    """

    lr: float
    warmup_steps: int = 0
    decay: Decay = Decay.CONSTANT
    decay_steps: int = 0
    final_lr_fraction: float = 0.0

    def at(self, step: int) -> float:
        """The rate of an optimizer step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        match self.decay:
            case Decay.CONSTANT:
                return self.lr
            case Decay.LINEAR:
                left = 1.0 - self._progress(step)
            case Decay.COSINE:
                left = 0.5 * (1.0 + math.cos(math.pi * self._progress(step)))
            case _:
                assert_never(self.decay)
        return self.lr * (self.final_lr_fraction + (1.0 - self.final_lr_fraction) * left)

    def _progress(self, step: int) -> float:
        return min(1.0, (step - self.warmup_steps) / self.decay_steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
