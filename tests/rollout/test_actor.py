"""The actor's class without Ray: requests in, rollouts out."""

import asyncio
import json
from pathlib import Path

import pytest

from cispo.config import PolicyConfig, RolloutConfig, SamplingConfig
from cispo.errors import ConfigError, DivergedError
from cispo.policy.chat import stop_token_ids
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.types import Message, PolicyVersion, Rollout, StopReason, Task
from rollout.actor import RolloutActor
from rollout.backends.base import (
    EngineStatistics,
    Finished,
    Increment,
    Request,
    StopRules,
)
from rollout.backends.scripted import ScriptedBackend
from rollout.driver import Engine
from rollout.engines import build_engine

SAMPLING = SamplingConfig(max_new_tokens=50)


def task(name: str = "a") -> Task:
    return Task(
        task_id=name,
        messages=(Message(role="user", content="What is 6 times 7?"),),
        verifier="math",
        truth={"answer": "42"},
    )


def write_answers(folder: Path, table: dict[str, list[str]]) -> PolicyConfig:
    path = folder / "answers.json"
    path.write_text(json.dumps(table))
    return PolicyConfig(path=str(path))


async def scripted_actor(policy: PolicyConfig) -> RolloutActor:
    actor = RolloutActor("it", lambda: build_engine(policy, RolloutConfig(backend="scripted")))
    assert await actor.start() == "it"
    return actor


async def test_a_rollout_marks_exactly_what_was_sampled(tmp_path: Path) -> None:
    actor = await scripted_actor(write_answers(tmp_path, {"a": ["<think>6*7</think>42", "41"]}))
    rollouts = await actor.sample(task(), 3, seed=1, sampling=SAMPLING)
    assert [r.text for r in rollouts] == ["<think>6*7</think>42", "41", "<think>6*7</think>42"]
    tokenizer = load_tokenizer(str(bundled_tokenizer("bpe1024")))
    for rollout in rollouts:
        assert rollout.task_id == "a"
        assert rollout.stop_reason is StopReason.END_OF_TURN
        assert rollout.token_budget == SAMPLING.max_new_tokens
        sampled = [t for t, m in zip(rollout.token_ids, rollout.action_mask, strict=True) if m]
        assert sampled[-1] in stop_token_ids(tokenizer)
        assert tokenizer.decode(sampled[:-1]) == rollout.text
        prompt = rollout.token_ids[: len(rollout.token_ids) - len(sampled)]
        assert "6 times 7" in tokenizer.decode(prompt)
        assert not any(rollout.action_mask[: len(prompt)])


async def test_an_answer_that_was_cut_keeps_its_last_token(tmp_path: Path) -> None:
    actor = await scripted_actor(write_answers(tmp_path, {"*": ["1 2 3 4 5 6 7 8 9"]}))
    sampling = SamplingConfig(max_new_tokens=3)
    (rollout,) = await actor.sample(task(), 1, seed=1, sampling=sampling)
    assert rollout.stop_reason is StopReason.LENGTH
    assert rollout.num_action_tokens == 3
    assert "1 2 3 4 5 6 7 8 9".startswith(rollout.text)
    assert rollout.text


async def test_requests_are_served_together(tmp_path: Path) -> None:
    table = {name: [name * 5] for name in "abcd"}
    actor = await scripted_actor(write_answers(tmp_path, table))
    groups = await asyncio.gather(
        *(actor.sample(task(name), 2, seed=1, sampling=SAMPLING) for name in "abcd")
    )
    assert [[r.text for r in group] for group in groups] == [[n * 5] * 2 for n in "abcd"]
    longest = max(r.num_action_tokens for group in groups for r in group)
    assert (await actor.statistics()).decode_steps <= longest + 1


async def test_a_missing_script_is_a_configuration_error(tmp_path: Path) -> None:
    policy = PolicyConfig(path=str(tmp_path / "none.json"))
    actor = RolloutActor("it", lambda: build_engine(policy, RolloutConfig(backend="scripted")))
    with pytest.raises(ConfigError, match=r"policy\.path=.*none\.json"):
        await actor.start()


