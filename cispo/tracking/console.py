"""Chooses how a run shows itself: bars in a terminal, lines elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console

from cispo.tracking.live import LiveConsole
from cispo.tracking.plain import PlainConsole

RunConsole: TypeAlias = LiveConsole | PlainConsole
"""A context manager that is a `Tracker` and has a `progress`."""

_PACKAGES = ("cispo", "rollout", "rewards", "sandboxes", "launch")


def open_console(*, name: str, iterations: int, console: Console | None = None) -> RunConsole:
    """Return what suits the output.

    Args:
        name: Name of the run.
        iterations: Iterations of the whole run.
        console: Where to write; standard output by default.
    """
    target = console or Console(file=sys.stdout, highlight=False)
    if target.is_terminal and not target.is_dumb_terminal:
        return LiveConsole(target, name=name, iterations=iterations)
    return PlainConsole(target.file, iterations=iterations)


@contextmanager
def warnings_to(say: Callable[[str], None]) -> Iterator[None]:
    """Show what our own packages warn of as lines of the run, which a panel does not overwrite."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"  warning: {record.getMessage()}")

    handler = Handler(level=logging.WARNING)
    loggers = [logging.getLogger(package) for package in _PACKAGES]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
