"""The tools of a software-engineering agent: bash, view, edit and submit in a jailed repository.

Each call runs in the jail of one workspace; what it does to files stays, what it starts does not.
Whatever a tool says is text for the policy: a call that makes no sense is answered, not raised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cispo.policy.tool_calls import ToolCall
from sandboxes.base import Limits, Outcome, Program
from sandboxes.swe.diff import diff_of
from sandboxes.swe.environment import Environment
from sandboxes.workspace import ChangeKind
from sandboxes.workspaces import Session

_MOST_FILE_BYTES = 2**20
_MOST_CHANGED_BYTES = 2**23
_SAID = {
    Outcome.TIMED_OUT: "stopped: it used up its time",
    Outcome.OUT_OF_MEMORY: "stopped: it used up its memory",
    Outcome.OUTPUT_LIMIT: "stopped: it printed too much",
}
_EDIT = """
import json, os, sys
order = json.load(open("/tmp/edit.json"))
path, old, new = order["path"], order["old"], order["new"]
if old == "":
    if os.path.exists(path):
        sys.exit(f"{path} exists; give the text to replace")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    text = new
else:
    try:
        before = open(path, newline="").read()
    except (OSError, UnicodeError) as error:
        sys.exit(f"{path}: {error}")
    if before.count(old) != 1:
        sys.exit(f"{path} has the old text {before.count(old)} times; give one that it has once")
    text = before.replace(old, new)
open(path, "w", newline="").write(text)
print(f"{path} is changed")
"""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool says.

    Attributes:
        text: For the policy.
        ends_episode: Whether the policy is done.
    """

    text: str
    ends_episode: bool = False


class Toolbox(Protocol):
    """What an agent can do, and what it leaves behind."""

    async def call(self, call: ToolCall) -> ToolResult:
        """Do what the policy asks."""

    async def tell(self, text: str) -> ToolResult:
        """Say something that is no call; where nobody listens the episode ends."""

    async def submission(self) -> str:
        """Return what is graded."""


class RepositoryTools:
    """The tools over one workspace."""

    def __init__(
        self,
        session: Session,
        environment: Environment,
        limits: Limits,
        *,
        max_characters: int,
    ) -> None:
        """Take the workspace.

        Args:
            session: The open workspace.
            environment: What it began as.
            limits: Of one call.
            max_characters: Of what a tool says; the middle of more is left out.
        """
        self._session = session
        self._environment = environment
        self._limits = limits
        self._max_characters = max_characters

    async def call(self, call: ToolCall) -> ToolResult:
        """Do what the policy asks.

        Raises:
            WorkspaceLostError: The jail is gone.
        """
        match call.name, dict(call.arguments):
            case "bash", {"command": str(command), **rest} if not rest:
                text = await self._bash(command)
            case "view", {"path": str(path), **lines} if _are_lines(lines):
                text = await self._view(path, lines)
            case "edit", {"path": str(path), "old": str(old), "new": str(new), **rest} if not rest:
                text = await self._edit(path, old, new)
            case "submit", {}:
                return ToolResult("submitted", ends_episode=True)
            case "bash" | "view" | "edit", arguments:
                text = f"error: {call.name} does not take {_short(json.dumps(arguments))}"
            case _:
                text = f"error: no tool {_short(call.name)!r}; there are bash, view, edit, submit"
        return ToolResult(shortened(readable(text), self._max_characters))

    async def tell(self, text: str) -> ToolResult:
        """Take a turn without a call as the end of the work."""
        return ToolResult("", ends_episode=True)

    async def submission(self) -> str:
        """Return the diff of the repository; empty where it is too large to be one.

        Raises:
            WorkspaceLostError: The jail is gone.
        """
        try:
            changes = await self._session.changes(max_bytes=_MOST_CHANGED_BYTES)
        except ValueError:
            return ""
        return diff_of(changes, self._environment.repo)

    async def _bash(self, command: str) -> str:
        program = Program(argv=("/bin/bash", "-c", f"exec 2>&1\n{command}"))
        result = (await self._session.run(program, self._limits)).result
        said = result.stdout.decode(errors="replace")
        if result.outcome is Outcome.LOST:
            said += "\n[lost: the machine failed; try again]"
        elif result.outcome is not Outcome.EXITED:
            said += f"\n[{_SAID[result.outcome]}]"
        elif result.exit_code:
            said += f"\n[exit status {result.exit_code}]"
        return said.strip("\n") or "[no output]"

    async def _view(self, path: str, lines: Mapping[str, object]) -> str:
        try:
            file = await self._session.read(path, max_bytes=_MOST_FILE_BYTES)
        except ValueError:
            return f"error: {_short(path)} is no plain path inside the repository"
        if file.kind is not ChangeKind.FILE:
            return f"error: {path} is no file that can be read"
        first = max(int(str(lines.get("first_line", 1))), 1)
        text = file.content.decode(errors="replace").split("\n")
        last = min(int(str(lines.get("last_line", len(text)))), len(text))
        shown = (f"{n:5d} {line}" for n, line in enumerate(text[first - 1 : last], start=first))
        return "\n".join(shown) or f"[{path} has {len(text)} lines]"

    async def _edit(self, path: str, old: str, new: str) -> str:
        order = json.dumps({"path": path, "old": old, "new": new}).encode()
        program = Program(argv=("python3", "-I", "-S", "-c", _EDIT), files={"edit.json": order})
        result = (await self._session.run(program, self._limits)).result
        said = (result.stdout + result.stderr).decode(errors="replace").strip()
        return said if result.exit_code == 0 else f"error: {said or result.outcome}"


def readable(text: str) -> str:
    """Return text that every tokenizer takes: JSON may hold halves of characters."""
    return text.encode(errors="replace").decode()


def shortened(text: str, max_characters: int) -> str:
    """Leave out the middle of a long text and say how much that was."""
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _are_lines(arguments: Mapping[str, object]) -> bool:
    return set(arguments) <= {"first_line", "last_line"} and all(
        isinstance(value, int) and not isinstance(value, bool) for value in arguments.values()
    )


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
