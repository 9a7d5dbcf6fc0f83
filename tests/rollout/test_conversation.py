"""Conversations of tau2-bench: our side of them against a stand-in, and whole where it is there."""

import asyncio
import importlib.util
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from cispo.config import SourceConfig
from cispo.config.agent import UserConfig
from cispo.data.tau2 import Tau2Table, tau2_problems
from cispo.errors import ConfigError
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.policy.tool_calls import ToolCall, render_tool_calls
from cispo.types import Message, PolicyVersion, Rollout, StopReason, Task
from rewards.tau2 import grade_tau2
from rollout.conversation import Conversation, Seat, open_conversation
from rollout.episode import Budgets, Turn, run_episode
from rollout.wording import ChatWording
from sandboxes.workspace import WorkspaceLostError
from tests.waiting import until

BUDGETS = Budgets(max_turns=9, max_turn_tokens=400, max_tokens=20000, wall_seconds=100.0)
TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
TASK = Task(task_id="t", messages=(Message(role="system", content="Serve."),), verifier="tau2")
SCHEMA = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def say(role: str, content: str | None = None, **others: Any) -> SimpleNamespace:
    """A message as tau2 has them."""
    return SimpleNamespace(**({"role": role, "content": content, "tool_calls": None} | others))


WORDS = SimpleNamespace(
    ToolCall=lambda **fields: SimpleNamespace(**fields),
    AssistantMessage=lambda role, content=None, tool_calls=None: say(
        role, content, tool_calls=tool_calls
    ),
)
"""tau2's classes of messages, as far as an agent makes them."""


class StandIn:
    """tau2's orchestrator: greets, lets its user speak, carries out calls, ends when told bye."""

    def __init__(self, seat: Seat, *, breaks_at: int = 99) -> None:
        tool = SimpleNamespace(openai_schema=SCHEMA)
        self.environment = SimpleNamespace(get_tools=lambda: [tool])
        self.messages = [say("assistant", "Hi!")]
        self._seat = seat
        self._breaks_at = breaks_at

    def run(self) -> SimpleNamespace:
        state = self._seat.get_init_state(self.messages[:1])
        heard = say("user", "Where is it?")
        for number in range(20):
            if number == self._breaks_at:
                raise ConnectionError("no user")
            self.messages.append(heard)
            said, state = self._seat.generate_next_message(heard, state)
            self.messages.append(said)
            if said.tool_calls:
                [call] = said.tool_calls
                heard = say("tool", f"{call.name} {json.dumps(call.arguments)}", id=call.id)
            elif "bye" in said.content:
                break
            else:
                heard = say("user", "Thanks.")
        written = json.dumps([message.content for message in self.messages])
        return SimpleNamespace(termination_reason="user_stop", model_dump_json=lambda **_: written)


class Script:
    """A policy that says what it was told to."""

    def __init__(self, *turns: str) -> None:
        self._turns = list(turns)
        self.prompts: list[Sequence[int]] = []

    async def sample_turn(self, prompt: Sequence[int], *, seed: int, max_new_tokens: int) -> Turn:
        self.prompts.append(prompt)
        tokens = TOKENIZER.encode(self._turns[len(self.prompts) - 1], add_special_tokens=False)
        return Turn(
            token_ids=[*tokens, END],
            logprobs=[-0.25] * (len(tokens) + 1),
            is_sampled=[True] * (len(tokens) + 1),
            stop_reason=StopReason.END_OF_TURN,
            version_runs=((PolicyVersion(1), len(tokens) + 1),),
        )


def call(name: str, **arguments: object) -> str:
    return f"<think>\nhm\n</think>\n{render_tool_calls([ToolCall(name=name, arguments=arguments)])}"


def stand_in(**how: int) -> Conversation:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    seat = Seat(heard)
    return Conversation(StandIn(seat, **how), seat, heard, WORDS)


