"""Watches whether a generative judge pays for length (stdlib only).

MiniMax-M1 (arXiv 2506.13585, page 11) found that no offline remedy is enough: the judge is watched
in training, and recalibrated when answers grow longer and better paid while no task is solved more.
"""

import math
from collections import deque
from collections.abc import Sequence

from cispo.types import Group, Metrics

CORRELATION = "judge/length_correlation"
REWARD = "judge/reward_mean"
_JUDGED_PARTS = ("grade", "preference")
_WINDOW = 10
_HALF = _WINDOW // 2
_MIN_CORRELATION = 0.2
_MIN_GROWTH = 1.1
_MIN_SUCCESS_GAIN = 0.01


def describe_judge(groups: Sequence[Group]) -> dict[str, float]:
    """Describe what a judge gave, nothing where it judged nothing.

    Returns:
        Its mean `correct`, the correlation of that with length within groups, and the mean
        `correct` of the answers that rules graded.
    """
    gains: list[float] = []
    lengths: list[float] = []
    given: list[float] = []
    by_rule: list[float] = []
    for group in groups:
        judged = [(r, v) for r, v in group.graded if any(p in v.parts for p in _JUDGED_PARTS)]
        by_rule += [v.parts["correct"] for _, v in group.graded] if not judged else []
        if not judged:
            continue
        rewards = [verdict.parts["correct"] for _, verdict in judged]
        tokens = [float(rollout.num_action_tokens) for rollout, _ in judged]
        given += rewards
        gains += _centred(rewards)
        lengths += _centred(tokens)
    if not given:
        return {}
    described = {REWARD: math.fsum(given) / len(given), CORRELATION: _cosine(gains, lengths)}
    if by_rule:
        described["judge/rule_accuracy"] = math.fsum(by_rule) / len(by_rule)
    return described


class LengthBiasMonitor:
    """Compares the older half of the last ten iterations with the newer one."""

    def __init__(self) -> None:
        self._window: deque[tuple[float, float, float, float]] = deque(maxlen=_WINDOW)

    def message(self, metrics: Metrics) -> str | None:
        """Take an iteration's metrics; return what is wrong, if anything is."""
        if CORRELATION not in metrics:
            return None
        success = metrics.get("judge/rule_accuracy", 0.0)
        length = metrics["length/mean_tokens"]
        self._window.append((metrics[CORRELATION], metrics[REWARD], length, success))
        if len(self._window) < _WINDOW:
            return None
        rows = list(self._window)
        before = [math.fsum(column) / _HALF for column in zip(*rows[:_HALF], strict=True)]
        after = [math.fsum(column) / _HALF for column in zip(*rows[_HALF:], strict=True)]
        correlation, growth = after[0], after[2] / max(before[2], 1.0)
        is_paid = correlation > _MIN_CORRELATION and after[1] > before[1]
        if not (is_paid and growth > _MIN_GROWTH and after[3] - before[3] < _MIN_SUCCESS_GAIN):
            return None
        return (
            f"the judge pays for length: answers grew by {growth - 1:.0%} and its reward from "
            f"{before[1]:.2f} to {after[1]:.2f} (correlation with length {correlation:.2f}), while "
            "no more tasks are solved; recalibrate the judge"
        )


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    norm = math.sqrt(math.fsum(x * x for x in left) * math.fsum(y * y for y in right))
    return math.fsum(x * y for x, y in zip(left, right, strict=True)) / norm if norm > 0 else 0.0
