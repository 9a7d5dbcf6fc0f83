"""Says whether a run is healthy, by plain rules that give their reasons (stdlib only)."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from cispo.tracking.columns import Columns
from cispo.tracking.headline import duration, heldout_metric

_FEWEST = 9
"""Iterations before a trend is spoken of."""

_FALL = 0.05
"""Of held-out accuracy below its best that is more than chance among a hundred tasks."""

_SILENCE = 5.0
"""Usual iterations without a line after which a run may be stuck."""


_SPOKEN = {
    "mismatch/max_nats": "engine against learner",
    "weight/effective_sample_fraction": "effective sample size",
    "weight/capped_fraction": "capped weights",
    "verdict/invalid_fraction": "missing verdicts",
    "stop/length_fraction": "answers cut off",
    "ratio/inert_fraction": "inert clipping",
    "judge/length_correlation": "the judge",
    "kl/k3_nats": "drift of the policy",
    "learn/grad_norm": "gradient norm",
    "learn/grad_norm/max": "gradient norm",
    "learn/loss": "loss",
    "reward/mean": "reward",
}
"""What alarms are about, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to look at.

    Attributes:
        about: What, in two or three words.
        why: What the numbers show, and where there is one, what may help.
        metric: The metric that shows it; empty where none does.
    """

    about: str
    why: str
    metric: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of a run.

    Attributes:
        is_healthy: Whether there is nothing to look at.
        headline: One sentence.
        findings: What to look at, the most important first.
        notes: What happened and was made good, and asks for nothing.
    """

    is_healthy: bool
    headline: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def examine(
    columns: Columns,
    *,
    iterations: int | None = None,
    is_over: bool = True,
    silent_seconds: float = 0.0,
) -> Health:
    """Examine a run.

    Args:
        columns: Its metrics so far.
        iterations: How many it was to have; None where that is not known.
        is_over: Whether it has ended.
        silent_seconds: Wall time since its last line.
    """
    if not columns.num_lines:
        return Health(
            is_healthy=True,
            headline="Nothing logged yet: the run is starting.",
            findings=(),
            notes=(),
        )
    life = _life(columns, iterations, is_over=is_over, silent_seconds=silent_seconds)
    alarms = (
        Finding(about=_spoken(metric), why=why, metric=metric)
        for metric, why in columns.alarms.items()
    )
    findings = tuple(chain(life, _broken(columns), alarms, *(rule(columns) for rule in _RULES)))
    return Health(
        is_healthy=not findings,
        headline=_headline(columns, findings),
        findings=findings,
        notes=tuple(_notes(columns)),
    )


def _headline(columns: Columns, findings: Sequence[Finding]) -> str:
    if findings:
        others = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        return f"Look at {findings[0].about}: {findings[0].why}{others}"
    pieces = []
    for metric, name, form in _shown(columns):
        values = columns.values(metric)
        if len(values) > 1:
            pieces.append(f"{name} {form.format(values[0])} → {form.format(values[-1])}")
    return f"Healthy: {', '.join([*pieces, 'no alarm'])}."


def _shown(columns: Columns) -> Iterator[tuple[str, str, str]]:
    yield "reward/mean", "reward", "{:.2f}"
    if held_out := _held_out(columns):
        yield held_out, f"held-out {held_out.partition('/')[2]}", "{:.0%}"


def _life(
    columns: Columns, iterations: int | None, *, is_over: bool, silent_seconds: float
) -> Iterator[Finding]:
    last = columns.last_step or 0
    if is_over and iterations is not None and last < iterations:
        why = f"the run ended after {last} of {iterations} iterations; log.txt says why"
        yield Finding(about="the end", why=why)
    pace = statistics.median([*columns.values("time/iteration_seconds")] or [60.0])
    if not is_over and silent_seconds > max(120.0, _SILENCE * pace):
        why = (
            f"no iteration for {duration(silent_seconds)}, where one takes {duration(pace)}: it is "
            "stuck or was killed, and the end of log.txt says what it waited for"
        )
        yield Finding(about="progress", why=why, metric="time/iteration_seconds")


