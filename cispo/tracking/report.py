"""Writes report.html: verdict, picture, summary, some rollouts and configuration in one file."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cispo.tracking.compute import ComputeCurve
from cispo.tracking.headline import duration
from cispo.tracking.health import Health
from cispo.tracking.html import cards, folded, page, table
from cispo.tracking.scaling import Fit

_ROLLOUTS_SHOWN = 8


def write_report(
    path: Path,
    *,
    name: str,
    summary: Mapping[str, Any],
    health: Health,
    curve: ComputeCurve | None,
    picture: bytes,
    rollouts: Sequence[Mapping[str, Any]],
    config: str,
) -> None:
    """Write the page.

    Args:
        path: The `.html` file.
        name: Name of the run.
        summary: What `summarise` returned.
        health: What `examine` returned.
        curve: Performance by compute; None where nothing was measured.
        picture: A PNG.
        rollouts: Entries of one rollout file, from which a few are shown.
        config: The run's `config.yaml`.
    """
    encoded = base64.b64encode(picture).decode()
    body = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="lead">{escape(lead(summary))}</p>',
        *_verdict(health),
        cards(_highlights(summary)),
        f'<p><img alt="metrics by iteration" src="data:image/png;base64,{encoded}"></p>',
        *_heldout_section(summary),
        *_scaling_section(curve),
        "<h2>Time by phase</h2>",
        table(("phase", "seconds", "share"), _phase_rows(summary)),
        *_rollout_section(rollouts),
        "<h2>Summary</h2>",
        table(("number", "value"), _summary_rows(summary)),
        "<h2>Configuration</h2>",
        folded("config.yaml", config),
    ]
    path.write_text(page(name, body), encoding="utf-8")


def lead(summary: Mapping[str, Any]) -> str:
    """One sentence on what the run came to."""
    pieces = [f"{summary['iterations']} iterations in {duration(summary['wall_seconds'])}"]
    if summary["heldout_before"] is not None and summary["heldout_after"] is not None:
        metric = str(summary["heldout_metric"]).partition("/")[2]
        before, after = summary["heldout_before"], summary["heldout_after"]
        pieces.append(f"held-out {metric} {before:.1%} → {after:.1%}")
    if summary["rollouts"]:
        pieces.append(f"{summary['rollouts']:,.0f} rollouts")
    return " · ".join(pieces)


def choose(rollouts: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Pick rollouts of all sources and outcomes in turn, so that a few show the variety."""
    by_kind: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for entry in rollouts:
        by_kind.setdefault((entry["source"], _is_right(entry)), []).append(entry)
    queues = [by_kind[kind] for kind in sorted(by_kind)]
    chosen: list[Mapping[str, Any]] = []
    for rank in range(max(map(len, queues), default=0)):
        chosen += [queue[rank] for queue in queues if rank < len(queue)]
    return chosen[:count]


def _highlights(summary: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        "held-out before": _percent(summary["heldout_before"]),
        "held-out after": _percent(summary["heldout_after"]),
        "tokens/s sampled": _number(summary["rollout_tokens_per_second"], ",.0f"),
        "tokens/s learned": _number(summary["learner_tokens_per_second"], ",.0f"),
        "sampling and learning overlap": _percent(summary["overlap_fraction"]),
        "largest staleness, versions": _number(summary["staleness_max"], ".0f"),
        "verdicts missing": _percent(summary["invalid_fraction"]),
    }
    return {caption: value for caption, value in shown.items() if value}


def _verdict(health: Health) -> Iterator[str]:
    kind = "healthy" if health.is_healthy else "look"
    yield f'<div class="verdict {kind}"><b>{escape(health.headline)}</b>'
    if len(health.findings) > 1:
        others = health.findings[1:]
        listed = (f"<li><b>{escape(f.about)}</b>: {escape(f.why)}</li>" for f in others)
        yield f"<ul>{''.join(listed)}</ul>"
    if health.notes:
        yield f"<p>Also: {escape('; '.join(health.notes))}.</p>"
    yield "</div>"


