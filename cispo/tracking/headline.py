"""One line that says how an iteration went (stdlib only)."""

from collections.abc import Iterable, Mapping, Sequence

from cispo.types import Metrics


def headline(step: int, iterations: int, metrics: Metrics, *, eta_seconds: float | None) -> str:
    """Join the numbers that a person watches; those that a step lacks are left out."""
    width = len(str(iterations))
    pieces = [f"iteration {step:>{width}}/{iterations}"]
    pieces += _known(metrics, "reward/mean", "reward {:.3f}")
    pieces += _known(metrics, "accuracy/mean", "accuracy {:.1%}")
    heldout = heldout_metric(metrics)
    if heldout:
        pieces.append(f"held-out {heldout.partition('/')[2]} {metrics[heldout]:.1%}")
    pieces += _known(metrics, "length/mean_tokens", "length {:.0f}")
    pieces += _known(metrics, "entropy/mean_nats", "entropy {:.2f}")
    pieces += _known(metrics, "staleness/max", "stale {:.0f}")
    dropped = sum(value for name, value in metrics.items() if name.startswith("drops/"))
    if dropped:
        pieces.append(f"dropped {dropped:.0f}")
    if metrics.get("verdict/invalid_fraction"):
        pieces.append(f"ungraded {metrics['verdict/invalid_fraction']:.1%}")
    pieces += _known(metrics, "time/iteration_seconds", "{:.1f} s")
    if eta_seconds is not None and step < iterations:
        pieces.append(f"eta {duration(eta_seconds)}")
    return "  ".join(pieces)


def heldout_metric(names: Iterable[str]) -> str | None:
    """The name of avg@k over all held-out tasks among those of metrics, whatever k is."""
    found = [n for n in names if n.startswith("heldout/avg@") and n.count("/") == 1]
    return found[0] if found else None


def closing_lines(summary: Mapping[str, object]) -> list[str]:
    """Say in a few lines what the run came to."""
    before, after = summary.get("heldout_before"), summary.get("heldout_after")
    lines = []
    if isinstance(before, float) and isinstance(after, float):
        gain = 100 * (after - before)
        lines.append(f"held-out accuracy {before:.1%} -> {after:.1%} ({gain:+.1f} points)")
    speeds: Sequence[tuple[str, str]] = (
        ("rollout_tokens_per_second", "sampled"),
        ("learner_tokens_per_second", "learned"),
    )
    known = [
        f"{value:,.0f} tokens/s {what}"
        for name, what in speeds
        if isinstance(value := summary.get(name), float)
    ]
    wall = summary.get("wall_seconds")
    if isinstance(wall, float):
        known.insert(0, f"{summary.get('iterations')} iterations in {duration(wall)}")
    return [*lines, "  ".join(known)] if known else lines


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _known(metrics: Metrics, name: str, form: str) -> list[str]:
    return [form.format(metrics[name])] if name in metrics else []