def _broken(columns: Columns) -> Iterator[Finding]:
    for metric in ("learn/loss", "learn/grad_norm", "reward/mean"):
        values = columns.values(metric)
        if len(values) and not math.isfinite(values[-1]):
            yield Finding(about=_spoken(metric), why=f"it is {values[-1]}", metric=metric)


def _reward(columns: Columns) -> Iterator[Finding]:
    change, error = _trend(columns.values("reward/mean"))
    if change < -2.0 * error:
        why = f"it fell by {-change:.3f} from the first third of the run to the last"
        yield Finding(about="reward", why=why, metric="reward/mean")
    elif change <= 2.0 * error and error > 0.0:
        why = (
            f"it does not rise ({change:+.3f} from the first third to the last, ±{2 * error:.3f} "
            "by chance); are tasks of the right difficulty, is the learning rate high enough?"
        )
        yield Finding(about="reward", why=why, metric="reward/mean")


def _held_out_accuracy(columns: Columns) -> Iterator[Finding]:
    metric = _held_out(columns)
    steps, values = columns.series(metric or "")
    if len(values) < 2:
        return
    best = max(range(len(values)), key=values.__getitem__)
    if values[best] - values[-1] > _FALL:
        change, error = _trend(columns.values("reward/mean"))
        while_reward = " while the reward rises: is it gamed?" if change > 2.0 * error else ""
        why = (
            f"it fell from {values[best]:.1%} (iteration {steps[best]}) to {values[-1]:.1%}"
            f"{while_reward}"
        )
        yield Finding(about="held-out accuracy", why=why, metric=metric or "")


def _entropy(columns: Columns) -> Iterator[Finding]:
    values = columns.values("entropy/mean_nats")
    if len(values) < _FEWEST or values[0] <= 0.0:
        return
    share = values[-1] / values[0]
    if share < 0.1:
        why = f"only {share:.0%} of what it was: the policy hardly explores any more"
        yield Finding(about="entropy", why=why, metric="entropy/mean_nats")
    elif share > 3.0:
        why = f"{share:.1f} times what it was: the policy comes apart"
        yield Finding(about="entropy", why=why, metric="entropy/mean_nats")


def _dropped(columns: Columns) -> Iterator[Finding]:
    right, wrong = (
        _recent(columns.values(f"groups/pass_{share}_fraction")) for share in ("100", "0")
    )
    if right + wrong > 0.7:
        advice = "give it harder tasks" if right > wrong else "give it easier ones"
        why = (
            f"{right:.0%} of the groups are all right and {wrong:.0%} all wrong, and neither "
            f"teaches anything: {advice}"
        )
        yield Finding(about="difficulty", why=why, metric="groups/pass_100_fraction")


_RULES: tuple[Callable[[Columns], Iterator[Finding]], ...] = (
    _held_out_accuracy,
    _reward,
    _entropy,
    _dropped,
)


def _notes(columns: Columns) -> Iterator[str]:
    for name in columns.names:
        total = sum(columns.values(name)) if name.startswith("faults/") else 0.0
        if total:
            yield f"{total:.0f} {_spoken(name)}, made good"
    failures = columns.values("checkpoint/failures")
    if len(failures) and failures[-1]:
        yield f"{failures[-1]:.0f} checkpoints could not be written"


def _trend(values: Sequence[float]) -> tuple[float, float]:
    """The last third's mean less the first third's, and its standard error; 0 while it is early."""
    if len(values) < _FEWEST:
        return 0.0, 0.0
    size = len(values) // 3
    first, last = values[:size], values[-size:]
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / size)
    return statistics.fmean(last) - statistics.fmean(first), error


def _recent(values: Sequence[float]) -> float:
    return statistics.fmean(values[-5:]) if len(values) else 0.0


def _held_out(columns: Columns) -> str | None:
    return heldout_metric(columns.names)


def _spoken(metric: str) -> str:
    return _SPOKEN.get(metric) or metric.partition("/")[2].replace("_", " ")
