"""What a sandbox is: a program and its limits go in, an outcome and its output come out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Protocol


class Outcome(StrEnum):
    """How a run ended. Only `LOST` is the machine's fault, the others are the program's."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program with all its processes may use.

    Attributes:
        cpu_seconds: CPU time.
        wall_seconds: Wall time, a generous backstop: wall clocks run on while a busy machine serves
            others.
        memory_bytes: Memory, files in `/tmp` and `/dev/shm` included.
        max_processes: Processes and threads.
        output_bytes: Standard output and standard error, each.
        tmp_bytes: Size of `/tmp`, and of `/dev/shm`.
        cpus: CPUs that it may use at once, where the kernel lets us set that.
    """

    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    max_processes: int
    output_bytes: int
    tmp_bytes: int = 64 * 2**20
    cpus: float = 1.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"limit {name} is {getattr(self, name)}; it must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run; it starts in `/tmp`, where its files lie.

    Attributes:
        argv: Command and arguments as the sandbox sees them; `python3` is always there. Holds no
            secrets.
        stdin: Standard input, a file that may be read once or often.
        files: Contents by relative path.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("argv is empty")
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise ValueError(f"file name {name!r} does not stay in the working folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """What a program did; every field but `outcome` and the two times may be forged by the program.

    Attributes:
        outcome: How the run ended.
        exit_code: Exit status, 128 + n after signal n; None unless the program came to an end by
            itself.
        stdout: Standard output, cut at the limit.
        stderr: Standard error, cut at the limit; the launcher's own message where the outcome is
            `LOST`.
        cpu_seconds: CPU time of all its processes.
        wall_seconds: Wall time, start-up included.
    """

    outcome: Outcome
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    cpu_seconds: float
    wall_seconds: float


def lost(reason: str) -> ExecResult:
    """Return the result of a run that we could not make."""
    return ExecResult(
        outcome=Outcome.LOST,
        exit_code=None,
        stdout=b"",
        stderr=reason.encode(),
        cpu_seconds=0.0,
        wall_seconds=0.0,
    )


class Sandbox(Protocol):
    """Runs programs that are out to harm us."""

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        """Run one program from a fresh start; how many run at once is the caller's choice.

        A program never raises. When the call is cancelled the program is killed.
        """

    async def probe(self) -> tuple[str, ...]:
        """Run a real program that tries to break out, and name the layers that held it.

        Raises:
            SandboxUnavailableError: A layer is missing; the message names it and says what to
                change.
        """

    async def close(self) -> None:
        """End what is kept between runs."""
