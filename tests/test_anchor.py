import pytest

from cispo.anchor import Proximal, behaviour
from cispo.types import Sample
from tests.fakes import make_rollout


def sample(length: int) -> Sample:
    rollout = make_rollout(num_action_tokens=length, num_prompt_tokens=2)
    return Sample(rollout=rollout, advantage=1.0, group_index=0)


class Lengths:
    """Scores each token by the length of its sample."""

    def __init__(self) -> None:
        self.calls = 0

    async def logprobs(self, samples: list[Sample]) -> list[list[float]]:
        self.calls += 1
        return [[-float(len(s.rollout.token_ids))] * len(s.rollout.token_ids) for s in samples]


GROUPS = [(sample(1), sample(3)), (), (sample(2),)]


async def test_the_behaviour_policy_is_what_the_engine_recorded() -> None:
    assert await behaviour(GROUPS) is GROUPS


async def test_every_sample_gets_its_own_anchor_in_one_call() -> None:
    scorer = Lengths()
    anchored = await Proximal(scorer)(GROUPS)
    assert scorer.calls == 1
    assert [len(group) for group in anchored] == [2, 0, 1]
    for group, before in zip(anchored, GROUPS, strict=True):
        for one, old in zip(group, before, strict=True):
            length = len(old.rollout.token_ids)
            assert one.anchor_logprobs == [-float(length)] * length
            assert one.rollout is old.rollout


async def test_nothing_is_scored_where_there_is_nothing() -> None:
    scorer = Lengths()
    assert await Proximal(scorer)([(), ()]) == [(), ()]
    assert scorer.calls == 0


def test_an_anchor_of_another_length_is_refused() -> None:
    rollout = make_rollout(num_action_tokens=3, num_prompt_tokens=2)
    with pytest.raises(ValueError, match="4 anchors for 5 tokens"):
        Sample(rollout=rollout, advantage=1.0, group_index=0, anchor_logprobs=[0.0] * 4)
