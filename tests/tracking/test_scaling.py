import numpy as np
import pytest

from cispo.tracking.columns import Columns
from cispo.tracking.compute import compute_curve
from cispo.tracking.history import History
from cispo.tracking.scaling import Fit, Undetermined, fit

START, ASYMPTOTE, MIDPOINT, EXPONENT = 0.2, 0.61, 300.0, 1.7


def curve(compute: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return START + (ASYMPTOTE - START) / (1 + (MIDPOINT / compute) ** EXPONENT)


def test_an_exact_curve_gives_back_its_parameters() -> None:
    compute = np.array([0.0, *np.geomspace(20, 8000, 14)])
    found = fit(compute.tolist(), curve(compute).tolist())
    assert isinstance(found, Fit)
    assert found.start == START
    assert found.asymptote == pytest.approx(ASYMPTOTE, abs=2e-3)
    assert found.midpoint == pytest.approx(MIDPOINT, rel=0.02)
    assert found.exponent == pytest.approx(EXPONENT, rel=0.03)
    assert found.rmse < 1e-3
    assert found.at(MIDPOINT) == pytest.approx((START + ASYMPTOTE) / 2, abs=2e-3)
    assert found.at(0.0) == START


def test_the_interval_holds_the_truth_under_noise_about_as_often_as_it_says() -> None:
    compute = np.array([0.0, *np.linspace(100, 3000, 20)])
    held = 0
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(0, 0.015, len(compute))
        found = fit(compute.tolist(), (curve(compute) + noise * (compute > 0)).tolist())
        assert isinstance(found, Fit)
        held += found.low <= ASYMPTOTE <= found.high
    assert held >= 4


def test_a_curve_that_still_climbs_has_no_asymptote() -> None:
    compute = np.array([0.0, *np.linspace(5, 90, 12)])
    noise = np.random.default_rng(0).normal(0, 0.01, len(compute))
    found = fit(compute.tolist(), (curve(compute) + noise).tolist())
    assert isinstance(found, Undetermined)


@pytest.mark.parametrize(
    ("compute", "performance", "reason"),
    [
        ([0, 1, 2, 3], [0.1, 0.2, 0.3, 0.3], "4 of the 7 points that it takes are there"),
        (
            [0, *range(10, 20)],
            [0.1 * i for i in range(10)] + [0.95],
            "span only a factor 1.9",
        ),
        (
            [0, *range(1, 21)],
            [0.5, *np.random.default_rng(1).normal(0.5, 0.05, 20)],
            "does not stand out from the noise",
        ),
    ],
)
def test_points_that_determine_nothing_are_refused_with_the_reason(
    compute: list[float], performance: list[float], reason: str
) -> None:
    found = fit(compute, performance)
    assert isinstance(found, Undetermined)
    assert reason in found.reason


def history(num: int, *, every: int) -> History:
    lines: History = [(0, {"heldout/avg@4": START})]
    for step in range(1, num + 1):
        reached = float(curve(np.array([40.0 * step]))[()].item())
        metrics = {
            "rollout/sampled_tokens": 10.0,
            "rollout/learned_tokens": 10.0,
            "accuracy/mean": reached,
        }
        lines.append((step, metrics | ({"heldout/avg@4": reached} if step % every == 0 else {})))
    return lines


def test_compute_is_a_pass_a_sampled_and_three_a_learned_token() -> None:
    found = compute_curve(Columns(history(60, every=5)))
    assert found is not None
    assert found.metric == "heldout/avg@4"
    assert list(found.steps[:3]) == [0, 5, 10]
    assert list(found.compute[:3]) == [0.0, 200.0, 400.0]
    assert isinstance(found.fit, Fit)
    assert found.fit.asymptote == pytest.approx(ASYMPTOTE, abs=0.01)


def test_accuracy_in_training_stands_in_where_evaluations_are_few() -> None:
    found = compute_curve(Columns(history(60, every=30)))
    assert found is not None
    assert found.metric == "accuracy/mean"
    assert isinstance(found.fit, Fit)
    assert compute_curve(Columns([(1, {"reward/mean": 1.0})])) is None
    few = compute_curve(Columns(history(3, every=1)))
    assert few is not None
    assert isinstance(few.fit, Undetermined)
