import math

import pytest
import torch

from cispo.policy.lightning.native.build import native_library
from cispo.policy.lightning.native.sampling import native_draw
from rollout.sampling import NonFiniteLogitsError, sample, uniforms
from rollout.truncation import SamplingRows

pytestmark = pytest.mark.skipif(native_library() is None, reason="native kernels cannot be built")


@pytest.fixture
def threads():
    """Sets torch's number of threads; one again after the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def _logits(rows, vocabulary, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(rows, vocabulary, generator=generator)


def _noise(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, dtype=torch.float64, generator=generator)


def _settings(rows, *, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0):
    return SamplingRows(
        torch.full((rows,), temperature),
        torch.full((rows,), top_p, dtype=torch.float64),
        torch.full((rows,), top_k),
        torch.full((rows,), min_p),
    )


def test_the_cumulative_distribution_is_inverted():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(6, 1)
    noise = torch.tensor([0.0, 0.09, 0.11, 0.31, 0.59, 0.61], dtype=torch.float64)
    tokens, logprobs, full_logprobs, bad_row = native_draw(logits, noise, *_settings(6))
    assert bad_row == -1
    assert tokens.tolist() == [0, 0, 1, 2, 2, 3]
    expected = [math.log((0.1, 0.2, 0.3, 0.4)[token]) for token in tokens.tolist()]
    assert logprobs.tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(full_logprobs, logprobs)


def test_of_what_truncation_keeps_the_cumulative_distribution_is_inverted():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(4, 1)
    noise = torch.tensor([0.0, 0.57, 0.58, 0.999], dtype=torch.float64)
    tokens, logprobs, full_logprobs, _ = native_draw(logits, noise, *_settings(4, top_p=0.65))
    assert tokens.tolist() == [3, 3, 2, 2]  # 0.4 and 0.3 are kept, and ranked
    assert full_logprobs.exp().tolist() == pytest.approx([0.4, 0.4, 0.3, 0.3])
    assert logprobs.exp().tolist() == pytest.approx([4 / 7, 4 / 7, 3 / 7, 3 / 7])


@pytest.mark.parametrize("vocabulary", [1, 5, 127, 128, 129, 1000, 4096])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.7},
        {"top_p": 0.8},
        {"top_k": 3, "temperature": 2.0},
        {"top_k": 90},
        {"min_p": 0.05},
        {"top_p": 0.9, "top_k": 70, "min_p": 0.002, "temperature": 1.5},
        {"top_p": 1e-6},
    ],
)
def test_native_and_torch_kernels_draw_the_same_tokens(vocabulary, changes):
    logits, noise, settings = _logits(50, vocabulary), _noise(50), _settings(50, **changes)
    expected = sample(logits, noise, settings)
    actual = sample(logits, noise, settings, kernels="native")
    assert torch.equal(actual.token_ids, expected.token_ids)
    torch.testing.assert_close(actual.logprobs, expected.logprobs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual.full_logprobs, expected.full_logprobs, rtol=1e-6, atol=1e-6)


def test_a_row_is_drawn_to_the_same_bits_in_any_company(threads):
    logits, noise = _logits(70, 40_000), _noise(70)
    settings = _settings(70)
    settings.temperature.copy_(torch.linspace(0.5, 2.0, 70))
    settings.top_p[33], settings.top_k[50], settings.min_p[69] = 0.9, 20, 0.01
    together = native_draw(logits, noise, *settings)[:3]
    for row in (0, 33, 50, 69):
        part = slice(row, row + 1)
        alone = native_draw(logits[part], noise[part], *(column[part] for column in settings))[:3]
        for mine, ours in zip(alone, together, strict=True):
            assert torch.equal(mine[0], ours[row])
    threads(3)
    for mine, ours in zip(native_draw(logits, noise, *settings)[:3], together, strict=True):
        assert torch.equal(mine, ours)


def test_a_forbidden_token_is_never_drawn():
    logits = _logits(4, 300)
    logits[:, :200] = -torch.inf
    logits[:, 250:] = -torch.inf
    noise = torch.tensor([0.0, 1e-300, 0.5, 1 - 2**-53], dtype=torch.float64)
    tokens, logprobs, *_ = native_draw(logits, noise, *_settings(4))
    assert ((tokens >= 200) & (tokens < 250)).all()
    assert logprobs.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, None])
def test_logits_that_are_no_distribution_are_refused(bad):
    logits = _logits(3, 50)
    if bad is None:
        logits[1] = -torch.inf
    else:
        logits[1, 7] = bad
    with pytest.raises(NonFiniteLogitsError) as refused:
        sample(logits, _noise(3), _settings(3), kernels="native")
    assert refused.value.row == 1


def test_the_drawn_tokens_follow_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(30_000, 3)
    tokens = native_draw(logits.contiguous(), _noise(30_000), *_settings(30_000)).token_ids
    counts = torch.bincount(tokens, minlength=3) / 30_000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.01)  # 3 standard deviations


def test_native_and_torch_kernels_give_the_same_noise():
    seeds = torch.tensor([0, 1, -1, 2**62, -(2**63), 12345])
    positions = torch.tensor([0, 7, 2**40, 1, 3, 10**6])
    assert torch.equal(uniforms(seeds, positions, kernels="native"), uniforms(seeds, positions))


def test_a_column_of_another_dtype_is_refused():
    settings = _settings(3)._replace(top_k=torch.zeros(3, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"needs 3 contiguous torch\.int64, not torch\.int32"):
        sample(_logits(3, 10), _noise(3), settings, kernels="native")
