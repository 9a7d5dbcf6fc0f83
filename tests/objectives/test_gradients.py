"""Each loss against gradients from hand arithmetic, and known-wrong losses that must not pass."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from cispo.objectives import cispo_loss, gspo_loss, ppo_clip_loss, reinforce_loss

Loss = Callable[..., tuple[Tensor, Tensor]]

# One sequence of five tokens: a prompt token and four actions with ratios 1/2, 1, 3 and 10.
RATIOS = [1.0, 0.5, 1.0, 3.0, 10.0]
WEIGHTS = [0.0, 0.1, 0.2, 0.3, 0.4]
BEHAVIOUR = [0.0, -1.0, -2.0, -3.0, -4.0]


def gradient(
    loss: Loss, advantages: list[float], *, cu_seqlens: Tensor | None = None
) -> tuple[float, list[float], list[float]]:
    """Loss, its gradient by log pi, and the returned weights on the five tokens."""
    behaviour = torch.tensor([BEHAVIOUR], dtype=torch.float64)
    logprobs = behaviour + torch.tensor([RATIOS], dtype=torch.float64).log()
    logprobs.requires_grad_()
    value, weights = loss(
        logprobs,
        behaviour,
        torch.tensor([advantages], dtype=torch.float64),
        torch.tensor([WEIGHTS], dtype=torch.float64),
        cu_seqlens=cu_seqlens,
    )
    (grad,) = torch.autograd.grad(value, logprobs)
    assert not weights.requires_grad
    return value.item(), grad[0].tolist(), weights[0].tolist()


def check_cispo(loss: Loss) -> None:
    """CISPO with bounds 0..5: dJ/dlog pi = a * min(r, 5) * A, on every token and for both signs."""
    # clipped ratios 0.5, 1, 3, 5; weights 0.1, 0.2, 0.3, 0.4
    for sign in (1.0, -1.0):
        value, grad, weights = gradient(loss, [0.0, *[2.0 * sign] * 4])
        expected = [0.0, 0.1 * 0.5, 0.2 * 1.0, 0.3 * 3.0, 0.4 * 5.0]
        assert grad == pytest.approx([-2.0 * sign * e for e in expected], rel=1e-12)
        logprobs = [b + math.log(r) for b, r in zip(BEHAVIOUR, RATIOS, strict=True)]
        expected_loss = -2.0 * sign * sum(e * p for e, p in zip(expected, logprobs, strict=True))
        assert value == pytest.approx(expected_loss, rel=1e-12)
        assert weights == pytest.approx([0.0, 0.5, 1.0, 3.0, 5.0], rel=1e-12)


def test_cispo_keeps_the_gradient_of_every_token_and_bounds_its_weight() -> None:
    check_cispo(partial(cispo_loss, ratio_max=5.0))


def test_cispo_with_a_lower_bound_raises_small_weights() -> None:
    _, grad, weights = gradient(
        partial(cispo_loss, ratio_max=2.0, ratio_min=0.8), [0.0, 1.0, 1.0, 1.0, 1.0]
    )
    assert weights == pytest.approx([0.0, 0.8, 1.0, 2.0, 2.0], rel=1e-12)
    assert grad == pytest.approx([0.0, -0.08, -0.2, -0.6, -0.8], rel=1e-12)


def test_ppo_clip_drops_tokens_that_went_too_far_and_no_others() -> None:
    dapo = partial(ppo_clip_loss, ratio_min=0.8, ratio_max=1.28)
    # A > 0: gradient a * r * A where r <= 1.28, none above
    value, grad, weights = gradient(dapo, [0.0, 2.0, 2.0, 2.0, 2.0])
    assert grad == pytest.approx([0.0, -2 * 0.1 * 0.5, -2 * 0.2, 0.0, 0.0], rel=1e-12)
    surrogate = 0.1 * 0.5 + 0.2 * 1.0 + 0.3 * 1.28 + 0.4 * 1.28
    assert value == pytest.approx(-2 * surrogate, rel=1e-12)
    assert weights == pytest.approx([0.0, 0.8, 1.0, 1.28, 1.28], rel=1e-12)
    # A < 0: gradient where r >= 0.8, none below, and no cap above
    value, grad, _ = gradient(dapo, [0.0, -2.0, -2.0, -2.0, -2.0])
    assert grad == pytest.approx([0.0, 0.0, 2 * 0.2, 2 * 0.3 * 3, 2 * 0.4 * 10], rel=1e-12)
    assert value == pytest.approx(2 * (0.1 * 0.8 + 0.2 + 0.3 * 3 + 0.4 * 10), rel=1e-12)


def test_reinforce_weighs_by_the_whole_ratio_unless_it_is_bounded() -> None:
    _, grad, weights = gradient(reinforce_loss, [0.0, 1.0, 1.0, -1.0, 1.0])
    assert weights == pytest.approx([0.0, 0.5, 1.0, 3.0, 10.0], rel=1e-12)
    assert grad == pytest.approx([0.0, -0.05, -0.2, 0.9, -4.0], rel=1e-12)
    _, grad, _ = gradient(partial(reinforce_loss, ratio_max=4.0), [0.0, 1.0, 1.0, -1.0, 1.0])
    assert grad == pytest.approx([0.0, -0.05, -0.2, 0.9, -1.6], rel=1e-12)
    plain = partial(reinforce_loss, ratio_min=1.0, ratio_max=1.0)
    assert gradient(plain, [0.0, 1.0, 1.0, -1.0, 1.0])[1] == pytest.approx(
        [0.0, -0.1, -0.2, 0.3, -0.4], rel=1e-12
    )


def test_gspo_clips_the_mean_ratio_of_a_sequence() -> None:
    # s = (1/2 * 1 * 3 * 10)^(1/4) = 15^(1/4); token weights sum to 1: gradient s A / 4 each
    s = 15**0.25
    value, grad, weights = gradient(partial(gspo_loss, ratio_max=5.0), [0.0, 2.0, 2.0, 2.0, 2.0])
    assert value == pytest.approx(-2 * s, rel=1e-12)
    assert grad == pytest.approx([0.0, *[-2 * s / 4] * 4], rel=1e-12)
    assert weights == pytest.approx([0.0, s, s, s, s], rel=1e-12)
    value, grad, weights = gradient(partial(gspo_loss, ratio_max=1.5), [0.0, 2.0, 2.0, 2.0, 2.0])
    assert value == pytest.approx(-2 * 1.5, rel=1e-12)
    assert grad == [0.0] * 5
    _, grad, _ = gradient(partial(gspo_loss, ratio_max=1.5), [0.0, -2.0, -2.0, -2.0, -2.0])
    assert grad == pytest.approx([0.0, *[2 * s / 4] * 4], rel=1e-12)


def test_gspo_gives_packed_sequences_and_rows_the_same_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs, behaviour, advantages = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64)
    advantages = advantages[:, :1].expand(2, 6)
    weights = torch.tensor([[0, 0, 0.1, 0.1, 0.1, 0.1], [0, 0.2, 0.2, 0.2, 0, 0]])
    rows, row_weights = gspo_loss(logprobs, behaviour, advantages, weights, ratio_max=5.0)
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    packed, packed_weights = gspo_loss(
        logprobs[keep],
        behaviour[keep],
        advantages[keep],
        weights[keep],
        ratio_max=5.0,
        cu_seqlens=torch.tensor([0, 6, 10], dtype=torch.int32),
    )
    assert packed.item() == pytest.approx(rows.item(), rel=1e-12)
    assert packed_weights.tolist() == pytest.approx(row_weights[keep].tolist(), rel=1e-12)


def test_gspo_refuses_a_packed_row_without_its_borders() -> None:
    with pytest.raises(ValueError, match="need cu_seqlens"):
        gspo_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.ones(3), ratio_max=2.0)


# --- known-wrong losses -----------------------------------------------------------------------


def _wrong(
    make: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Loss:
    def loss(
        logprobs: Tensor,
        behaviour: Tensor,
        advantages: Tensor,
        token_weights: Tensor,
        *,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        value, weights = make(logprobs, behaviour, advantages, token_weights)
        return value, (weights * (token_weights != 0)).detach()

    return loss


@_wrong
def without_stop_gradient(lp: Tensor, mu: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    weights = (lp - mu).exp().clamp(0.0, 5.0)
    return -(w * weights * a * lp).sum(), weights


@_wrong
def offset_bound(lp: Tensor, mu: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    weights = (lp - mu).exp().detach().clamp(1 - 1.0, 1 + 5.0)
    return -(w * weights * a * lp).sum(), weights


@_wrong
def cap_below_one(lp: Tensor, mu: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    weights = (lp - mu).exp().detach().clamp(max=0.2)
    return -(w * weights * a * lp).sum(), weights


@_wrong
def flipped_sign(lp: Tensor, mu: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    weights = (lp - mu).exp().detach().clamp(0.0, 5.0)
    return (w * weights * a * lp).sum(), weights


@_wrong
def clamp_without_log_probability(
    lp: Tensor, mu: Tensor, a: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    weights = (lp - mu).exp().clamp(0.0, 5.0)
    return -(w * weights * a).sum(), weights


@_wrong
def cap_for_positive_advantages_only(
    lp: Tensor, mu: Tensor, a: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    ratios = (lp - mu).exp().detach()
    weights = torch.where(a > 0, ratios.clamp(max=5.0), ratios)
    return -(w * weights * a * lp).sum(), weights


@_wrong
def mean_over_the_batch(lp: Tensor, mu: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    weights = (lp - mu).exp().detach().clamp(0.0, 5.0)
    return -(w * weights * a * lp).mean(), weights


@_wrong
def inverted_ratio(lp: Tensor, mu: Tensor, a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    weights = (mu - lp).exp().detach().clamp(0.0, 5.0)
    return -(w * weights * a * lp).sum(), weights


@pytest.mark.parametrize(
    "wrong",
    [
        without_stop_gradient,
        offset_bound,
        cap_below_one,
        flipped_sign,
        clamp_without_log_probability,
        cap_for_positive_advantages_only,
        mean_over_the_batch,
        inverted_ratio,
    ],
)
def test_a_wrong_cispo_fails_the_check(wrong: Loss) -> None:
    with pytest.raises(AssertionError):
        check_cispo(wrong)
