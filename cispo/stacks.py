"""Stacks of all processes of a run, also of one whose interpreter hangs (stdlib only).

A process offers its stacks once. Later a signal makes faulthandler's handler write them, which
needs neither the interpreter's lock nor an event loop: it works while C code holds the lock.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

VARIABLE = "CISPO_STACKS_DIR"
"""Environment variable that names the folder in which processes offer their stacks."""

SIGNAL = signal.SIGUSR1
_MAX_COROUTINES = 200
_POLL_SECONDS = 0.1
_SETTLED_POLLS = 3
_STATES = {"T": "stopped", "t": "stopped by a debugger", "D": "in the kernel"}

Incarnation: TypeAlias = tuple[int, int]
"""A process: its id, which the kernel gives to others later, and its start in clock ticks."""

Elsewhere: TypeAlias = Callable[[str, Sequence[Incarnation]], None]
"""Calls `ask` on another host, given its name."""


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    host: str
    incarnation: Incarnation
    file: Path

    @property
    def pid(self) -> int:
        return self.incarnation[0]

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_gone(self) -> bool:
        return self.is_here and not _is_alive(self.incarnation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What a dump found.

    Attributes:
        path: File with the stacks of all processes.
        silent: Processes that wrote none, by name, each with its state where that is known.
    """

    path: Path
    silent: dict[str, str]

    def __str__(self) -> str:
        silent = [f"{name} ({state})" if state else name for name, state in self.silent.items()]
        return f"{self.path}" + (f"; no answer from {', '.join(silent)}" if silent else "")


def offer_stacks(name: str) -> None:
    """Let this process write its stacks on `SIGNAL`; does nothing where no run asks for them.

    Args:
        name: For people, as in "learner rank 0".
    """
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    pid = os.getpid()
    file_name = "@".join((name, socket.gethostname(), str(pid), str(_stat(pid)[1])))
    with contextlib.suppress(OSError):  # a full disk must not end a run that needs no stacks
        Path(folder).mkdir(parents=True, exist_ok=True)
        unready = Path(folder) / f".{file_name}"
        faulthandler.register(SIGNAL, file=unready.open("w", encoding="utf-8"), all_threads=True)
        unready.rename(Path(folder) / file_name)


def ask(processes: Sequence[Incarnation]) -> None:
    """Send `SIGNAL` to those of this host's processes that live; it would kill any other."""
    for incarnation in processes:
        if _is_alive(incarnation):
            with contextlib.suppress(ProcessLookupError):
                os.kill(incarnation[0], SIGNAL)


class Stacks:
    """Collects the stacks of a run's processes into one file a dump.

    Args:
        folder: The run's folder; processes offer their stacks in a hidden one below it.
        elsewhere: Reaches processes on other hosts; None where there are none.
    """

    def __init__(self, folder: Path, *, elsewhere: Elsewhere | None = None) -> None:
        self._folder = folder
        self._elsewhere = elsewhere
        self._num_dumps = 0
        self.offers = (folder / ".stacks").resolve()
        """Folder for `VARIABLE`."""

    def dump(self, *, loop: asyncio.AbstractEventLoop | None = None, seconds: float = 10.0) -> Dump:
        """Write the stacks of this process and of all that offered theirs.

        Args:
            loop: An event loop of this process, whose coroutines are listed too.
            seconds: Wall time to wait for the slowest.

        Raises:
            OSError: The file cannot be written.
        """
        self._num_dumps += 1
        path = self._folder / f"stacks-{self._num_dumps}.txt"
        processes = [process for process in self._offered() if not process.is_gone]
        before = {process: _size(process.file) for process in processes}
        self._ask(processes)
        self._wait(before, seconds)
        silent: dict[str, str] = {}
        with path.open("w", encoding="utf-8") as out:
            out.write(f"driver (process {os.getpid()})\n")
            out.flush()
            faulthandler.dump_traceback(file=out, all_threads=True)
            if loop is not None:
                out.writelines(_coroutines(loop))
            for process in processes:
                text = process.file.read_text(errors="replace")[before[process] :]
                state = _STATES.get(_stat(process.pid)[0], "") if process.is_here else ""
                if not text:
                    silent[process.name] = state
                    text = f"wrote nothing{f': it is {state}' if state else ''}\n"
                where = f"(process {process.pid} on {process.host})"
                out.write(f"\n{process.name} {where}\n{text}")
        return Dump(path=path, silent=silent)

    def close(self) -> None:
        """Remove what processes offered; the dumps stay."""
        for process in self._offered():
            process.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.offers.rmdir()

    def _offered(self) -> list[_Process]:
        found = []
        for file in sorted(self.offers.glob("[!.]*@*@*@*")):
            name, host, pid, started = file.name.split("@")
            found.append(_Process(name, host, (int(pid), int(started)), file))
        return found

    def _ask(self, processes: Sequence[_Process]) -> None:
        hosts: dict[str, list[Incarnation]] = {}
        for process in processes:
            hosts.setdefault(process.host, []).append(process.incarnation)
        for host, incarnations in hosts.items():
            if host == socket.gethostname():
                ask(incarnations)
            elif self._elsewhere is not None:
                self._elsewhere(host, incarnations)

    def _wait(self, before: dict[_Process, int], seconds: float) -> None:
        """Wait until all have written and nothing more comes."""
        deadline = time.monotonic() + seconds
        sizes, num_equal = dict(before), 0
        while time.monotonic() < deadline and num_equal < _SETTLED_POLLS:
            time.sleep(_POLL_SECONDS)
            now = {process: _size(process.file) for process in before}
            have_all = all(now[process] > before[process] for process in before)
            num_equal = num_equal + 1 if have_all and now == sizes else 0
            sizes = now


def _coroutines(loop: asyncio.AbstractEventLoop) -> list[str]:
    """A line for each coroutine of a loop: its task, and where it waits."""
    try:
        tasks = list(asyncio.all_tasks(loop))[:_MAX_COROUTINES]
    except RuntimeError:  # the loop goes on meanwhile, and changes the set of its tasks
        return []
    lines = ["\ncoroutines of the driver\n"]
    for task in tasks:
        lines += [f"  {task.get_name()}\n"]
        lines += [
            f"    {frame.f_code.co_name}, {frame.f_code.co_filename}:{frame.f_lineno}\n"
            for frame in task.get_stack()
        ]
    return lines


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _is_alive(incarnation: Incarnation) -> bool:
    state, started = _stat(incarnation[0])
    return state not in ("", "Z", "X") and started == incarnation[1]


def _stat(pid: int) -> tuple[str, int]:
    """The kernel's letter for what a process does, and when it started; see `man proc_pid_stat`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return fields[0], int(fields[19])
