import math

import pytest

from cispo.tracking.columns import Columns
from cispo.tracking.health import Health, examine
from cispo.tracking.history import History


def columns(**series: list[float]) -> Columns:
    """Metrics by name, `area__name`, one value an iteration."""
    length = max(map(len, series.values()))
    history: History = [
        (step + 1, {name.replace("__", "/", 1): values[step] for name, values in series.items()})
        for step in range(length)
    ]
    return Columns(history)


def rising(count: int = 12, *, start: float = 0.2, by: float = 0.03) -> list[float]:
    wiggle = (0.0, 0.01, -0.01)
    return [start + by * step + wiggle[step % 3] for step in range(count)]


def about(health: Health) -> list[str]:
    return [finding.about for finding in health.findings]


def test_a_run_that_learns_is_healthy_and_says_by_what() -> None:
    found = examine(
        columns(
            reward__mean=rising(),
            **{"heldout__avg@4": rising()},
            entropy__mean_nats=[0.5] * 12,
            learn__grad_norm=[0.3] * 12,
        ),
        iterations=12,
    )
    assert found.is_healthy
    assert found.headline == "Healthy: reward 0.20 → 0.52, held-out avg@4 20% → 52%, no alarm."


def test_a_run_without_a_line_is_starting() -> None:
    found = examine(Columns(), is_over=False)
    assert found.is_healthy
    assert "starting" in found.headline


@pytest.mark.parametrize(
    ("series", "finding", "why"),
    [
        ({"reward__mean": rising(by=0.0)}, "reward", "does not rise"),
        ({"reward__mean": rising(by=-0.01)}, "reward", "fell by 0.082"),
        ({"reward__mean": [*rising(), math.nan]}, "reward", "it is nan"),
        ({"learn__grad_norm": [0.1, math.inf]}, "gradient norm", "it is inf"),
        ({"entropy__mean_nats": [0.5] * 9 + [0.04]}, "entropy", "only 8% of what it was"),
        ({"entropy__mean_nats": [0.5] * 9 + [2.0]}, "entropy", "4.0 times"),
        ({"heldout__avg@4": [0.3, 0.6, 0.5]}, "held-out accuracy", "60.0% (iteration 2) to 50.0%"),
        (
            {"heldout__avg@4": [0.5] * 11 + [0.4], "reward__mean": rising()},
            "held-out accuracy",
            "is it gamed?",
        ),
        (
            {"groups__pass_100_fraction": [0.6] * 5, "groups__pass_0_fraction": [0.3] * 5},
            "difficulty",
            "60% of the groups are all right and 30% all wrong",
        ),
        ({"weight__capped_fraction": [0.4]}, "capped weights", "40% of the weights"),
    ],
)
def test_what_is_wrong_is_named_with_its_reason(
    series: dict[str, list[float]], finding: str, why: str
) -> None:
    found = examine(columns(**series))
    assert not found.is_healthy
    assert finding in about(found)
    assert why in next(f.why for f in found.findings if f.about == finding)
    assert found.headline.startswith(f"Look at {found.findings[0].about}: ")


@pytest.mark.parametrize(
    "series",
    [
        {"reward__mean": rising(8, by=-0.05)},
        {"entropy__mean_nats": [0.5] * 9 + [0.2]},
        {"heldout__avg@4": [0.3, 0.6, 0.58]},
        {"groups__pass_100_fraction": [0.4], "groups__pass_0_fraction": [0.2]},
    ],
)
def test_what_is_early_or_small_is_no_finding(series: dict[str, list[float]]) -> None:
    assert examine(columns(**series)).is_healthy


def test_a_run_that_ended_early_or_fell_silent_is_told() -> None:
    metrics = columns(time__iteration_seconds=[40.0] * 3)
    assert about(examine(metrics, iterations=9)) == ["the end"]
    assert examine(metrics, iterations=3).is_healthy
    silent = examine(metrics, iterations=9, is_over=False, silent_seconds=201.0)
    assert about(silent) == ["progress"]
    assert "no iteration for 3:21, where one takes 0:40" in silent.headline
    assert examine(metrics, iterations=9, is_over=False, silent_seconds=199.0).is_healthy


def test_what_was_made_good_is_a_note_and_no_finding() -> None:
    found = examine(columns(faults__engine_deaths=[0.0, 2.0, 1.0], checkpoint__failures=[1.0] * 3))
    assert found.is_healthy
    assert found.notes == ("3 engine deaths, made good", "1 checkpoints could not be written")
