"""What the ratio divides by: mu as the engine recorded it, or pi as the iteration found it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Protocol, TypeAlias

from cispo.types import Sample

Groups: TypeAlias = Sequence[tuple[Sample, ...]]
Anchor: TypeAlias = Callable[[Groups], Awaitable[Groups]]


class Scorer(Protocol):
    """A learner that can look at samples without learning from them."""

    async def logprobs(self, samples: Sequence[Sample]) -> Sequence[Sequence[float]]:
        """Return log pi of each sample's tokens under the weights as they stand, 0.0 off the mask.

        Raises:
            LearnerError: A rank is lost.
        """


async def behaviour(groups: Groups) -> Groups:
    """Leave the samples as they are: the ratio is pi/mu."""
    return groups


class Proximal:
    """Gives samples the learner's own log-probabilities before the first update: pi/pi_proximal.

    Args:
        scorer: The learner.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    async def __call__(self, groups: Groups) -> Groups:
        """Return the samples with `anchor_logprobs`."""
        samples = tuple(chain.from_iterable(groups))
        if not samples:
            return groups
        scored = zip(samples, await self._scorer.logprobs(samples), strict=True)
        anchored = iter([replace(s, anchor_logprobs=logprobs) for s, logprobs in scored])
        return [tuple(islice(anchored, len(group))) for group in groups]
