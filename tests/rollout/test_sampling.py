"""Sampling against hand arithmetic, float64 references and chi-square."""

import math

import pytest
import torch
from torch import Tensor

from rollout.sampling import Drawn, NonFiniteLogitsError, sample, uniforms
from rollout.truncation import SamplingRows


def settings(
    rows: int, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> SamplingRows:
    return SamplingRows(
        torch.full((rows,), temperature),
        torch.full((rows,), top_p, dtype=torch.float64),
        torch.full((rows,), top_k),
        torch.full((rows,), min_p),
    )


def draw_grid(probabilities: list[float], points: int, **knobs: float) -> Drawn:
    """Draw with evenly spread uniform numbers, so that counts are exact."""
    logits = torch.tensor(probabilities).log().repeat(points, 1)
    noise = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return sample(logits, noise, settings(points, **knobs))


def counts(drawn: Drawn, size: int) -> list[int]:
    return torch.bincount(drawn.token_ids, minlength=size).tolist()


def test_counts_follow_the_probabilities() -> None:
    drawn = draw_grid([0.1, 0.2, 0.3, 0.4], 1000)
    assert counts(drawn, 4) == [100, 200, 300, 400]
    assert torch.allclose(drawn.logprobs.exp(), torch.tensor([0.1, 0.2, 0.3, 0.4])[drawn.token_ids])
    assert torch.equal(drawn.logprobs, drawn.full_logprobs)


def test_temperature_two_takes_the_square_root_of_the_odds() -> None:
    # odds 1 : 4 : 16 become 1 : 2 : 4 of 7
    drawn = draw_grid([1 / 21, 4 / 21, 16 / 21], 700, temperature=2.0)
    assert counts(drawn, 3) == [100, 200, 400]
    expected = torch.tensor([1 / 7, 2 / 7, 4 / 7])[drawn.token_ids]
    assert torch.allclose(drawn.logprobs.exp(), expected)


def test_top_k_keeps_the_likeliest_and_renormalises() -> None:
    drawn = draw_grid([0.1, 0.4, 0.2, 0.3], 700, top_k=2)
    assert counts(drawn, 4) == [0, 400, 0, 300]
    assert torch.allclose(drawn.logprobs.exp(), torch.tensor([0, 4 / 7, 0, 3 / 7])[drawn.token_ids])
    kept = (drawn.full_logprobs - drawn.logprobs).exp()
    assert torch.allclose(kept, torch.tensor(0.7))


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass() -> None:
    assert counts(draw_grid([0.1, 0.4, 0.2, 0.3], 900, top_p=0.71), 4) == [0, 400, 200, 300]
    assert counts(draw_grid([0.1, 0.4, 0.2, 0.3], 700, top_p=0.69), 4) == [0, 400, 0, 300]
    assert counts(draw_grid([0.1, 0.4, 0.2, 0.3], 700, top_p=0.01), 4) == [0, 700, 0, 0]


def test_top_p_applies_to_what_top_k_left() -> None:
    # of 0.4 and 0.3 the first alone holds 4/7 = 0.571
    assert counts(draw_grid([0.1, 0.4, 0.2, 0.3], 700, top_k=2, top_p=0.57), 4) == [0, 700, 0, 0]
    assert counts(draw_grid([0.1, 0.4, 0.2, 0.3], 700, top_k=2, top_p=0.58), 4) == [0, 400, 0, 300]


def test_min_p_cuts_relative_to_the_likeliest() -> None:
    # 0.1 < 0.3 * 0.4 = 0.12
    drawn = draw_grid([0.1, 0.4, 0.2, 0.3], 900, min_p=0.3)
    assert counts(drawn, 4) == [0, 400, 200, 300]


@pytest.mark.parametrize("vocabulary", [5, 128, 1000, 1024])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 3},
        {"top_k": 200},
        {"top_p": 0.9},
        {"min_p": 0.02},
        {"top_p": 0.8, "top_k": 300, "min_p": 0.001, "temperature": 1.3},
    ],
)
def test_logprobs_are_those_of_a_float64_reference(
    vocabulary: int, knobs: dict[str, float]
) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(40, vocabulary, generator=generator)
    noise = torch.rand(40, generator=generator, dtype=torch.float64)
    drawn = sample(logits, noise, settings(40, **knobs))
    reference = truncated_reference(logits, **knobs)
    picked = reference.gather(1, drawn.token_ids[:, None])[:, 0]
    assert torch.allclose(drawn.logprobs.double(), picked.log(), atol=2e-6)
    assert torch.allclose(reference.sum(-1), torch.ones(40, dtype=torch.float64))


