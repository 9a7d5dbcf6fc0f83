"""Finds problems that an evaluation asks too, by the runs of words that they share (stdlib only).

The field's rule of post-training data: runs of eight words, and a problem is contaminated when such
runs cover at least half of an evaluation's problem (Tulu 3, arXiv 2411.15124, section 3.2). One
shared run of 8 to 13 words, as for pre-training data, takes mathematics' set phrases for copies.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cispo.data.screening.words import runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What a problem shares with an evaluation's.

    Attributes:
        name: The evaluation's problem.
        cover: Share of the evaluation's words that lie in shared runs.
    """

    name: str
    cover: float


class EvaluationIndex:
    """The runs of words of all problems of evaluations.

    Args:
        problems: Words by name of each problem.
        run_words: Words of a run. Problems with fewer are found where they are the same as a whole.
        cover: Smallest share of an evaluation's words that lie in shared runs, in (0, 1].
    """

    def __init__(
        self, problems: Mapping[str, Sequence[str]], *, run_words: int, cover: float
    ) -> None:
        self._run_words = run_words
        self._cover = cover
        self._lengths = {name: len(words) for name, words in problems.items()}
        self._places: defaultdict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
        for name, words in problems.items():
            if not words:
                continue
            for place, run in enumerate(runs(words, min(run_words, len(words)))):
                self._places[run].append((name, place))

    def find(self, words: Sequence[str]) -> Overlap | None:
        """Return the evaluation's problem that is covered most, where one is covered enough."""
        shared: defaultdict[str, set[int]] = defaultdict(set)
        for run in {*runs(words, self._run_words), tuple(words)}:
            for name, place in self._places.get(run, ()):
                shared[name].update(range(place, place + len(run)))
        covers = [(len(at) / self._lengths[name], name) for name, at in shared.items()]
        cover, name = max(covers, default=(0.0, ""))
        return Overlap(name=name, cover=cover) if cover >= self._cover else None
