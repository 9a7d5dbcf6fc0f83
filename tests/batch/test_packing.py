from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cispo.batch.packing import (
    MIXED_VERSIONS,
    Batch,
    collate,
    pack,
)
from cispo.batch.plan import plan_passes
from cispo.types import PolicyVersion, Rollout, Sample, StopReason

PAD = 0


def sample(
    tokens: list[int], mask: list[int], *, advantage: float = 1.0, task: str = "t"
) -> Sample:
    return Sample(
        rollout=Rollout(
            task_id=task,
            token_ids=tokens,
            action_mask=[bool(m) for m in mask],
            behaviour_logprobs=[-0.5 * m for m in mask],
            text="",
            stop_reason=StopReason.END_OF_TURN,
            oldest_version=PolicyVersion(3),
            newest_version=PolicyVersion(3),
        ),
        advantage=advantage,
        group_index=0,
    )


def test_sequences_lie_end_to_end_and_every_field_follows_its_token() -> None:
    # the second sample is a conversation: sampled, tool output, sampled
    batch = collate(
        [
            sample([5, 6, 7], [0, 1, 1], advantage=2.0, task="a"),
            sample([8, 9, 8, 9], [0, 1, 0, 1], advantage=-1.0, task="b"),
        ],
        [0.1, 0.4],
    )
    assert batch.token_ids.tolist() == [5, 6, 7, 8, 9, 8, 9]
    assert batch.cu_seqlens.tolist() == [0, 3, 7]
    assert batch.action_mask.tolist() == [False, True, True, False, True, False, True]
    assert batch.behaviour_logprobs.tolist() == [0, -0.5, -0.5, 0, -0.5, 0, -0.5]
    assert batch.advantages.tolist() == [0, 2, 2, 0, -1, 0, -1]
    assert batch.token_weights.tolist() == pytest.approx([0, 0.1, 0.1, 0, 0.4, 0, 0.4])
    assert batch.task_ids == ("a", "b")
    assert batch.versions.tolist() == [3, 3]
    assert batch.num_tokens == 7
    dtypes = [batch.token_ids.dtype, batch.cu_seqlens.dtype, batch.behaviour_logprobs.dtype]
    assert dtypes == [torch.int64, torch.int32, torch.float32]


def test_a_rollout_of_several_versions_is_marked() -> None:
    one = sample([1, 2], [0, 1])
    mixed = Rollout(
        task_id="m",
        token_ids=[1, 2],
        action_mask=[False, True],
        behaviour_logprobs=[0.0, -1.0],
        text="",
        stop_reason=StopReason.LENGTH,
        oldest_version=PolicyVersion(2),
        newest_version=PolicyVersion(3),
    )
    batch = collate([one, Sample(rollout=mixed, advantage=0.0, group_index=0)], [0.5, 0.5])
    assert batch.versions.tolist() == [3, MIXED_VERSIONS]


def test_arrays_are_taken_as_they_are() -> None:
    rollout = Rollout(
        task_id="t",
        token_ids=np.array([4, 5], dtype=np.int32),  # type: ignore[arg-type]
        action_mask=np.array([False, True]),  # type: ignore[arg-type]
        behaviour_logprobs=np.array([0.0, -2.0], dtype=np.float32),  # type: ignore[arg-type]
        text="",
        stop_reason=StopReason.LENGTH,
        oldest_version=PolicyVersion(1),
        newest_version=PolicyVersion(1),
    )
    batch = collate([Sample(rollout=rollout, advantage=1.0, group_index=0)], [1.0])
    assert batch.token_ids.tolist() == [4, 5]
    assert batch.behaviour_logprobs.tolist() == [0.0, -2.0]


@given(
    rows=st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=12), min_size=1, max_size=8),
    budget=st.integers(1, 40),
    num_ranks=st.integers(1, 4),
)
def test_packing_moves_tokens_and_loses_adds_or_changes_none(
    rows: list[list[int]], budget: int, num_ranks: int
) -> None:
    samples = [sample(row, [0] + [1] * (len(row) - 1), task=str(i)) for i, row in enumerate(rows)]
    weights = [1.0 + i for i in range(len(rows))]
    plan = plan_passes([len(row) for row in rows], micro_batch_tokens=budget, num_ranks=num_ranks)
    seen: dict[int, list[int]] = {}
    for rank in range(num_ranks):
        batches = pack(samples, weights, plan.passes, rank=rank)
        assert len(batches) == len(plan.passes)
        for batch in batches:
            if not batch.token_weights.any():  # stands in where the rank has nothing left
                continue
            borders = batch.cu_seqlens.tolist()
            assert borders[-1] == batch.num_tokens
            for task, start, end in zip(batch.task_ids, borders, borders[1:], strict=False):
                assert int(task) not in seen
                seen[int(task)] = batch.token_ids[start:end].tolist()
                assert batch.token_weights[start] == 0
                assert batch.token_weights[start + 1 : end].unique().tolist() == [1.0 + int(task)]
    assert [seen[i] for i in range(len(rows))] == rows


def test_a_rank_without_work_repeats_the_shortest_sample_without_weight() -> None:
    samples = [sample([1, 2, 3], [0, 1, 1], task="a"), sample([4, 5], [0, 1], task="b")]
    (batch,) = pack(samples, [0.25, 0.5], [[[0, 1], []]], rank=1)
    assert batch.task_ids == ("b",)
    assert batch.token_weights.tolist() == [0.0, 0.0]


# --- known-wrong masks ---------------------------------------------------------------------------


def check_mask(mask_of: Callable[[Batch], Tensor]) -> None:
    """A sampled token that equals the pad id counts, a prompt or tool token never does."""
    batch = collate([sample([PAD, 3, PAD, 4, PAD], [0, 0, 1, 0, 1])], [0.5])
    assert mask_of(batch).tolist() == [False, False, True, False, True]


def test_the_mask_says_where_a_token_was_sampled() -> None:
    check_mask(lambda batch: batch.action_mask)
    check_mask(lambda batch: batch.token_weights != 0)


def _from_pad_id(batch: Batch) -> Tensor:
    return batch.token_ids != PAD


def _all_after_the_prompt(batch: Batch) -> Tensor:
    first = int(batch.action_mask.nonzero()[0])
    return torch.arange(batch.num_tokens) >= first


@pytest.mark.parametrize("wrong", [_from_pad_id, _all_after_the_prompt])
def test_a_wrong_mask_fails_the_check(wrong: Callable[[Batch], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_mask(wrong)