async def play(policy: Script, conversation: Conversation, task: Task = TASK) -> Rollout:
    opened = replace(task, messages=(*task.messages, *await conversation.opening()))
    wording = ChatWording(TOKENIZER, tools=conversation.tools)
    return await run_episode(opened, policy, wording, conversation, BUDGETS, seed=3)


def num_threads() -> int:
    return sum(thread.name.endswith("(_run)") for thread in threading.enumerate())


async def test_a_policy_calls_tools_and_speaks_with_the_user_until_that_is_done() -> None:
    policy = Script(call("look", where="north"), "It is in the north.", "Good bye.")
    rollout = await play(policy, stand_in())
    assert rollout.stop_reason is StopReason.END_OF_TURN
    said = ["Hi!", "Where is it?", None, 'look {"where": "north"}', "It is in the north."]
    assert json.loads(rollout.submission or "") == [*said, "Thanks.", "Good bye."]
    first = TOKENIZER.decode(policy.prompts[0])
    assert all(words in first for words in ("Serve.", '"look"', "Hi!", "Where is it?"))
    shown = TOKENIZER.decode(policy.prompts[-1])
    assert shown.index("look {") < shown.index("It is in") < shown.index("Thanks.")
    sampled = [t for t, a in zip(rollout.token_ids, rollout.action_mask, strict=True) if a]
    assert "Thanks." not in TOKENIZER.decode(sampled)
    await until(lambda: num_threads() == 0, what="the thread has ended")


async def test_who_says_nothing_has_left_and_leaves_no_thread_behind() -> None:
    conversation = stand_in()
    rollout = await play(Script("<think>\nwhy\n</think>\n"), conversation)
    assert rollout.submission == ""
    conversation.leave()
    await until(lambda: num_threads() == 0, what="the thread has ended")


async def test_a_user_who_breaks_off_makes_no_wrong_answer() -> None:
    rollout = await play(Script("Where do you look?", "never said"), stand_in(breaks_at=1))
    assert rollout.stop_reason is StopReason.ABORTED
    with pytest.raises(WorkspaceLostError, match="ConnectionError: no user"):
        await stand_in(breaks_at=0).opening()


def test_without_tau2_it_is_said_how_to_install_it() -> None:
    if importlib.util.find_spec("tau2") is not None:
        pytest.skip("tau2 is installed")
    with pytest.raises(ConfigError, match=r"git clone .*tau2-bench"):
        tau2_problems("retail", "base")


class User(BaseHTTPRequestHandler):
    """A model that plays a user: it asks, and is content with the first answer."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        said = {"role": "assistant", "content": "Please." if len(asked) <= 2 else "###STOP###"}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        form = {"id": "1", "object": "chat.completion", "created": 0, "model": "user"}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        body = json.dumps({**form, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def user() -> Iterator[UserConfig]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), User)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield UserConfig(model="user", url=f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    server.server_close()


async def test_gold_calls_are_right_and_none_are_wrong_in_tau2_itself(user: UserConfig) -> None:
    if importlib.util.find_spec("tau2") is None:
        pytest.skip("NO tau2-bench ON THIS MACHINE: real conversations are untested")
    table = Tau2Table(SourceConfig(kind="tau2", name="mock", split="base"))
    tasks = {task.task_id: task for task in map(table.__getitem__, range(len(table)))}
    task = tasks["tau2/mock/create_task_1"]
    problem = tau2_problems("mock", "base")["create_task_1"]
    gold = [call(action.name, **action.arguments) for action in problem.evaluation_criteria.actions]
    refused = call("no_such_tool", why="none")
    for turns, right in (([refused, *gold, "It is done."], 1.0), (["I will not."], 0.0)):
        conversation = open_conversation("mock", "create_task_1", user, seed=1)
        rollout = await play(Script(*turns), conversation, task)
        assert rollout.stop_reason is StopReason.END_OF_TURN
        parts = await grade_tau2(rollout.submission or "", task.truth)
        assert isinstance(parts, dict)
        assert (parts["correct"], parts["db"]) == (right, right)
    assert await grade_tau2("I do not know.", task.truth) == {"correct": 0.0}
