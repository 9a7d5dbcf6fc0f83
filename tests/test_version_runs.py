from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.types import PolicyVersion, Rollout, StopReason
from cispo.version_runs import VersionRuns, joined_runs, sampled_runs


def rollout(runs: VersionRuns = (), *, oldest: int, newest: int) -> Rollout:
    return Rollout(
        task_id="a",
        token_ids=(1, 2, 3, 4, 5),
        action_mask=(False, True, True, True, True),
        behaviour_logprobs=(0.0,) * 5,
        text="",
        stop_reason=StopReason.LENGTH,
        oldest_version=PolicyVersion(oldest),
        newest_version=PolicyVersion(newest),
        version_runs=runs,
    )


def test_a_rollout_of_one_version_knows_that_of_all_its_tokens() -> None:
    assert rollout(oldest=3, newest=3).version_runs == ((3, 4),)


def test_runs_that_are_not_those_of_the_tokens_are_refused() -> None:
    assert rollout(((3, 1), (5, 3)), oldest=3, newest=5).version_runs == ((3, 1), (5, 3))
    for wrong in (((3, 1), (5, 2)), ((3, 1), (4, 3)), ((2, 1), (5, 3))):
        with pytest.raises(ValueError, match="4 action tokens of versions 3 to 5"):
            rollout(wrong, oldest=3, newest=5)


def test_neighbours_of_one_version_join_and_empty_runs_go() -> None:
    assert joined_runs([(1, 2), (1, 3), (2, 0), (1, 1), (2, 4)]) == ((1, 6), (2, 4))


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=30))
def test_every_sampled_token_is_counted_under_its_version(tokens: list[tuple[int, bool]]) -> None:
    starts: list[tuple[int, int]] = []
    for place, (version, _) in enumerate(tokens):
        if not starts or starts[-1][0] != version:
            starts.append((version, place))
    found = sampled_runs(starts, [is_sampled for _, is_sampled in tokens])
    spread = [version for version, count in found for _ in range(count)]
    assert spread == [version for version, is_sampled in tokens if is_sampled]
    assert all(ours[0] != theirs[0] for ours, theirs in pairwise(found))
