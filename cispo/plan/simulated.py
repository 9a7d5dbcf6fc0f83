"""What a simulation of the pipeline shows (stdlib only)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedIteration:
    """One iteration.

    Attributes:
        groups: Indices of the groups that were learned from.
        num_dropped: Groups that were passed over.
        learned_tokens: Action tokens that were learned from.
        staleness: Of each rollout: version when learning began minus that when it began.
        taken_at: When its groups were taken, in seconds from the start.
        waited_seconds: For which the learner had waited for them.
        learn_seconds: Of its updates.
    """

    groups: tuple[int, ...]
    num_dropped: int
    learned_tokens: int
    staleness: tuple[int, ...]
    taken_at: float
    waited_seconds: float
    learn_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """All iterations.

    Attributes:
        iterations: In order.
        wall_seconds: From the first start to the last publish.
        engine_busy_seconds: Of each engine, with at least one sequence running.
        sequence_seconds: The same times running sequences, summed over engines.
        sampled_tokens: Action tokens of rollouts that were finished, dropped ones included.
        max_sequences: Of an engine.
    """

    iterations: tuple[SimulatedIteration, ...]
    wall_seconds: float
    engine_busy_seconds: tuple[float, ...]
    sequence_seconds: float
    sampled_tokens: int
    max_sequences: int

    @property
    def iteration_seconds(self) -> float:
        """Of an iteration on average."""
        return self.wall_seconds / len(self.iterations)

    @property
    def steady_seconds(self) -> float:
        """Of an iteration after the first, for which nothing could be sampled ahead."""
        takes = [iteration.taken_at for iteration in self.iterations]
        if len(takes) == 1:
            return self.iteration_seconds
        return (takes[-1] - takes[0]) / (len(takes) - 1)

    @property
    def engine_fraction(self) -> float:
        """Share of the time in which engines were busy, mean over them."""
        return fmean(self.engine_busy_seconds) / self.wall_seconds

    @property
    def learner_fraction(self) -> float:
        """Share of the time in which the learner took updates."""
        return sum(i.learn_seconds for i in self.iterations) / self.wall_seconds

    @property
    def waiting_fraction(self) -> float:
        """Share of the time in which the learner waited for rollouts: its bubbles."""
        return sum(i.waited_seconds for i in self.iterations) / self.wall_seconds

    @property
    def batch_fraction(self) -> float:
        """Sequences that a busy engine runs, over those that it could."""
        return self.sequence_seconds / (sum(self.engine_busy_seconds) * self.max_sequences)

    @property
    def staleness_mean(self) -> float:
        """Over all rollouts that were learned from."""
        return fmean(s for i in self.iterations for s in i.staleness)

    @property
    def staleness_counts(self) -> Mapping[int, int]:
        """Rollouts by staleness."""
        return dict(sorted(Counter(s for i in self.iterations for s in i.staleness).items()))

    @property
    def learned_tokens_per_second(self) -> float:
        """Action tokens that are learned from."""
        return sum(i.learned_tokens for i in self.iterations) / self.wall_seconds
