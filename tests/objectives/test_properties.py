"""What holds for every objective, whatever the numbers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cispo.config import ObjectiveKind
from cispo.objectives import cispo_loss, objective, ppo_clip_loss

KINDS = list(ObjectiveKind)


def random_inputs(seed: int, *, rows: int = 3, length: int = 7) -> dict[str, Tensor]:
    """Rows of actions with a prompt in front and padding behind."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(rows, length, generator=generator) * 3
    mask = torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        mask[row, 1 + row % 2 : length - row % 3] = True
    return {
        "logprobs": logprobs,
        "behaviour_logprobs": logprobs + 0.4 * torch.randn(rows, length, generator=generator),
        "advantages": torch.randn(rows, 1, generator=generator).expand(rows, length).clone(),
        "token_weights": mask / mask.sum(),
    }


def loss_and_gradient(kind: ObjectiveKind, inputs: dict[str, Tensor]) -> tuple[Any, Any, Any]:
    logprobs = inputs["logprobs"].clone().requires_grad_()
    chosen = objective(kind, ratio_max=1.3, ratio_min=0.0)
    loss, weights = chosen(
        logprobs,
        inputs["behaviour_logprobs"],
        inputs["advantages"],
        inputs["token_weights"],
    )
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), gradient, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [7.0, math.nan, math.inf, -math.inf])
def test_whatever_stands_off_the_mask_changes_nothing(kind: ObjectiveKind, garbage: float) -> None:
    clean = random_inputs(0)
    off = clean["token_weights"] == 0
    dirty = {
        name: value if name == "token_weights" else torch.where(off, garbage, value)
        for name, value in clean.items()
    }
    for one, other in zip(
        loss_and_gradient(kind, clean), loss_and_gradient(kind, dirty), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["logprobs", "behaviour_logprobs", "advantages"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_number_on_the_mask_is_never_hidden(
    kind: ObjectiveKind, name: str, value: float
) -> None:
    inputs = random_inputs(1)
    inputs[name][0, 2] = value
    assert inputs["token_weights"][0, 2] > 0
    loss, _, _ = loss_and_gradient(kind, inputs)
    assert not math.isfinite(loss.item())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_weights_are_zero_off_the_mask(kind: ObjectiveKind) -> None:
    inputs = random_inputs(2)
    off = inputs["token_weights"] == 0
    _, gradient, weights = loss_and_gradient(kind, inputs)
    assert not gradient[off].any()
    assert not weights[off].any()
    assert weights[~off].gt(0).all()


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), length=st.integers(5, 12))
@settings(max_examples=30, deadline=None)
def test_rows_add_up_to_the_batch(kind: ObjectiveKind, seed: int, rows: int, length: int) -> None:
    inputs = random_inputs(seed, rows=rows, length=length)
    whole, gradient, _ = loss_and_gradient(kind, inputs)
    parts = [
        loss_and_gradient(kind, {name: value[row : row + 1] for name, value in inputs.items()})
        for row in range(rows)
    ]
    assert sum(part[0] for part in parts) == pytest.approx(whole.item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)


@given(seed=st.integers(0, 10_000), ratio_max=st.floats(1.0, 10.0), ratio_min=st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_on_policy_cispo_and_ppo_have_the_same_gradient_to_the_bit(
    seed: int, ratio_max: float, ratio_min: float
) -> None:
    inputs = random_inputs(seed)
    inputs["behaviour_logprobs"] = inputs["logprobs"].clone()  # ratio is exactly one
    gradients = []
    for loss in (cispo_loss, ppo_clip_loss):
        logprobs = inputs["logprobs"].clone().requires_grad_()
        value, _ = loss(
            logprobs,
            inputs["behaviour_logprobs"],
            inputs["advantages"],
            inputs["token_weights"],
            ratio_max=ratio_max,
            ratio_min=ratio_min,
        )
        gradients.append(torch.autograd.grad(value, logprobs)[0])
    assert torch.equal(*gradients)
    assert gradients[0].any()


def test_a_huge_but_finite_ratio_is_clipped_and_stays_finite() -> None:
    logprobs = torch.zeros(1, 2, requires_grad=True)
    behaviour = torch.tensor([[-200.0, -1.0]])
    loss, weights = cispo_loss(
        logprobs, behaviour, torch.ones(1, 2), torch.full((1, 2), 0.5), ratio_max=5.0
    )
    assert math.isfinite(loss.item())
    assert weights[0, 0] == 5.0


def test_float32_weights_at_a_bound_equal_the_bound_that_diagnostics_compare_with() -> None:
    for bound in (1.28, 4.7, 1.1):
        _, weights = cispo_loss(
            torch.zeros(1), torch.full((1,), -3.0), torch.ones(1), torch.ones(1), ratio_max=bound
        )
        assert bool((weights >= bound).all())