class BrokenBackend:
    """Diverges on the second step."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.statistics = EngineStatistics()
        self.steps = 0

    @property
    def num_active(self) -> int:
        return len(self.requests)

    def start(self, request: Request) -> None:
        self.requests.append(request)

    def abort(self, request_id: int) -> None:
        self.requests = [r for r in self.requests if r.request_id != request_id]

    def step(self) -> list[Finished]:
        self.steps += 1
        if self.steps == 2:
            raise DivergedError("task a: logits are not finite")
        return []

    def increments(self) -> list[Increment]:
        return []

    def load_weights(self, version: PolicyVersion, buckets: object) -> str:
        return ""


async def test_an_engine_that_breaks_tells_everyone_who_waits() -> None:
    backend = BrokenBackend()
    tokenizer = load_tokenizer(str(bundled_tokenizer("bpe1024")))
    actor = RolloutActor("it", lambda: Engine(backend, tokenizer))
    await actor.start()
    results = await asyncio.gather(
        *(actor.sample(task(), 2, seed=s, sampling=SAMPLING) for s in range(3)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [DivergedError] * 3
    assert backend.num_active == 0


async def test_a_caller_who_leaves_frees_the_rows() -> None:
    tokenizer = load_tokenizer(str(bundled_tokenizer("bpe1024")))
    stop = StopRules(token_ids=frozenset({1}))
    backend = ScriptedBackend(lambda request, member: [5] * 100_000, stop, seconds_per_step=0.002)
    actor = RolloutActor("it", lambda: Engine(backend, tokenizer))
    await actor.start()
    endless = SamplingConfig(max_new_tokens=100_000)
    leaving = asyncio.create_task(actor.sample(task(), 4, seed=1, sampling=endless))
    staying = asyncio.create_task(actor.sample(task(), 1, seed=1, sampling=SAMPLING))
    rollouts: list[Rollout] = await staying
    assert rollouts[0].num_action_tokens == 50
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert backend.num_active == 0


class OneAnswerBackend(BrokenBackend):
    """Ends every request in its first step with one given answer."""

    def __init__(self, answer: list[int], is_sampled: list[bool], reason: StopReason) -> None:
        super().__init__()
        self.answer, self.is_sampled, self.reason = answer, is_sampled, reason

    def step(self) -> list[Finished]:
        requests, self.requests = self.requests, []
        nothing = [0.0] * len(self.answer)
        return [
            Finished(
                request_id=request.request_id,
                member=0,
                token_ids=self.answer,
                logprobs=nothing,
                full_logprobs=nothing,
                is_sampled=self.is_sampled,
                stop_reason=self.reason,
                version_runs=((1, sum(self.is_sampled)),),
            )
            for request in requests
        ]


async def answered(answer: str, sampling: SamplingConfig, reason: StopReason) -> Rollout:
    tokenizer = load_tokenizer(str(bundled_tokenizer("bpe1024")))
    ids = tokenizer.encode(answer, add_special_tokens=False)
    is_sampled = [token != tokenizer.convert_tokens_to_ids("</think>") for token in ids]
    backend = OneAnswerBackend(ids, is_sampled, reason)
    actor = RolloutActor("it", lambda: Engine(backend, tokenizer))
    await actor.start()
    (rollout,) = await actor.sample(task(), 1, seed=1, sampling=sampling)
    assert tokenizer.decode(rollout.token_ids[-len(ids) :]) == answer
    return rollout


async def test_a_token_that_the_engine_forced_is_no_action() -> None:
    rollout = await answered("<think>a</think>b", SAMPLING, StopReason.LENGTH)
    assert rollout.text == "<think>a</think>b"
    assert list(rollout.action_mask[-4:]) == [True, True, False, True]


async def test_the_answer_is_what_stands_before_a_stop_text() -> None:
    sampling = SamplingConfig(max_new_tokens=50, stop=["STOP", "}}"])
    rollout = await answered("{a}} b STOP", sampling, StopReason.STOP_STRING)
    assert rollout.text == "{a"
