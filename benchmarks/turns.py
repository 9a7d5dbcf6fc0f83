"""Processes that take turns: each waits for its own, answers, and waits again (stdlib only).

Both sides are here, so that an interpreter without our packages can take part.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).parents[1]
_TURN = "turn"
_MARK = "measured: "
"""Begins an answer; libraries print lines of their own."""


class Contestant:
    """A process that runs a module of this package; its first answer says that it is ready.

    Args:
        python: The interpreter.
        module: The module, for example `benchmarks.trl_peer`.
        problem: Handed over as JSON.
        environment: Variables that the process gets besides ours.

    Raises:
        RuntimeError: The process ended; the message holds the end of what it wrote.
    """

    def __init__(
        self,
        python: str,
        module: str,
        problem: Mapping[str, Any],
        *,
        environment: Mapping[str, str],
    ) -> None:
        self._name = module
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(problem)],
            cwd=_ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        """Wait until it is ready, once, and return what it says of itself."""
        return self._answer()

    def turn(self) -> dict[str, Any]:
        """Let it act, and return what it measured."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{_TURN}\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(_MARK))
                return answer
        self._errors.seek(0)
        tail = self._errors.read()[-2000:]
        raise RuntimeError(f"{self._name} ended with code {self._process.wait()}:\n{tail}")


def wait_for_turn() -> None:
    """Return when it is this process's turn; end the process when there will be none."""
    if sys.stdin.readline().strip() != _TURN:
        sys.stdout.flush()
        os._exit(0)


def answer(measured: Mapping[str, Any]) -> None:
    """Say that this process is ready, or what its turn has measured."""
    print(f"{_MARK}{json.dumps(measured)}", flush=True)


def take_turns(contestants: Mapping[str, Contestant], *, rounds: int) -> dict[str, list[Any]]:
    """Give all one turn after the other, `rounds` times; what each measured, by name."""
    measured: dict[str, list[Any]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            measured[name].append(contestant.turn())
    return measured
