"""What holds updates back late in training, when long rollouts begin to collapse (stdlib only).

MiniMax-M1 (arXiv 2506.13585, page 12): negative samples grow faster than positive ones and run into
the window, so large negative gradients pile up at late positions, and the tails turn to garbage.
The answers, without values: a combined sample-level loss and token-level normalisation, a lower
threshold of gradient clipping, and a lower bound of the importance weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cispo.config import TokenWeighting
from cispo.types import Metrics, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterMeasures:
    """Settings of an update that take the place of the run's own; None keeps the run's.

    Attributes:
        ratio_max: Upper bound of pi/mu itself.
        max_grad_norm: Gradients above this global norm are scaled down.
        token_weighting: Which average over tokens.
    """

    ratio_max: float | None = None
    max_grad_norm: float | None = None
    token_weighting: TokenWeighting | None = None

    def __str__(self) -> str:
        names = ("ratio_max", "max_grad_norm", "token_weighting")
        values = {name: getattr(self, name) for name in names}
        return ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)


NO_MEASURES = CounterMeasures()


class _Learner(Protocol):
    async def step(self, samples: Sequence[Sample], measures: CounterMeasures) -> Metrics: ...

    async def save(self, folder: Path) -> None: ...

    async def restore(self, folder: Path) -> None: ...


class MeasuredLearner:
    """A `Learner` whose updates obey the counter-measures that hold when they are taken.

    Args:
        learner: Takes the updates; it keeps no counter-measure from one to the next.
        measures: What holds now.
    """

    def __init__(self, learner: _Learner, measures: Callable[[], CounterMeasures]) -> None:
        self._learner = learner
        self._measures = measures

    async def step(self, samples: Sequence[Sample]) -> Metrics:
        """Take one optimizer step; see `cispo.ports.Learner`."""
        return await self._learner.step(samples, self._measures())

    async def save(self, folder: Path) -> None:
        """See `cispo.ports.Learner`."""
        await self._learner.save(folder)

    async def restore(self, folder: Path) -> None:
        """See `cispo.ports.Learner`."""
        await self._learner.restore(folder)
