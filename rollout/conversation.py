"""A conversation of tau2-bench as an agent's tools: its orchestrator runs, our policy has a seat.

tau2 plays the user, carries out calls, counts errors and decides when it is over, in a thread of
its own that waits whenever it is the policy's turn. Each call is a turn of the agent there.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from cispo.config.agent import UserConfig
from cispo.data.tau2 import tau2_module, tau2_problems
from cispo.errors import ConfigError
from cispo.policy.tool_calls import ToolCall, render_tool_calls
from cispo.types import Message
from rollout.tools import ToolResult, readable
from sandboxes.workspace import WorkspaceLostError

_OVER = ToolResult("the conversation is over", ends_episode=True)


class _LeftError(Exception):
    """The policy has left its seat."""


class Seat:
    """The agent, as tau2's orchestrator sees it: it hands on what it hears and waits for words.

    Attributes:
        history: Messages before the first that it hears.
    """

    def __init__(self, heard: asyncio.Queue[Any]) -> None:
        """Take where to put what it hears; made in the loop that takes it out."""
        self.history: list[Any] = []
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._said: SimpleQueue[Any] = SimpleQueue()

    def say(self, message: Any) -> None:
        """Give the words that it waits for; None leaves the conversation."""
        self._said.put(message)

    def hand_on(self, message: Any) -> None:
        """Hand on what was heard, or how it ended, from any thread."""
        self._loop.call_soon_threadsafe(self._heard.put_nowait, message)

    def get_init_state(self, message_history: Sequence[Any] | None = None) -> list[Any]:
        """Keep what was said before."""
        self.history = list(message_history or [])
        return self.history

    def generate_next_message(self, message: Any, state: list[Any]) -> tuple[Any, list[Any]]:
        """Hand on a message and wait for the words after it."""
        self.hand_on(message)
        said = self._said.get()
        if said is None:
            raise _LeftError
        return said, state

    def is_stop(self, message: Any) -> bool:
        """Only the user ends a conversation."""
        return False

    def set_seed(self, seed: int) -> None:
        """Our sampling has its own seed."""

    def stop(self, message: Any = None, state: Any = None) -> None:
        """Nothing to end."""


class Conversation:
    """A conversation that runs, as `rollout.tools.Toolbox`; `open_conversation` makes one.

    Attributes:
        tools: Functions that the agent may call, in OpenAI's form.
    """

    def __init__(
        self, orchestrator: Any, seat: Seat, heard: asyncio.Queue[Any], words: Any
    ) -> None:
        """Start the conversation.

        Args:
            orchestrator: tau2's, not yet run.
            seat: The agent in it.
            heard: What that hears.
            words: tau2's module of messages.
        """
        self.tools = [tool.openai_schema for tool in orchestrator.environment.get_tools()]
        self._seat = seat
        self._heard = heard
        self._words = words
        self._num_calls = 0
        self._ended: Any = None
        self._thread = threading.Thread(target=_run, args=(orchestrator, seat), daemon=True)
        self._thread.start()

    async def opening(self) -> list[Message]:
        """Wait for the user's first words; return all that was said until then.

        Raises:
            WorkspaceLostError: The conversation broke off.
        """
        first = await self._next()
        if first is None:
            raise WorkspaceLostError("the conversation was over before it began")
        return _messages([*self._seat.history, first])

    async def call(self, call: ToolCall) -> ToolResult:
        """Carry out a call in the environment.

        Raises:
            WorkspaceLostError: The conversation broke off.
        """
        self._num_calls += 1
        asked = self._words.ToolCall(
            id=f"call_{self._num_calls}", name=readable(call.name), arguments=dict(call.arguments)
        )
        return await self._say(tool_calls=[asked])

    async def tell(self, text: str) -> ToolResult:
        """Say something to the user; who says nothing has left.

        Raises:
            WorkspaceLostError: The conversation broke off.
        """
        return await self._say(content=text) if text.strip() else _OVER

    async def submission(self) -> str:
        """Return the finished conversation as JSON; empty where it has no end."""
        return "" if self._ended is None else str(self._ended.model_dump_json(exclude_none=True))

    def leave(self) -> None:
        """End the thread, at the latest when the user has spoken."""
        self._seat.say(None)

    async def _say(self, **what: Any) -> ToolResult:
        self._seat.say(self._words.AssistantMessage(role="assistant", **what))
        heard = await self._next()
        return _OVER if heard is None else ToolResult(readable(heard.content or ""))

    async def _next(self) -> Any:
        """Wait for what the agent hears; None where the conversation has come to its end."""
        heard = await self._heard.get()
        if isinstance(heard, Exception):
            raise WorkspaceLostError(f"tau2: {type(heard).__name__}: {heard}") from heard
        if hasattr(heard, "termination_reason"):
            self._ended, heard = heard, None
        return heard


def open_conversation(domain: str, task_id: str, user: UserConfig, *, seed: int) -> Conversation:
    """Begin a conversation.

    Args:
        domain: Of tau2.
        task_id: Of its task.
        user: The model that plays the user.
        seed: Of that model.

    Raises:
        ConfigError: tau2 is not installed, has no such task, or no model plays the user.
    """
    if user.model is None:
        raise ConfigError(
            "rollout.agent.user.model=null: tau2's user is played by a model; name one, and "
            "rollout.agent.user.url where it is not OpenAI's"
        )
    build, limits = tau2_module("runner.build"), tau2_module("config")
    problem = tau2_problems(domain, None)[task_id]
    environment = build.build_environment(domain)
    arguments: dict[str, Any] = dict(limits.DEFAULT_LLM_ARGS_USER)
    if user.url is not None:
        arguments |= {
            "api_base": user.url,
            "api_key": os.environ.get(user.api_key_variable or "", "none"),
        }
    heard: asyncio.Queue[Any] = asyncio.Queue()
    seat = Seat(heard)
    orchestrator = tau2_module("orchestrator.orchestrator").Orchestrator(
        domain=domain,
        agent=seat,
        user=build.build_user(
            "user_simulator", environment, problem, llm=f"openai/{user.model}", llm_args=arguments
        ),
        environment=environment,
        task=problem,
        max_steps=limits.DEFAULT_MAX_STEPS,
        max_errors=limits.DEFAULT_MAX_ERRORS,
        seed=seed % 2**31,
    )
    return Conversation(orchestrator, seat, heard, tau2_module("data_model.message"))


def _run(orchestrator: Any, seat: Seat) -> None:
    """Run to the end, and hand on how it ended: the simulation, or the error that broke it off."""
    try:
        ended: Any = orchestrator.run()
    except _LeftError:
        return
    except Exception as error:  # of the user's model or of a tool; it becomes an aborted rollout
        ended = error
    seat.hand_on(ended)


def _messages(heard: Sequence[Any]) -> list[Message]:
    """Turn tau2's messages into ours; calls of the agent are written as the policy writes them."""
    names: dict[str, str] = {}
    messages = []
    for message in heard:
        calls = message.tool_calls or [] if message.role == "assistant" else []
        names |= {call.id: call.name for call in calls}
        written = render_tool_calls(ToolCall(name=c.name, arguments=c.arguments) for c in calls)
        content = "\n".join(filter(None, (readable(message.content or ""), written)))
        name = names.get(message.id) if message.role == "tool" else None
        messages.append(Message(role=message.role, content=content, name=name))
    return messages
