from collections.abc import Sequence

from cispo.advantages import advantages
from cispo.config import AdvantageKind
from cispo.lessons import Retrospect, beginning, unmeasured
from cispo.types import PolicyVersion, Rollout, Sample, StopReason
from tests.fakes import make_group


class Scorer:
    """Gives every token the log-probability -its position."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    async def logprobs(self, samples: Sequence[Sample]) -> Sequence[Sequence[float]]:
        self.samples += samples
        return [[-float(t) for t in range(len(s.rollout.token_ids))] for s in samples]


def samples() -> list[tuple[Sample, ...]]:
    groups = [make_group([1.0, 0.0], index=i, lengths=[3, 4]) for i in range(2)]
    return list(advantages(groups, kind=AdvantageKind.GROUP_MEAN))


async def test_without_scores_a_lesson_is_the_sample_alone() -> None:
    lessons = await unmeasured(1, samples())
    assert [lesson.sample.advantage for lesson in lessons] == [0.5, -0.5, 0.5, -0.5]
    assert all(len(lesson.logprobs) == 0 for lesson in lessons)


async def test_the_first_samples_are_scored_and_the_last_of_them_is_cut() -> None:
    scorer = Scorer()
    lessons = await Retrospect(scorer, max_tokens=5 + 6 + 4)(
        1, samples()
    )  # 2 tokens are the prompt
    assert [len(lesson.logprobs) for lesson in lessons] == [5, 6, 4, 0]
    assert [len(sample.rollout.token_ids) for sample in scorer.samples] == [5, 6, 4]
    assert [len(lesson.sample.rollout.token_ids) for lesson in lessons] == [5, 6, 5, 6]
    assert lessons[2].logprobs == [0.0, -1.0, -2.0, -3.0]


async def test_a_budget_that_ends_in_a_prompt_scores_no_part_of_it() -> None:
    scorer = Scorer()
    lessons = await Retrospect(scorer, max_tokens=7)(1, samples())
    assert [len(lesson.logprobs) for lesson in lessons] == [5, 0, 0, 0]
    assert await Retrospect(scorer, max_tokens=7)(1, []) == []


async def test_only_iterations_that_are_recorded_are_scored() -> None:
    scorer = Scorer()
    retrospect = Retrospect(scorer, max_tokens=100, every=3)
    measured = [bool((await retrospect(step, samples()))[0].logprobs) for step in range(1, 7)]
    assert measured == [False, False, True, False, False, True]


def test_the_beginning_of_a_rollout_keeps_what_belongs_to_its_tokens() -> None:
    rollout = Rollout(
        task_id="a",
        token_ids=(1, 2, 3, 4, 5, 6),
        action_mask=(False, True, True, False, True, True),
        behaviour_logprobs=(0.0, -1.0, -2.0, 0.0, -4.0, -5.0),
        text="",
        stop_reason=StopReason.LENGTH,
        oldest_version=PolicyVersion(3),
        newest_version=PolicyVersion(5),
        version_runs=((3, 1), (4, 2), (5, 1)),
        routed_experts=bytes(range(12)),
    )
    cut = beginning(rollout, 5)
    assert cut.token_ids == (1, 2, 3, 4, 5)
    assert cut.version_runs == ((3, 1), (4, 2))
    assert (cut.oldest_version, cut.newest_version) == (3, 4)
    assert cut.routed_experts == bytes(range(10))
    assert beginning(rollout, 2).version_runs == ((3, 1),)
    assert beginning(rollout, 6) is rollout
