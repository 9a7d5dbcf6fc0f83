"""Engines that stand still in the midst of their work until a test lets them go on."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollout.backends.base import Finished
from rollout.driver import Engine

_STEPS_BEFORE_THE_HOLD = 10


class _HeldBackend:
    """A backend whose steps wait while there is a hold; all else is the backend's own."""

    def __init__(self, backend: Any, folder: Path) -> None:
        self._backend = backend
        self._folder = folder
        self._steps_until_hold = _STEPS_BEFORE_THE_HOLD

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self) -> list[Finished]:
        hold = self._folder / "hold"
        if hold.exists():
            self._steps_until_hold -= 1
            if self._steps_until_hold <= 0:
                (self._folder / f"held-{os.getpid()}").touch()
            while self._steps_until_hold <= 0 and hold.exists():
                time.sleep(0.01)
        finished: list[Finished] = self._backend.step()
        return finished


class Hold:
    """Holds engines that are made by `make_engine`, in whichever processes they run.

    Args:
        folder: Where the test and the engines meet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make_engine(self, make: Callable[[], Engine]) -> Engine:
        engine = make()
        return dataclasses.replace(engine, backend=_HeldBackend(engine.backend, self._folder))

    def begin(self) -> None:
        """Let engines make some more steps, then stand still."""
        (self._folder / "hold").touch()

    def has_stopped(self, pid: int) -> bool:
        """Whether the engine of this process stands still, with work that it has begun."""
        return (self._folder / f"held-{pid}").exists()

    def end(self) -> None:
        (self._folder / "hold").unlink()
