"""Which metrics the watch page draws, and how many points of each (stdlib only)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cispo.tracking.alarms import DEPARTURE, DEPARTURE_NATS
from cispo.tracking.columns import Columns
from cispo.tracking.headline import heldout_metric

MOST_POINTS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture.

    Attributes:
        title: What it shows.
        unit: Of its values; `%` for shares.
        lines: Metrics with their names in the legend.
        meaning: What a healthy run looks like here, in a sentence.
    """

    title: str
    unit: str
    lines: Mapping[str, str] = field(default_factory=dict)
    meaning: str = ""


_OF_EVERY_RUN = (
    Panel(
        title="Reward",
        unit="",
        lines={"reward/mean": "mean", "accuracy/mean": "share right"},
        meaning="Mean over all rollouts that were sampled. It should rise, fast at first.",
    ),
    Panel(
        title="Entropy",
        unit="nats",
        lines={"entropy/mean_nats": "of a token"},
        meaning="It falls slowly as the policy makes up its mind. Near zero nothing is explored "
        "any more; a steep rise means that the policy comes apart.",
    ),
    Panel(
        title="Length",
        unit="tokens",
        lines={
            "length/mean_tokens": "mean",
            "length/correct_mean_tokens": "right answers",
            "length/wrong_mean_tokens": "wrong answers",
            "length/p99_tokens": "99th percentile",
        },
        meaning="Reasoning may grow longer. Wrong answers that alone grow are rambling.",
    ),
    Panel(
        title="Gradient norm",
        unit="",
        lines={"learn/grad_norm": "mean", "learn/grad_norm/max": "largest"},
        meaning="Before clipping. A jump to ten times the usual comes before many collapses.",
    ),
    Panel(
        title="Engine against learner",
        unit="nats",
        lines={"mismatch/max_nats": "largest", "mismatch/mean_nats": "mean"},
        meaning="Log-probabilities at equal weights: ideally rounding. Above 0.01 on average the "
        "ratio measures software rather than learning.",
    ),
    Panel(
        title="Weights",
        unit="%",
        lines={
            "weight/capped_fraction": "at the cap",
            "weight/effective_sample_fraction": "effective sample size",
            "ratio/inert_fraction": "ratio is 1",
        },
        meaning="Few weights at the cap, and an effective sample size near 100 %: mu is close "
        "enough to pi.",
    ),
    Panel(
        title="Drift of the policy",
        unit="nats",
        lines={DEPARTURE: "from the one that sampled"},
        meaning="A token's mean over the iteration's updates. Above "
        f"{DEPARTURE_NATS} a collapse may follow.",
    ),
    Panel(
        title="Staleness",
        unit="versions",
        lines={"staleness/max": "max", "staleness/mean": "mean"},
        meaning="How many publishes old the rollouts are; never above max_staleness.",
    ),
    Panel(
        title="Groups without signal",
        unit="%",
        lines={"groups/pass_100_fraction": "all right", "groups/pass_0_fraction": "all wrong"},
        meaning="They teach nothing. Most of them all right: harder tasks; all wrong: easier ones.",
    ),
    Panel(
        title="Throughput",
        unit="tokens/s",
        lines={
            "time/rollout_tokens_per_second": "sampled",
            "time/learner_tokens_per_second": "learned",
        },
        meaning="Each over the time in which it was at work.",
    ),
    Panel(
        title="Time of an iteration",
        unit="s",
        lines={
            "time/iteration_seconds": "whole",
            "time/sample_seconds": "waiting for samples",
            "time/learn_seconds": "learning",
            "time/publish_seconds": "publishing",
            "time/evaluate_seconds": "evaluating",
        },
        meaning="What the loop waits for longest is what to make faster.",
    ),
    Panel(
        title="How rollouts end",
        unit="%",
        lines={
            "stop/end_of_turn_fraction": "end of turn",
            "stop/length_fraction": "cut off",
            "stop/repetition_fraction": "repetition",
            "stop/turn_limit_fraction": "turn limit",
        },
        meaning="Those cut off have no answer: raise max_new_tokens or shape the length.",
    ),
)


def panels(columns: Columns) -> Iterator[Panel]:
    """The panels of a run, those without data included."""
    yield _held_out(columns)
    yield from _OF_EVERY_RUN


def _held_out(columns: Columns) -> Panel:
    held_out = heldout_metric(columns.names)
    by_source = [name for name in columns.names if held_out and name.startswith(f"{held_out}/")]
    return Panel(
        title="Held-out accuracy",
        unit="%",
        lines={
            **({held_out: f"all ({held_out.partition('/')[2]})"} if held_out else {}),
            **{name: name.rpartition("/")[2] for name in by_source[:7]},
        },
        meaning="The one that counts. It should rise with the reward; where only the reward "
        "rises, the reward is gamed.",
    )


def drawn(panel: Panel, columns: Columns) -> dict[str, Any]:
    """A panel with its points, as JSON values; lines without data are left out."""
    lines = []
    for metric, name in panel.lines.items():
        steps, values = columns.series(metric)
        if len(values):
            chosen = thinned(values, MOST_POINTS)
            lines.append(
                {
                    "metric": metric,
                    "name": name,
                    "steps": [steps[i] for i in chosen],
                    "values": [values[i] if math.isfinite(values[i]) else None for i in chosen],
                }
            )
    return {"title": panel.title, "unit": panel.unit, "meaning": panel.meaning, "lines": lines}


def thinned(values: Sequence[float], most: int) -> list[int]:
    """Positions of about `most` values that keep each stretch's extremes, and first and last."""
    if len(values) <= most:
        return list(range(len(values)))
    size = math.ceil(2 * len(values) / most)
    chosen = {0, len(values) - 1}
    for start in range(0, len(values), size):
        stretch = range(start, min(start + size, len(values)))
        chosen |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    return sorted(chosen)
