"""The shares of the sources, in phases that begin when a run has come far enough (stdlib only).

MiniMax-M1 (arXiv 2506.13585, page 11) begins with reasoning tasks that rules verify and mixes in
general ones gradually, with weights that change.
"""

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

from cispo.config.curriculum import PhaseConfig


class Curriculum:
    """Moves from phase to phase by what iterations show, one phase an iteration at most.

    Args:
        phases: By name, in order.
        labels: Of all sources.
    """

    def __init__(self, phases: Mapping[str, PhaseConfig], labels: Sequence[str]) -> None:
        self._phases = list(phases.items())
        self._labels = list(labels)
        self._window = max(phase.pass_rate_tasks for phase in phases.values())
        self._stage = self._age = 0
        self._from = self._targets(0)
        self._rates: dict[str, list[float]] = {}
        self.restore({})

    @property
    def stage(self) -> int:
        """Which phase it is, from 0."""
        return self._stage

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of each source in what is drawn now; they sum to one."""
        _, phase = self._phases[self._stage]
        done = min(1.0, (self._age + 1) / phase.ramp_iterations)
        targets = self._targets(self._stage)
        return tuple(a + done * (b - a) for a, b in zip(self._from, targets, strict=True))

    def observe(self, outcomes: Sequence[tuple[str, float]]) -> str | None:
        """Take note of an iteration: label and pass rate of each judged task, in their order.

        Returns:
            Where the next phase begins, what it is and why, in a line.
        """
        for label, rate in outcomes:
            self._rates[label] = [*self._rates[label], rate][-self._window :]
        shares = self.shares
        self._age += 1
        if self._stage + 1 == len(self._phases):
            return None
        reason = self._reason()
        if reason is None:
            return None
        self._stage, self._age, self._from = self._stage + 1, 0, shares
        return f"{self._described()}, {reason}"

    def state(self) -> dict[str, Any]:
        """What a resume needs, as plain JSON values."""
        return {
            "stage": self._stage,
            "age": self._age,
            "from": list(self._from),
            "rates": {label: list(rates) for label, rates in self._rates.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; from the beginning where it is empty."""
        self._stage = state.get("stage", 0)
        self._age = state.get("age", 0)
        self._from = tuple(state.get("from", self._targets(0)))
        rates = state.get("rates", {})
        self._rates = {label: list(rates.get(label, ())) for label in self._labels}

    def _targets(self, stage: int) -> tuple[float, ...]:
        weights = self._phases[stage][1].weights
        total = fsum(weights.values())
        return tuple(weights.get(label, 0.0) / total for label in self._labels)

    def _reason(self) -> str | None:
        """Why the next phase begins now; None where it does not."""
        _, phase = self._phases[self._stage + 1]
        if self._age < phase.after_iterations:
            return None
        reason = f"after {self._age} iterations of {self._phases[self._stage][0]}"
        if phase.pass_rate is None or phase.pass_rate_of is None:
            return reason
        last = self._rates[phase.pass_rate_of][-phase.pass_rate_tasks :]
        rate = fsum(last) / len(last) if last else 0.0
        if len(last) < phase.pass_rate_tasks or rate < phase.pass_rate:
            return None
        return f"{reason}; {rate:.1%} of {phase.pass_rate_of} is right over its last {len(last)}"

    def _described(self) -> str:
        name, phase = self._phases[self._stage]
        targets = zip(self._labels, self._targets(self._stage), strict=True)
        shares = ", ".join(f"{label} {share:.0%}" for label, share in targets if share)
        in_time = f" in {phase.ramp_iterations} iterations" if phase.ramp_iterations > 1 else ""
        return f"curriculum: {name} begins with {shares}{in_time}"
