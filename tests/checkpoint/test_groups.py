"""Groups in flight come back to the last bit, and their file runs no code."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cispo.checkpoint.groups import load_groups, save_groups
from cispo.errors import CheckpointError
from cispo.types import Group, Message, PolicyVersion, Rollout
from tests.fakes import make_group, make_rollout


def round_trip(folder: Path, groups: list[Group]) -> tuple[Group, ...]:
    save_groups(folder, groups)
    return load_groups(folder)


def listed(group: Group) -> Group:
    """The same group with lists where a reader makes lists."""
    return replace(group, rollouts=tuple(as_lists(rollout) for rollout in group.rollouts))


def as_lists(rollout: Rollout) -> Rollout:
    return replace(
        rollout,
        token_ids=list(rollout.token_ids),
        action_mask=list(rollout.action_mask),
        behaviour_logprobs=list(rollout.behaviour_logprobs),
    )


def test_every_field_comes_back(tmp_path: Path) -> None:
    group = make_group([1.0, None, 0.25], index=17, lengths=[2, 5, 1], oldest_version=4)
    task = replace(
        group.task,
        messages=(
            Message(role="system", content="é \N{GRINNING FACE}"),
            Message(role="tool", content="4", name="add"),
        ),
        truth={"answer": ["7", {"tests": [1.5, None, True]}]},
        solution="7",
        is_agentic=True,
    )
    routed = replace(group.rollouts[1], routed_experts=bytes(range(14)), submission="diff")
    routed = replace(routed, token_budget=96)
    synced = replace(
        group.rollouts[0], newest_version=PolicyVersion(5), version_runs=((4, 1), (5, 1))
    )
    group = replace(group, task=task, rollouts=(synced, routed, group.rollouts[2]))
    other = make_group([0.5], index=19)
    assert round_trip(tmp_path, [group, other]) == (listed(group), listed(other))


LOGPROBS = st.floats(allow_nan=False, max_value=0.0) | st.floats(width=32, max_value=0.0)


@settings(max_examples=50, deadline=None)
@given(logprobs=st.lists(LOGPROBS, min_size=1, max_size=20))
def test_log_probabilities_keep_every_bit(
    tmp_path_factory: pytest.TempPathFactory, logprobs: list[float]
) -> None:
    rollout = replace(
        make_rollout(num_prompt_tokens=0, num_action_tokens=len(logprobs)),
        behaviour_logprobs=logprobs,
    )
    group = replace(make_group([1.0]), rollouts=(rollout,))
    (found,) = round_trip(tmp_path_factory.mktemp("groups"), [group])
    pairs = zip(found.rollouts[0].behaviour_logprobs, logprobs, strict=True)
    assert all(ours == theirs for ours, theirs in pairs)
    signs = zip(found.rollouts[0].behaviour_logprobs, logprobs, strict=True)
    assert all(math.copysign(1, ours) == math.copysign(1, theirs) for ours, theirs in signs)


def test_no_groups_make_no_file(tmp_path: Path) -> None:
    assert round_trip(tmp_path, []) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_a_pickled_object_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "groups.npz", plain=np.array([{"format": 1}], dtype=object))
    with pytest.raises(CheckpointError, match=r"groups\.npz cannot be read: .*allow_pickle"):
        load_groups(tmp_path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    save_groups(tmp_path, [make_group([1.0])])
    with np.load(tmp_path / "groups.npz") as stored:
        arrays = dict(stored)
    arrays["plain"] = np.frombuffer(
        arrays["plain"].tobytes().replace(b'"format": 2', b'"format": 3'), np.uint8
    )
    np.savez(tmp_path / "groups.npz", **arrays)
    with pytest.raises(CheckpointError, match="is of format 3, not 2"):
        load_groups(tmp_path)


def test_a_token_takes_about_nine_bytes(tmp_path: Path) -> None:
    save_groups(tmp_path, [make_group([1.0], lengths=[100_000])])
    assert (tmp_path / "groups.npz").stat().st_size < 9.1 * 100_000
