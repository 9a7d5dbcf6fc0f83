"""A run in a terminal: bars, rates and time left of all phases, and what is waited for."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cispo.tracking.activity import Activity, Phase
from cispo.tracking.alarms import Alarms
from cispo.tracking.headline import closing_lines, duration, headline
from cispo.tracking.pace import Pace
from cispo.types import Group, Lesson, Metrics, RolloutKind

_BAR_WIDTH = 32


class LiveConsole:
    """A tracker that draws a panel at the bottom of the terminal; iterations scroll above it.

    Attributes:
        progress: The `Progress` that the run's parts report to.

    Args:
        console: Where to draw.
        name: Name of the run.
        iterations: Iterations of the whole run.
        clock: Seconds from an arbitrary zero.
    """

    def __init__(
        self,
        console: Console,
        *,
        name: str,
        iterations: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._name = name
        self._iterations = iterations
        self._clock = clock
        self._began = clock()
        self._pace = Pace()
        self._alarms = Alarms()
        self._eta_seconds: float | None = None
        self._step = 0
        self.progress = Activity(clock)
        self._live = Live(
            get_renderable=self.render, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def log(self, step: int, metrics: Metrics) -> None:
        """Print the iteration's line above the panel, and any alarm that begins."""
        self._step = step
        self._eta_seconds = self._pace.eta_seconds(step, self._iterations, metrics)
        self.print(headline(step, self._iterations, metrics, eta_seconds=None))
        for alarm in self._alarms.begun(metrics):
            self._console.print(Text(f"  alarm: {alarm}", style="bold red"))

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Rollouts are not shown."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Take the panel away and say what the run came to."""
        self._live.stop()
        for text in closing_lines(summary):
            self._console.print(Text(text, style="bold"))

    def print(self, text: str) -> None:
        """Print a line above the panel."""
        self._console.print(Text(text))

    def render(self) -> RenderableType:
        """Draw the panel as it is now."""
        now = self._clock()
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", width=12)
        table.add_column(width=_BAR_WIDTH)
        for _ in range(3):
            table.add_column(justify="right", min_width=9)
        table.add_row(*self._whole_run())
        for phase in self.progress.phases():
            table.add_row(*_row(phase, now))
        waits = [Text(f"waiting: {wait}", style="yellow") for wait in self.progress.waits()]
        title = f"{self._name}  {duration(now - self._began)}"
        return Stack(Rule(title, style="dim", align="left"), table, *waits)

    def _whole_run(self) -> list[RenderableType]:
        left = "" if self._eta_seconds is None else f"eta {duration(self._eta_seconds)}"
        bar = ProgressBar(total=self._iterations, completed=self._step, width=_BAR_WIDTH)
        return ["iterations", bar, f"{self._step}/{self._iterations}", "", left]


def _row(phase: Phase, now: float) -> list[RenderableType]:
    seconds = phase.seconds(now)
    is_over = phase.ended is not None
    bar = ProgressBar(
        total=phase.total,
        completed=phase.done if phase.done or not is_over else phase.total,
        width=_BAR_WIDTH,
        pulse=not is_over and phase.done == 0,
        animation_time=now,
        complete_style="dim" if is_over else "cyan",
        finished_style="dim" if is_over else "green",
    )
    style = "dim" if is_over else ""
    rate = f"{phase.done / seconds:.1f}/s" if phase.done > 1 and seconds > 0 else ""
    return [
        Text(phase.name, style=style),
        bar,
        Text(f"{phase.done}/{phase.total}" if phase.total > 1 else "", style=style),
        Text(rate, style=style),
        Text(_time(phase, seconds), style=style),
    ]


def _time(phase: Phase, seconds: float) -> str:
    if phase.ended is None and 0 < phase.done < phase.total:
        return f"eta {duration(seconds * (phase.total - phase.done) / phase.done)}"
    return f"{seconds:.1f} s"