def _scaling_section(curve: ComputeCurve | None) -> Iterator[str]:
    if curve is None:
        return
    yield "<h2>Performance by compute</h2>"
    what = "accuracy in training" if curve.metric.startswith("accuracy/") else curve.metric
    if not isinstance(curve.fit, Fit):
        reason = f"Where {what} will level off cannot be said: {curve.fit.reason}."
        yield f"<p>{escape(reason)}</p>"
        return
    fit, spent = curve.fit, curve.compute[-1] - curve.compute[0]
    yield (
        "<p>ScaleRL's sigmoid R(C) = R<sub>0</sub> + (A - R<sub>0</sub>) / "
        f"(1 + (C<sub>mid</sub>/C)<sup>B</sup>) through {escape(what)}. C counts token passes: one "
        "a token sampled, three a token learned from. It says what more of the same would bring, "
        "and holds only as far as tasks and settings stay what they are.</p>"
    )
    rows = [
        ("A, where it levels off", f"{fit.asymptote:.1%}"),
        ("95% interval of A, bootstrap", f"{fit.low:.1%} to {fit.high:.1%}"),
        ("R_0, where it begins", f"{fit.start:.1%}"),
        ("C_mid, where half is gained, in token passes", f"{fit.midpoint:,.0f}"),
        ("B, how steeply", f"{fit.exponent:.2f}"),
        ("points miss the curve by (RMS)", f"{fit.rmse:.1%}"),
        ("now", f"{fit.at(spent):.1%}"),
        ("after twice the compute", f"{fit.at(2 * spent):.1%}"),
        ("after ten times the compute", f"{fit.at(10 * spent):.1%}"),
    ]
    yield table(("number", "value"), rows)


def _heldout_section(summary: Mapping[str, Any]) -> Iterator[str]:
    before, after = summary["heldout_before_by_source"], summary["heldout_after_by_source"]
    if before or after:
        yield "<h2>Held-out accuracy by source</h2>"
        rows = [
            (source, _percent(before.get(source)), _percent(after.get(source)))
            for source in sorted({*before, *after})
        ]
        yield table(("source", "before", "after"), rows)


def _phase_rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    phases: Mapping[str, float] = summary["phase_seconds"]
    whole = summary["wall_seconds"] or 1.0
    for phase, seconds in sorted(phases.items(), key=lambda item: -item[1]):
        yield phase, f"{seconds:.1f}", f"{seconds / whole:.1%}"


def _rollout_section(rollouts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    chosen = choose(rollouts, _ROLLOUTS_SHOWN)
    if chosen:
        yield "<h2>Rollouts of the last recorded iteration</h2>"
    for entry in chosen:
        if entry["reward"] is None:
            verdict = f'<span class="wrong">ungraded: {escape(entry["ungraded"])}</span>'
        else:
            kind = "right" if _is_right(entry) else "wrong"
            verdict = f'<span class="{kind}">{kind}, reward {entry["reward"]:.2f}</span>'
        facts = (
            f"{escape(entry['source'])} · {escape(entry['task_id'])}",
            f"{entry['action_tokens']} tokens, {escape(entry['stop_reason'])}",
        )
        head = verdict + "".join(f"<span>{fact}</span>" for fact in facts)
        prompt = "\n\n".join(f"[{m['role']}] {m['content']}" for m in entry["messages"])
        yield (
            f'<div class="rollout"><header>{head}</header>{folded("prompt", prompt)}'
            f"<pre>{escape(entry['response'])}</pre></div>"
        )


def _summary_rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in summary.items():
        if isinstance(value, Mapping):
            continue
        yield name, f"{value:,.6g}" if isinstance(value, float) else str(value)


def _is_right(entry: Mapping[str, Any]) -> bool:
    return bool(entry["parts"]) and entry["parts"]["correct"] >= 1.0


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
