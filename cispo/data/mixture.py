"""A weighted, endless mixture of task tables, whose shares and tasks what was learned may change.

Without a curriculum, and without leaving out what is solved, it is a pure function of the index.
With them a task depends on the iterations that were observed before it was drawn. Each is drawn
once, and checkpoints hold what was drawn and not yet learned from: a resume samples the same tasks.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from cispo.data.base import TaskTable
from cispo.data.curriculum import Curriculum
from cispo.data.shuffled import Shuffled
from cispo.data.skips import IN_TRAINING, SkipReason, Skips, no_skips
from cispo.data.solved import Place, SolvedTasks
from cispo.errors import ConfigError, NoSignal
from cispo.seeding import stream_seed
from cispo.types import Group, Message, Metrics, Task

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Drawn:
    place: Place
    task: Task


class TaskMixture:
    """Tasks drawn from tables by weight; each epoch of a table has a new random order.

    It is a `TaskSource`, and a `Schedule` that observes what became of its tasks.

    Args:
        tables: Where tasks come from.
        weights: Share of each table, > 0; a curriculum's phases say the shares instead.
        seed: Decides the order.
        skips: Says which tasks are passed over.
        system_prompt: First message of every task, where not empty.
        labels: What the tables are called; as themselves where it is empty.
        curriculum: Gives the shares.
        solved: Knows which tasks are not drawn again.

    Raises:
        ConfigError: On drawing: every task of a table is passed over.
        NoSignal: On drawing: every task that could be drawn is solved.
    """

    def __init__(
        self,
        tables: Sequence[TaskTable],
        weights: Sequence[float],
        *,
        seed: int,
        skips: Skips = no_skips,
        system_prompt: str = "",
        labels: Sequence[str] = (),
        curriculum: Curriculum | None = None,
        solved: SolvedTasks | None = None,
    ) -> None:
        self._tables = list(tables)
        self._weights = list(weights)
        self._seed = seed
        self._skips = skips
        self._system = (Message(role="system", content=system_prompt),) if system_prompt else ()
        self._labels = list(labels) or [table.name for table in tables]
        self._curriculum = curriculum
        self._solved = solved
        self._announce: Callable[[str], None] = _LOG.info
        self._first = self._next = self._num_choices = 0
        self._drawn: dict[int, _Drawn] = {}
        self._rows: list[Shuffled] = []
        self._choose = Random()
        self._exhausted: set[int] = set()
        self._skipped: Counter[SkipReason] = Counter()
        self.restore({})

    def announce_to(self, announce: Callable[[str], None]) -> None:
        """Tell from now on, in a line, when a phase begins or all tasks of a table are solved."""
        self._announce = announce

    def task(self, index: int) -> Task:
        """Return the task at a position, from 0, that no observed iteration has used up."""
        while self._next <= index:
            self._drawn[self._next] = self._draw()
            self._next += 1
        return self._drawn[index].task

    def preview(self, count: int) -> list[Task]:
        """Return tasks of all tables in turn, and change nothing."""
        orders = [self._order(table) for table in range(len(self._tables))]
        turns = (number % len(orders) for number in range(count))
        found = [self._next_of(table, orders[table], Counter()) for table in turns]
        return [drawn.task for drawn in found if drawn is not None]

    def observe(self, groups: Sequence[Group]) -> Metrics:
        """Take note of what became of an iteration's tasks; see `cispo.ports.Schedule`."""
        metrics = self._described()
        outcomes: list[tuple[str, float]] = []
        for group in groups:
            right = sum(verdict.parts["correct"] >= 1.0 for _, verdict in group.graded)
            drawn, judged = self._drawn.get(group.index), len(group.graded)
            if drawn is not None and judged:
                outcomes.append((self._labels[drawn.place[0]], right / judged))
                if self._solved is not None:
                    self._solved.observe(drawn.place, right=right, judged=judged)
        if self._solved is not None:
            metrics["curriculum/solved_tasks"] = float(len(self._solved))
        if self._curriculum is not None:
            shift = self._curriculum.observe(outcomes)
            metrics["curriculum/shifts"] = float(shift is not None)
            if shift is not None:
                self._announce(shift)
        self._skipped.clear()
        self._first = groups[-1].index + 1
        self._drawn = {i: drawn for i, drawn in self._drawn.items() if i >= self._first}
        return metrics

    def state(self) -> Mapping[str, Any]:
        """What a resume needs, as plain JSON values."""
        places = [self._drawn[index].place for index in range(self._first, self._next)]
        return {
            "first": self._first,
            "drawn": " ".join(f"{table}:{row}" for table, row in places),
            "positions": [rows.position for rows in self._rows],
            "choices": self._num_choices,
            "exhausted": sorted(self._exhausted),
            "skipped": dict(self._skipped),
            "curriculum": self._curriculum.state() if self._curriculum else {},
            "solved": self._solved.state() if self._solved else {},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; from the beginning where it is empty."""
        self._first = self._next = state.get("first", 0)
        self._drawn = {}
        for entry in state.get("drawn", "").split():
            table, row = (int(number) for number in entry.split(":"))
            task = self._tables[table][row]
            self._drawn[self._next] = _Drawn((table, row), self._prompted(task))
            self._next += 1
        self._rows = [self._order(table) for table in range(len(self._tables))]
        for rows, position in zip(self._rows, state.get("positions", ()), strict=False):
            rows.position = position
        self._num_choices = state.get("choices", 0)
        self._choose = Random(stream_seed(self._seed, "mixture"))
        for _ in range(self._num_choices):
            self._choose.random()  # one number a choice
        self._exhausted = set(state.get("exhausted", ()))
        self._skipped = Counter(
            {SkipReason(reason): count for reason, count in state.get("skipped", {}).items()}
        )
        if self._curriculum is not None:
            self._curriculum.restore(state.get("curriculum", {}))
        if self._solved is not None:
            self._solved.restore(state.get("solved", {}))

    def _order(self, table: int) -> Shuffled:
        return Shuffled(len(self._tables[table]), stream_seed(self._seed, "order", table))

    def _draw(self) -> _Drawn:
        while True:
            table = self._choice()
            drawn = self._next_of(table, self._rows[table], self._skipped)
            if drawn is not None:
                return drawn
            self._exhausted.add(table)
            self._announce(
                f"curriculum: all tasks of {self._labels[table]} are solved; the other sources "
                "share its part"
            )

    def _choice(self) -> int:
        shares = self._curriculum.shares if self._curriculum else self._weights
        left = [0.0 if i in self._exhausted else share for i, share in enumerate(shares)]
        if not any(left):
            raise NoSignal(
                f"all tasks are solved of {', '.join(self._labels[i] for i in self._exhausted)}, "
                "which is all that may be drawn now: add tasks, or raise tasks.difficulty.solved_at"
            )
        self._num_choices += 1
        return self._choose.choices(range(len(left)), left)[0]

    def _next_of(self, table: int, rows: Shuffled, skipped: Counter[SkipReason]) -> _Drawn | None:
        """Return the next task of a table that is not passed over, or None if all are solved."""
        seen: Counter[SkipReason] = Counter()
        for _ in range(len(self._tables[table])):
            place = table, rows.next()
            if self._solved is not None and place in self._solved:
                seen[SkipReason.SOLVED] += 1
                continue
            task = self._tables[table][place[1]]
            reason = self._skips(task)
            if reason is None:
                skipped.update(seen)
                return _Drawn(place, self._prompted(task))
            seen[reason] += 1
        skipped.update(seen)
        if seen[SkipReason.SOLVED]:
            return None
        counts = ", ".join(f"{count} {reason}" for reason, count in seen.items())
        raise ConfigError(
            f"tasks: no task of {self._labels[table]} is left to draw: {counts}; see "
            "tasks.held_out_fraction and tasks.difficulty"
        )

    def _prompted(self, task: Task) -> Task:
        if not self._system or task.messages[0].role == "system":
            return task
        return replace(task, messages=self._system + task.messages)

    def _described(self) -> dict[str, float]:
        metrics = {f"skips/{r}_tasks": float(self._skipped[r]) for r in IN_TRAINING}
        if self._curriculum is not None:
            metrics["curriculum/phase"] = float(self._curriculum.stage)
            for label, share in zip(self._labels, self._curriculum.shares, strict=True):
                metrics[f"curriculum/share/{label}"] = share
        return metrics


def prompt_text(task: Task) -> str:
    """The text by which two tasks count as the same problem."""
    return "\n".join(m.content for m in task.messages if m.role != "system")
