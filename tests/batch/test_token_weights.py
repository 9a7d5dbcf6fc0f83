from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.batch.packing import pack
from cispo.batch.plan import plan_passes
from cispo.batch.token_weights import token_weights
from cispo.config import TokenWeighting
from cispo.types import Sample
from tests.fakes import make_rollout

KINDS = list(TokenWeighting)


def sample(length: int, *, group: int = 0, prompt: int = 2) -> Sample:
    rollout = make_rollout(num_action_tokens=length, num_prompt_tokens=prompt)
    return Sample(rollout=rollout, advantage=1.0, group_index=group)


# Group 4 has samples of 1 and 3 actions, group 9 has one of 8.
SAMPLES = [sample(1, group=4), sample(8, group=9), sample(3, group=4)]


def test_prompt_average_divides_by_the_tokens_of_the_group_and_by_the_groups() -> None:
    # 1 / (2 groups * 4 tokens), 1 / (2 * 8), 1 / (2 * 4)
    weights = token_weights(SAMPLES, weighting=TokenWeighting.PROMPT)
    assert weights == pytest.approx([1 / 8, 1 / 16, 1 / 8])


def test_token_average_divides_by_all_tokens() -> None:
    assert token_weights(SAMPLES, weighting=TokenWeighting.TOKEN) == pytest.approx([1 / 12] * 3)


def test_sample_average_divides_by_the_tokens_of_the_sample_and_by_the_samples() -> None:
    weights = token_weights(SAMPLES, weighting=TokenWeighting.SAMPLE)
    assert weights == pytest.approx([1 / 3, 1 / 24, 1 / 9])


def test_the_combination_is_half_sample_and_half_token_average() -> None:
    weights = token_weights(SAMPLES, weighting=TokenWeighting.SAMPLE_TOKEN)
    assert weights == pytest.approx(
        [(1 / 3 + 1 / 12) / 2, (1 / 24 + 1 / 12) / 2, (1 / 9 + 1 / 12) / 2]
    )


def test_a_long_sample_weighs_most_per_token_average_least_per_sample_average() -> None:
    def share(kind: TokenWeighting) -> float:
        return 8 * token_weights(SAMPLES, weighting=kind)[1]

    shares = [
        share(k) for k in (TokenWeighting.SAMPLE, TokenWeighting.SAMPLE_TOKEN, TokenWeighting.TOKEN)
    ]
    assert shares == pytest.approx([1 / 3, 1 / 2, 2 / 3])


samples_strategy = st.lists(
    st.builds(
        sample,
        st.integers(1, 40),
        group=st.integers(0, 4),
        prompt=st.integers(1, 10),
    ),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("kind", KINDS)
@given(samples=samples_strategy, budget=st.integers(1, 120), num_ranks=st.integers(1, 4))
def test_weights_sum_to_one_over_all_micro_batches_and_ranks(
    kind: TokenWeighting, samples: list[Sample], budget: int, num_ranks: int
) -> None:
    plan = plan_passes(_lengths(samples), micro_batch_tokens=budget, num_ranks=num_ranks)
    weights = token_weights(samples, weighting=kind)
    total = sum(
        batch.token_weights.double().sum().item()
        for rank in range(num_ranks)
        for batch in pack(samples, weights, plan.passes, rank=rank)
    )
    assert total == pytest.approx(1.0, rel=1e-5)


def _lengths(samples: Sequence[Sample]) -> list[int]:
    return [len(sample.rollout.token_ids) for sample in samples]


# --- known-wrong normalisers --------------------------------------------------------------------


def check_normaliser(weigh: Callable[[Sequence[Sample], int], list[list[float]]]) -> None:
    """The weight of a sample does not depend on how the update is cut into micro-batches."""
    samples = [sample(2), sample(2), sample(6)]
    whole = weigh(samples, 1000)
    cut = weigh(samples, 8)
    assert len(cut) > len(whole) == 1
    assert sorted(w for part in cut for w in part) == pytest.approx(sorted(whole[0]))
    mask_total = sum(whole[0][i] * samples[i].rollout.num_action_tokens for i in range(3))
    assert mask_total == pytest.approx(1.0)


def _ours(samples: Sequence[Sample], budget: int) -> list[list[float]]:
    weights = token_weights(samples, weighting=TokenWeighting.TOKEN)
    if budget >= 1000:
        return [weights]
    plan = plan_passes(_lengths(samples), micro_batch_tokens=budget)
    batches = pack(samples, weights, plan.passes)
    return [
        [batch.token_weights[end - 1].item() for end in batch.cu_seqlens[1:].tolist()]
        for batch in batches
    ]


def _per_micro_batch(samples: Sequence[Sample], budget: int) -> list[list[float]]:
    parts = [list(samples)] if budget >= 1000 else [list(samples[:2]), list(samples[2:])]
    return [token_weights(part, weighting=TokenWeighting.TOKEN) for part in parts]


def _prompt_tokens_count(samples: Sequence[Sample], budget: int) -> list[list[float]]:
    total = sum(len(s.rollout.token_ids) for s in samples)
    parts = [list(samples)] if budget >= 1000 else [list(samples[:2]), list(samples[2:])]
    return [[1 / total for _ in part] for part in parts]


def test_our_normaliser_passes_the_check() -> None:
    check_normaliser(_ours)


@pytest.mark.parametrize("wrong", [_per_micro_batch, _prompt_tokens_count])
def test_a_wrong_normaliser_fails_the_check(
    wrong: Callable[[Sequence[Sample], int], list[list[float]]],
) -> None:
    with pytest.raises(AssertionError):
        check_normaliser(wrong)
