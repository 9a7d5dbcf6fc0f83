"""Chooses how a run shows itself: bars in a terminal, lines elsewhere."""

import sys

from rich.console import Console

from cispo.tracking.live import LiveConsole
from cispo.tracking.plain import PlainConsole


def open_console(
    *, name: str, iterations: int, console: Console | None = None
) -> LiveConsole | PlainConsole:
    """Return a context manager that is a `Tracker` and has a `progress`.

    Args:
        name: Name of the run.
        iterations: Iterations of the whole run.
        console: Where to write; standard output by default.
    """
    target = console or Console(file=sys.stdout, highlight=False)
    if target.is_terminal and not target.is_dumb_terminal:
        return LiveConsole(target, name=name, iterations=iterations)
    return PlainConsole(target.file, iterations=iterations)
