"""What a pool's engines did between two readings, by hand."""

import re
from pathlib import Path

import pytest

from rollout.backends.base import EngineStatistics
from rollout.engine_metrics import engine_metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def counts(**fields: float) -> EngineStatistics:
    return EngineStatistics(**fields)  # type: ignore[arg-type]


def test_counts_are_those_since_the_last_lap_summed_over_actors() -> None:
    before = {"a": counts(sampled_tokens=100, decode_steps=10), "gone": counts(sampled_tokens=7)}
    now = {
        "a": counts(sampled_tokens=160, decode_steps=20),
        "new": counts(sampled_tokens=20, decode_steps=10),
    }
    described = engine_metrics(now, before, max_sequences=8)
    assert described["engine/sampled_tokens"] == 60 + 20
    assert described["engine/decode_steps"] == 10 + 10
    assert described["engine/batch_mean_sequences"] == 80 / 20
    assert described["engine/batch_full_fraction"] == 80 / 20 / 8


def test_the_prefix_caches_share_is_over_all_prompt_tokens() -> None:
    now = {"a": counts(prefill_tokens=300, prefix_saved_tokens=100, prefix_hits=2)}
    described = engine_metrics(now, {}, max_sequences=8)
    assert described["engine/prefix_saved_fraction"] == pytest.approx(0.25)
    assert described["engine/prefix_hits"] == 2


def test_pages_add_up_and_their_peak_and_the_load_are_those_of_the_worst_actor() -> None:
    before = {"a": counts(load_seconds=1.0), "b": counts(load_seconds=1.0)}
    now = {
        "a": counts(
            pages_used=3, pages_peak=9, load_seconds=1.5, pause_seconds=0.25, busy_seconds=2.0
        ),
        "b": counts(pages_used=4, pages_peak=5, load_seconds=1.25, busy_seconds=3.0),
    }
    described = engine_metrics(now, before, max_sequences=8)
    assert described["engine/pages_used"] == 7
    assert described["engine/pages_peak"] == 9
    assert described["time/engine_load_seconds"] == 0.5
    assert described["time/engine_pause_seconds"] == 0.25
    assert described["time/engine_busy_seconds"] == 5.0


def test_an_idle_lap_has_no_shares_and_no_actor_has_no_pages() -> None:
    described = engine_metrics({}, {}, max_sequences=8)
    assert described["engine/sampled_tokens"] == 0
    assert not described.keys() & {"engine/batch_mean_sequences", "engine/pages_used"}


def test_every_number_is_documented() -> None:
    named = set(re.findall(r"`([^`]+)`", PAGE.read_text()))
    busy = counts(sampled_tokens=1, decode_steps=1, prefill_tokens=1)
    assert engine_metrics({"a": busy}, {}, max_sequences=1).keys() <= named
