"""Writes checkpoints while the run goes on, each of them whole or not at all."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cispo.checkpoint.digests import force_to_disk
from cispo.checkpoint.finding import CONVERTED, UNFINISHED, checkpoint_name, complete_checkpoints
from cispo.checkpoint.groups import save_groups
from cispo.checkpoint.manifest import seal
from cispo.checkpoint.state import RunState
from cispo.disk import why_not_written
from cispo.errors import CheckpointError
from cispo.ports import Learner
from cispo.spans import CHECKPOINT, Spans
from cispo.types import Group, Metrics, PolicyVersion

_LOGGER = logging.getLogger(__name__)
_REPLACED = f"{UNFINISHED}replaced-"


class Checkpoints:
    """Implements `cispo.ports.Checkpoints` in one folder.

    A checkpoint is written under another name, forced to disk, and renamed, so that a crash at any
    moment leaves the ones before it valid and never a half one under a real name.

    `save` returns when the learner has been asked, and the next save and the end of the block wait
    for it. A disk that is full or fails costs a checkpoint and no run: it is told and counted, and
    is an error only where it hit the last one.

    Args:
        folder: Where checkpoints are kept; made if need be.
        keep: Newest checkpoints that are kept, >= 1.
        config: The run's configuration as plain values, which every checkpoint records.
        tracker_run_id: The W&B run that the metrics belong to, if there is one.
        schedules: Gives the state of the run's schedules.
        warn: Told about a checkpoint that could not be written, in a sentence.
        spans: Told when one is being written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        config: Mapping[str, Any],
        tracker_run_id: str | None = None,
        schedules: Callable[[], Mapping[str, Any]] = dict,
        warn: Callable[[str], None] = _LOGGER.warning,
        spans: Spans | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep} checkpoints, must be >= 1")
        self._folder = folder
        self._keep = keep
        self._config = config
        self._tracker_run_id = tracker_run_id
        self._schedules = schedules
        self._warn = warn
        self._spans = spans or Spans()
        self._writing: asyncio.Task[None] | None = None
        self._num_failures = 0
        self._last_failure: CheckpointError | None = None
        self._write_seconds: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the last write.

        Raises:
            CheckpointError: It failed, and nothing else ended the run.
        """
        try:
            await self.settle()
        except Exception as failure:
            if error is None:
                raise
            self._warn(f"the last checkpoint could not be written: {failure}")
        if error is None and self._last_failure is not None:
            raise self._last_failure

    async def save(
        self,
        *,
        iteration: int,
        version: PolicyVersion,
        next_task_index: int,
        learner: Learner,
        in_flight: Sequence[Group] = (),
    ) -> None:
        """Begin to write a checkpoint; see `cispo.ports.Checkpoints`."""
        await self.settle()
        state = RunState(
            iteration=iteration,
            version=version,
            next_task_index=next_task_index,
            config=self._config,
            tracker_run_id=self._tracker_run_id,
            schedules=self._schedules(),
        )
        asked = asyncio.Event()
        self._writing = asyncio.create_task(self._spanned(state, in_flight, learner, asked))
        await asked.wait()

    async def settle(self) -> None:
        """Wait until nothing is being written.

        Raises:
            CispoError: The learner failed in a write for another reason than the disk.
        """
        if self._writing is not None:
            await asyncio.wait([self._writing])  # which a cancelled wait does not cancel
            writing, self._writing = self._writing, None
            writing.result()

    def lap(self) -> Metrics:
        """The failed writes so far, and the seconds of a write that ended since the last lap."""
        seconds, self._write_seconds = self._write_seconds, None
        timed = {} if seconds is None else {"time/checkpoint_write_seconds": seconds}
        return {"checkpoint/failures": float(self._num_failures), **timed}

    async def _spanned(
        self, state: RunState, groups: Sequence[Group], learner: Learner, asked: asyncio.Event
    ) -> None:
        with self._spans(CHECKPOINT):
            await self._write(state, groups, learner, asked)

    async def _write(
        self, state: RunState, groups: Sequence[Group], learner: Learner, asked: asyncio.Event
    ) -> None:
        began = time.perf_counter()
        final = self._folder / checkpoint_name(state.iteration)
        unfinished = self._folder / f"{UNFINISHED}{final.name}"
        try:
            await asyncio.to_thread(self._begin, unfinished)
            saving = asyncio.ensure_future(learner.save(unfinished))
            await asyncio.sleep(0)  # it is asked before anything can ask for the next step
            asked.set()
            await saving
            await asyncio.to_thread(_complete, unfinished, final, state, groups)
        except (OSError, CheckpointError) as error:
            await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
            self._count_failure(final, error)
        else:
            self._last_failure = None
            self._write_seconds = time.perf_counter() - began
            await asyncio.to_thread(self._remove_obsolete, final)
        finally:
            asked.set()

    def _count_failure(self, final: Path, error: Exception) -> None:
        self._num_failures += 1
        complete = complete_checkpoints(self._folder)
        newest = f"the newest is {complete[-1]}" if complete else "there is none yet"
        reason = (
            str(error)
            if isinstance(error, CheckpointError)
            else why_not_written(error, self._folder)
        )
        message = f"checkpoint {final} could not be written: {reason}"
        self._last_failure = CheckpointError(f"{message}; {newest}")
        self._last_failure.__cause__ = error
        self._warn(f"{self._last_failure}; the run goes on and tries again at its next checkpoint")

    def _begin(self, unfinished: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)
        unfinished.mkdir()

    def _remove_obsolete(self, newest: Path) -> None:
        """Remove all but the last `keep` up to `newest`, and those after it.

        After it there are some where the run was resumed from an earlier one: they belong to a
        course that it has left, and `resume=` on the folder would return to it.
        """
        found = complete_checkpoints(self._folder)
        position = found.index(newest)
        kept = found[max(0, position + 1 - self._keep) : position + 1]
        obsolete = [path for path in found if path not in kept]
        converted = [
            path
            for path in self._folder.glob(f"*{CONVERTED}")
            if path.name.removesuffix(CONVERTED) not in {checkpoint.name for checkpoint in kept}
        ]
        try:
            for path in [*obsolete, *converted, *self._folder.glob(f"{_REPLACED}*")]:
                shutil.rmtree(path)
        except OSError as error:
            self._warn(f"an obsolete checkpoint could not be removed: {error}")


def _complete(unfinished: Path, final: Path, state: RunState, groups: Sequence[Group]) -> None:
    save_groups(unfinished, groups)
    seal(unfinished, state)
    if final.exists():
        final.rename(final.with_name(f"{_REPLACED}{final.name}"))
    unfinished.rename(final)
    force_to_disk([final.parent])
