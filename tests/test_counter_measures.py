"""What holds updates back reaches them, and only while it holds."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cispo.config import TokenWeighting
from cispo.counter_measures import NO_MEASURES, CounterMeasures, MeasuredLearner
from cispo.types import Metrics, Sample
from tests.learner.tables import (
    TablePolicy,
    local_learner,
    make_rule,
    random_samples,
    with_behaviour,
)

ALL = CounterMeasures(
    ratio_max=1.5, max_grad_norm=1e-3, token_weighting=TokenWeighting.SAMPLE_TOKEN
)


class Journal:
    """A learner that remembers what held."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    async def step(self, samples: Sequence[Sample], measures: CounterMeasures) -> Metrics:
        self.calls.append(measures)
        return {"learn/loss": float(len(samples))}

    async def save(self, folder: Path) -> None:
        self.calls.append(("save", folder))

    async def restore(self, folder: Path) -> None:
        self.calls.append(("restore", folder))


async def test_every_update_obeys_what_holds_when_it_is_taken(tmp_path: Path) -> None:
    journal, holding = Journal(), [ALL, NO_MEASURES]
    learner = MeasuredLearner(journal, lambda: holding.pop())
    samples = random_samples(3)
    assert await learner.step(samples) == {"learn/loss": 3.0}
    await learner.step(samples)
    await learner.save(tmp_path)
    await learner.restore(tmp_path)
    assert journal.calls == [NO_MEASURES, ALL, ("save", tmp_path), ("restore", tmp_path)]


def test_a_rule_under_measures_is_the_rule_with_their_values() -> None:
    rule = make_rule(ratio_max=5.0)
    assert rule.under(NO_MEASURES) == rule
    held = rule.under(ALL)
    assert (held.ratio_max, held.token_weighting) == (1.5, TokenWeighting.SAMPLE_TOKEN)
    assert (held.kind, held.ratio_min, held.temperature) == (rule.kind, 0.0, rule.temperature)
    assert rule.under(CounterMeasures(ratio_max=2.0)).token_weighting == rule.token_weighting


def test_a_learner_under_measures_steps_as_one_that_is_configured_so_and_forgets_them() -> None:
    # log mu is so low that every ratio is capped; the gradient is far above the lower threshold
    samples = [with_behaviour(sample, -9.0) for sample in random_samples(6)]
    policies = [TablePolicy(), TablePolicy(), TablePolicy()]
    configured = local_learner(
        policies[0], make_rule(ratio_max=1.5, token_weighting="sample_token"), max_grad_norm=1e-3
    )
    steered = local_learner(policies[1], make_rule(ratio_max=2.0), max_grad_norm=10.0)
    free = local_learner(policies[2], make_rule(ratio_max=2.0), max_grad_norm=10.0)
    assert steered.step(samples, ALL) == configured.step(samples)
    torch.testing.assert_close(policies[1].table, policies[0].table, rtol=0, atol=0)
    assert steered.step(samples)["learn/clipped_fraction"] == 0.0
    assert free.step(samples)["weight/mean"] == pytest.approx(2.0)
    assert steered.step(samples, ALL)["weight/mean"] == pytest.approx(1.5)


def test_measures_say_what_they_change() -> None:
    assert str(NO_MEASURES) == ""
    assert str(ALL) == "ratio_max=1.5, max_grad_norm=0.001, token_weighting=sample_token"
