"""Looks from a thread of its own whether anything happens; shows stacks, then ends the run.

A thread, so that it also works while the event loop is stuck (stdlib only).
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol, Self

from cispo.errors import StalledError

_LOGGER = logging.getLogger(__name__)


class Watched(Protocol):
    """Knows what a run waits for; see `cispo.tracking.activity.Activity`."""

    def quiet_seconds(self) -> float:
        """Time since anything happened."""

    def waits(self) -> list[str]:
        """A line for each thing that is waited for, with its age."""


class Watchdog:
    """Watches as long as its block runs.

    Args:
        watched: What the run waits for.
        dump_seconds: Time without any event after which stacks are dumped; 0 never.
        end_seconds: Time without any event after which the run is ended; 0 never.
        grace_seconds: Time that the run then has to end in order, before `end_hard`.
        dump: Writes stacks and says where they are.
        advice: What a user can do after the run was ended.
        end: Ends the run in order, with the error that names what was waited for.
        end_hard: Ends the process at once, where that did not help.
        warn: Told about a dump, in a sentence.
    """

    def __init__(
        self,
        watched: Watched,
        *,
        dump_seconds: float,
        end_seconds: float,
        grace_seconds: float,
        dump: Callable[[], object],
        advice: Callable[[], str],
        end: Callable[[StalledError], None],
        end_hard: Callable[[StalledError], None],
        warn: Callable[[str], None] = _LOGGER.warning,
    ) -> None:
        self._watched = watched
        self._dump_seconds = dump_seconds
        self._end_seconds = end_seconds
        self._grace_seconds = grace_seconds
        self._dump = dump
        self._advice = advice
        self._end = end
        self._end_hard = end_hard
        self._warn = warn
        self._has_dumped = False
        self._dumped = ""
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def look(self) -> StalledError | None:
        """Dump stacks when it is time; return the error when it is time to end the run."""
        quiet = self._watched.quiet_seconds()
        if self._has_dumped and quiet < self._dump_seconds:
            self._has_dumped, self._dumped = False, ""
        if not self._has_dumped and 0 < self._dump_seconds <= quiet:
            self._has_dumped = True
            self._dumped = f"; stacks: {self._stacks()}"
            self._warn(f"{self._stall(quiet)}{self._dumped}")
        if 0 < self._end_seconds <= quiet:
            return StalledError(
                f"{self._stall(quiet)}{self._dumped}; watchdog.end_seconds="
                f"{self._end_seconds:g} ended the run: {self._advice()}"
            )
        return None

    def _stall(self, quiet: float) -> str:
        return f"nothing has happened for {quiet:.0f} s; waiting: " + " | ".join(
            self._watched.waits()
        )

    def _stacks(self) -> str:
        try:
            return str(self._dump())
        except OSError as error:
            return f"could not be written ({error})"

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            error = self.look()
            if error is not None:
                self._end(error)
                if not self._closed.wait(self._grace_seconds):
                    self._end_hard(error)
                return
