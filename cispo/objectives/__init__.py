"""Losses as pure functions of tensors with one signature; `objective` picks one by its kind."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor

from cispo.config import ObjectiveKind
from cispo.objectives.cispo import cispo_loss
from cispo.objectives.gspo import gspo_loss
from cispo.objectives.ppo_clip import ppo_clip_loss
from cispo.objectives.reinforce import reinforce_loss

__all__ = [
    "Objective",
    "cispo_loss",
    "gspo_loss",
    "objective",
    "ppo_clip_loss",
    "reinforce_loss",
]


class Objective(Protocol):
    """A loss whose bounds are set."""

    def __call__(
        self,
        logprobs: Tensor,
        behaviour_logprobs: Tensor,
        advantages: Tensor,
        token_weights: Tensor,
        *,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the scalar loss and the detached weight of each token; see `cispo_loss`."""


_LOSSES: dict[ObjectiveKind, Callable[..., tuple[Tensor, Tensor]]] = {
    ObjectiveKind.CISPO: cispo_loss,
    ObjectiveKind.PPO_CLIP: ppo_clip_loss,
    ObjectiveKind.GSPO: gspo_loss,
    ObjectiveKind.REINFORCE: reinforce_loss,
}


def objective(kind: ObjectiveKind, *, ratio_max: float, ratio_min: float) -> Objective:
    """Pick a loss and set the absolute bounds of its ratio pi/mu."""
    return partial(_LOSSES[kind], ratio_max=ratio_max, ratio_min=ratio_min)