def truncated_reference(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> Tensor:
    """The distribution after truncation [N, V], token by token in plain Python floats."""
    rows = []
    for row in (logits.double() / temperature).softmax(-1).tolist():
        ranked = sorted(range(len(row)), key=lambda token: -row[token])
        ranked = ranked[: top_k or len(row)]
        whole = math.fsum(row[token] for token in ranked)
        kept, mass = [], 0.0
        for token in ranked:
            if (top_p < 1 and mass >= top_p * whole) or row[token] < min_p * row[ranked[0]]:
                break
            kept.append(token)
            mass += row[token]
        rows.append([row[t] / mass if t in set(kept) else 0.0 for t in range(len(row))])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("knobs", [{}, {"top_p": 0.9}, {"top_k": 20, "temperature": 1.5}])
def test_frequencies_pass_a_chi_square_test(knobs: dict[str, float]) -> None:
    draws = 40_000
    logits = 1.5 * torch.randn(50, generator=torch.Generator().manual_seed(3))
    noise = uniforms(torch.full((draws,), 99), torch.arange(draws))
    drawn = sample(logits.repeat(draws, 1), noise, settings(draws, **knobs))
    expected = truncated_reference(logits[None], **knobs)[0] * draws
    seen = torch.bincount(drawn.token_ids, minlength=50).double()
    assert seen[expected == 0].sum() == 0
    often = expected > 5
    statistic = float(((seen - expected)[often] ** 2 / expected[often]).sum())
    freedom = int(often.sum()) - 1
    # Wilson and Hilferty: 4 standard deviations of the cube root
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = 4 * torch.randn(70, 1000, generator=generator)
    noise = torch.rand(70, generator=generator, dtype=torch.float64)
    mixed = SamplingRows(
        torch.tensor([1.0, 0.8] * 35),
        torch.tensor([1.0, 1.0, 0.9, 0.999, 1.0] * 14, dtype=torch.float64),
        torch.tensor([0, 0, 0, 0, 7, 300, 0] * 10),
        torch.tensor([0.0, 0.0, 0.0, 0.1, 0.0] * 14),
    )
    together = sample(logits, noise, mixed)
    for row in range(70):
        index = torch.tensor([row])
        alone = sample(logits[index], noise[index], mixed.rows(index))
        assert all(torch.equal(a, b[index]) for a, b in zip(alone, together, strict=True))
    order = torch.randperm(70, generator=generator)
    shuffled = sample(logits[order], noise[order], mixed.rows(order))
    assert all(torch.equal(a, b[order]) for a, b in zip(shuffled, together, strict=True))


@pytest.mark.parametrize("noise", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_interval_never_draw_a_forbidden_token(noise: float) -> None:
    logits = torch.full((1, 300), -math.inf)
    logits[0, 7], logits[0, 150] = 0.0, -1.0
    edge = torch.tensor([noise], dtype=torch.float64)
    token = int(sample(logits, edge, settings(1)).token_ids)
    assert token == (7 if noise == 0.0 else 150)
    assert int(sample(logits, edge, settings(1, top_p=0.99)).token_ids) == token


def test_a_nan_is_refused_and_its_row_named() -> None:
    logits = torch.zeros(3, 10)
    logits[1, 4] = math.nan
    with pytest.raises(NonFiniteLogitsError) as caught:
        sample(logits, torch.zeros(3, dtype=torch.float64), settings(3))
    assert caught.value.row == 1


def test_uniforms_are_splitmix64() -> None:
    # first outputs of the reference implementation for seed 1234567
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    drawn = uniforms(torch.full((3,), 1234567), torch.arange(3))
    assert drawn.tolist() == [(value >> 11) * 2.0**-53 for value in outputs]


def test_uniforms_of_many_seeds_are_flat() -> None:
    drawn = uniforms(torch.arange(100_000) * 7919, torch.zeros(100_000, dtype=torch.int64))
    seen = torch.histc(drawn, bins=20, min=0, max=1)
    assert float(((seen - 5000) ** 2 / 5000).sum()) < 53.0  # 99.999% of chi-square with 19
    assert 0.0 <= float(drawn.min()) <= float(drawn.max()) < 1.0
