"""What the engines of a pool did between two laps, as numbers for the log (loads no torch)."""

from collections.abc import Mapping

from rollout.backends.base import EngineStatistics

_COUNTED = ("sampled_tokens", "prefill_tokens", "decode_steps", "prefix_hits", "prefix_evictions")


def engine_metrics(
    now: Mapping[str, EngineStatistics],
    before: Mapping[str, EngineStatistics],
    *,
    max_sequences: int,
) -> dict[str, float]:
    """Describe what happened between two readings; the names are in docs/metrics.md.

    Args:
        now: What each living actor counts since its start, by name.
        before: The same at the last lap. What is new has counted from zero, and what is gone took
            its last counts along.
        max_sequences: Sequences that one engine may decode at once.
    """
    nothing = EngineStatistics()

    def done(field: str) -> dict[str, float]:
        return {
            name: getattr(counts, field) - getattr(before.get(name, nothing), field)
            for name, counts in now.items()
        }

    described = {f"engine/{field}": float(sum(done(field).values())) for field in _COUNTED}
    if steps := described["engine/decode_steps"]:
        rows = described["engine/sampled_tokens"] / steps
        described["engine/batch_mean_sequences"] = rows
        described["engine/batch_full_fraction"] = rows / max_sequences
    saved = float(sum(done("prefix_saved_tokens").values()))
    if prompts := saved + described["engine/prefill_tokens"]:
        described["engine/prefix_saved_fraction"] = saved / prompts
    if now:
        described["engine/pages_used"] = float(sum(counts.pages_used for counts in now.values()))
        described["engine/pages_peak"] = float(max(counts.pages_peak for counts in now.values()))
        described["time/engine_busy_seconds"] = sum(done("busy_seconds").values())
        described["time/engine_load_seconds"] = max(done("load_seconds").values())
        described["time/engine_pause_seconds"] = max(done("pause_seconds").values())
    return described
