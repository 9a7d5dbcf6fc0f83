"""Agentic tasks through the rollout actor: an engine speaks, a jail answers, the patch counts."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from cispo.config import SamplingConfig
from cispo.config.agent import AgentConfig
from cispo.config.sandbox import SandboxConfig
from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance
from cispo.data.swe.tasks import instance_task
from cispo.errors import RolloutError
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.types import Message, Rollout, StopReason, Task
from rewards.swe.grader import SweGrader
from rollout.actor import RolloutActor
from rollout.backends.base import Request, StopRules
from rollout.backends.scripted import ScriptedBackend
from rollout.driver import Engine
from sandboxes.workspace import WorkspaceLostError
from sandboxes.workspaces import JailWorkspaces

TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")


def call(name: str, **arguments: str) -> str:
    return f"<tool_calls>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_calls>"


def engine_that_mends(toy: Instance) -> Engine:
    """It looks, mends the fault or spoils the file as the issue asks, and submits."""
    wrong, right = (
        next(line[1:] for line in toy.patch.splitlines() if line.startswith(f"{sign}    "))
        for sign in "-+"
    )
    mend = call("edit", path="sums.py", old=wrong, new=right)
    spoil = call("bash", command="echo broken > sums.py")

    def script(request: Request, member: int) -> Sequence[int]:
        number = list(request.prompt).count(END) // 2
        is_asked_to_mend = "Please mend" in TOKENIZER.decode(list(request.prompt))
        said = (call("view", path="sums.py"), mend if is_asked_to_mend else spoil, call("submit"))
        return [*TOKENIZER.encode(said[number], add_special_tokens=False), END]

    return Engine(ScriptedBackend(script, StopRules(token_ids=frozenset({END}))), TOKENIZER)


async def sample(toy: Instance, settings: SweConfig, issue: str, count: int) -> list[Rollout]:
    agent = AgentConfig(max_concurrent=1, memory_bytes=256 * 2**20)
    sandbox = SandboxConfig(swe=settings)
    actor = RolloutActor("it", lambda: engine_that_mends(toy), agent, sandbox)
    await actor.start()
    document = {**toy.to_json(), "problem_statement": issue}
    task = instance_task(Instance.from_json(document), "agent", source="toy")
    sampling = SamplingConfig(max_new_tokens=200)
    return await actor.sample(task, count, seed=1, sampling=sampling)


async def test_an_engine_plays_episodes_and_what_it_leaves_is_graded(
    toy: Instance, settings: SweConfig, jails: JailWorkspaces, grader: SweGrader
) -> None:
    for issue, reward in (("Please mend it.", 1.0), ("Please spoil it.", 0.0)):
        for rollout in await sample(toy, settings, issue, count=2):
            assert rollout.stop_reason is StopReason.END_OF_TURN
            assert rollout.submission
            sampled = rollout.num_action_tokens
            assert 0 < sampled < len(rollout.token_ids)
            truth = {"instance": toy.to_json()}
            parts = await grader.grade(rollout.submission, truth)
            assert parts["correct"] == reward  # type: ignore[index]


async def test_an_agentic_task_without_a_repository_is_refused(
    toy: Instance, settings: SweConfig, jails: JailWorkspaces
) -> None:
    sandbox = SandboxConfig(swe=settings)
    actor = RolloutActor("it", lambda: engine_that_mends(toy), AgentConfig(), sandbox)
    await actor.start()
    message = Message(role="user", content="?")
    task = Task(task_id="t", messages=(message,), verifier="swe", is_agentic=True)
    with pytest.raises(RolloutError, match="task t: no instance to act in"):
        await actor.sample(task, 1, seed=1, sampling=SamplingConfig(max_new_tokens=5))


async def test_a_task_whose_sandboxes_are_all_lost_is_named_with_the_reasons(
    toy: Instance, settings: SweConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_opened = 0

    class Dying:
        @asynccontextmanager
        async def open(self, *_: object) -> AsyncIterator[None]:
            nonlocal num_opened
            num_opened += 1
            raise WorkspaceLostError(f"jail {num_opened} was killed")
            yield

    monkeypatch.setattr("rollout.agents.build_workspaces", lambda _: Dying())
    with pytest.raises(
        RolloutError,
        match=rf"^task {toy.instance_id}: no workspace: jail 1 was killed; jail 2 was killed$",
    ):
        await sample(toy, settings, "Please mend it.", count=1)
