"""What a run came to, worked out from its metrics alone, so that it is right after a resume too."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from cispo.overlap import overlap_fractions
from cispo.tracking.headline import heldout_metric
from cispo.tracking.history import History, names_under, series

_FAULTS = "faults/"
_NO_PHASES = ("iteration", "rollout_busy")


def summarise(history: History, *, failures: Mapping[str, int] | None = None) -> dict[str, object]:
    """Sum a run up.

    Args:
        history: What `read_history` returned.
        failures: What went wrong outside of the history, by kind.

    Returns:
        Numbers that `docs/metrics.md` lists; a number without data is None.
    """
    evaluations = [
        (step, name, metrics)
        for step, metrics in history
        if (name := heldout_metric(metrics)) is not None
    ]
    before = evaluations[0] if evaluations and evaluations[0][0] == 0 else None
    after = evaluations[-1] if evaluations and evaluations[-1][0] > 0 else None
    phases = _phase_seconds(history)
    return {
        "iterations": max((step for step, _ in history), default=0),
        "heldout_metric": after[1] if after else None,
        "heldout_before": before[2][before[1]] if before else None,
        "heldout_after": after[2][after[1]] if after else None,
        "heldout_before_by_source": _by_source(before),
        "heldout_after_by_source": _by_source(after),
        "heldout_best": max((m[name] for _, name, m in evaluations), default=None),
        "reward_first": _first(history, "reward/mean"),
        "reward_last": _last(history, "reward/mean"),
        "rollout_tokens_per_second": _ratio(
            _total(history, "rollout/sampled_tokens"), phases.get("rollout_busy", 0.0)
        ),
        "learner_tokens_per_second": _ratio(
            _total(history, "rollout/learned_tokens"), phases.get("learn", 0.0)
        ),
        "sampled_tokens": _total(history, "rollout/sampled_tokens"),
        "learned_tokens": _total(history, "rollout/learned_tokens"),
        "rollouts": _total(history, "verdict/rollouts"),
        "overlap_fraction": _overlap(history),
        "staleness_max": max(series(history, "staleness/max")[1], default=None),
        "invalid_fraction": _ratio(
            _total(history, "verdict/invalid_rollouts"), _total(history, "verdict/rollouts")
        ),
        "dropped_groups": sum(
            value for _, m in history for name, value in m.items() if name.startswith("drops/")
        ),
        "repetition_saved_tokens": _total(history, "rollout/repetition_saved_tokens"),
        "mismatch_max_nats": max(series(history, "mismatch/max_nats")[1], default=None),
        "faults": {**_faults(history), **{k: n for k, n in (failures or {}).items() if n}},
        "wall_seconds": phases.get("iteration", 0.0),
        "phase_seconds": {
            k: v for k, v in phases.items() if k not in ("iteration", "rollout_busy")
        },
    }


def write_summary(path: Path, summary: Mapping[str, object]) -> None:
    """Write `summary.json`, all of it or nothing."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _phase_seconds(history: History) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for _, metrics in history:
        for name, value in metrics.items():
            if name.startswith("time/") and name.endswith("_seconds"):
                phase = name.removeprefix("time/").removesuffix("_seconds")
                seconds[phase] = seconds.get(phase, 0.0) + value
    return seconds


def _faults(history: History) -> dict[str, float]:
    """How often what went wrong, without what never did."""
    totals = {name: _total(history, name) for name in names_under(history, _FAULTS)}
    return {name.removeprefix(_FAULTS): total for name, total in totals.items() if total}


def _overlap(history: History) -> float | None:
    """Of the whole run: of sums, not a mean over lines."""
    names = [f"overlap/{name}_seconds" for name in ("wall", "engine", "learner", "both")]
    fractions = overlap_fractions({name: _total(history, name) for name in names})
    return fractions.get("overlap/fraction")


def _by_source(evaluation: tuple[int, str, dict[str, float]] | None) -> dict[str, float]:
    if evaluation is None:
        return {}
    _, name, metrics = evaluation
    prefix = f"{name}/"
    return {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix)}


def _total(history: History, name: str) -> float:
    return sum(series(history, name)[1])


def _first(history: History, name: str) -> float | None:
    values = series(history, name)[1]
    return values[0] if values else None


def _last(history: History, name: str) -> float | None:
    values = series(history, name)[1]
    return values[-1] if values else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
