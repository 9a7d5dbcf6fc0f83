"""Rollouts of a task by the lightning engine, in this process, with their verdicts."""

from random import Random

from benchmarks.objectives.tasks import END, Family, Problem, is_right
from cispo.learner.local import LocalLearner
from cispo.policy.lightning.model import LightningModel
from cispo.seeding import stream_seed
from cispo.types import Graded, Group, Message, PolicyVersion, Rollout, Task
from rollout.backends.base import Finished, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend

_BUCKET_BYTES = 2**30


class Sampler:
    """Samples groups of the same problems, with the same noise, whatever learns from them.

    Args:
        model: A model of the engine's own.
        task: Name of the task.
        family: Its problems.
        seed: Decides problems and noise.
        num_groups: Groups of a batch.
        group_size: Rollouts of a group.
        replays: See `LightningBackend`.
    """

    def __init__(
        self,
        model: LightningModel,
        task: str,
        family: Family,
        *,
        seed: int,
        num_groups: int,
        group_size: int,
        replays: bool = False,
    ) -> None:
        rules = StopRules(token_ids=frozenset({END}))
        rows = num_groups * group_size
        self._backend = LightningBackend(model, rules, max_sequences=rows, replays=replays)
        self._task = task
        self._family = family
        self._seed = seed
        self._num_groups = num_groups
        self._group_size = group_size

    def load(self, learner: LocalLearner, version: int) -> None:
        """Take over the learner's weights: mu <- pi."""
        buckets = learner.buckets(version=version, max_bytes=_BUCKET_BYTES)
        self._backend.load_weights(PolicyVersion(version), buckets)

    def batch(self, number: int) -> list[Group]:
        """Sample the groups of a rollout batch, and grade them."""
        draw = Random(stream_seed(self._seed, "problems", number))
        problems = [self._family.problem(draw) for _ in range(self._num_groups)]
        sampling = SamplingParams(max_new_tokens=self._family.max_new_tokens)
        for i, problem in enumerate(problems):
            seeds = (
                stream_seed(self._seed, "rollout", number, i, member)
                for member in range(self._group_size)
            )
            request = Request(
                request_id=i,
                task_id=f"{self._task}-{number}-{i}",
                prompt=tuple(problem.prompt),
                seeds=tuple(seeds),
                sampling=sampling,
            )
            self._backend.start(request)
        members: list[list[Finished]] = [[] for _ in problems]
        while self._backend.num_active:
            for finished in self._backend.step():
                members[finished.request_id].append(finished)
        first = number * self._num_groups
        return [
            self._group(first + i, problem, sorted(members[i], key=lambda m: m.member))
            for i, problem in enumerate(problems)
        ]

    def _group(self, index: int, problem: Problem, members: list[Finished]) -> Group:
        task = Task(
            task_id=f"{self._task}-{index}",
            messages=(Message(role="user", content=" ".join(map(str, problem.prompt))),),
            verifier="exact",
            truth={"answer": problem.answer},
            source=self._task,
        )
        rollouts = tuple(_rollout(task.task_id, problem.prompt, member) for member in members)
        verdicts = tuple(_verdict(problem, rollout) for rollout in rollouts)
        return Group(index=index, task=task, rollouts=rollouts, verdicts=verdicts)


def _rollout(task_id: str, prompt: list[int], member: Finished) -> Rollout:
    tokens = list(member.token_ids)
    return Rollout(
        task_id=task_id,
        token_ids=prompt + tokens,
        action_mask=[False] * len(prompt) + [True] * len(tokens),
        behaviour_logprobs=[0.0] * len(prompt) + list(member.logprobs),
        text=" ".join(map(str, tokens)),
        stop_reason=member.stop_reason,
        oldest_version=member.oldest_version,
        newest_version=member.newest_version,
    )


def _verdict(problem: Problem, rollout: Rollout) -> Graded:
    reward = float(is_right(problem, rollout.token_ids))
    return Graded(reward=reward, parts={"correct": reward})
