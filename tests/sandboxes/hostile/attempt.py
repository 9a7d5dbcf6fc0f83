"""One hostile attempt: a program, and what the host must see while and after it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

PRELUDE = """
import ctypes, os, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
def show(name="{marker}"):
    libc.prctl(15, name.encode(), 0, 0, 0)
def call(number, *arguments):
    return libc.syscall(number, *arguments)
def tell(action):
    try:
        print("result", action(), flush=True)
    except BaseException as error:
        print("error", repr(error), flush=True)
def hold():
    show()
    signal.sigtimedwait({{signal.SIGUSR1}}, 100)
def fill(path, most=1 << 40):
    with open(path, "wb", 0) as file:
        written = 0
        while written < most:
            written += file.write(bytes(65536))
"""
"""What every attempt may use; `hold` stays until the host has looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A program that is out to harm.

    Attributes:
        name: A few words.
        kind: escape, theft, bomb, survivor or protocol.
        code: Python, after `PRELUDE`; `{braces}` name what the host set up.
        holds: Whether it ends in `hold()`, so that the host looks at it.
        outcomes: How it may end; `lost` never.
        without_cgroup: How else it may end where memory and processes are bounded one by one.
        needs_x86: Whether it uses numbers of that processor.
        limits: Limits that differ from the suite's.
    """

    name: str
    kind: str
    code: str
    holds: bool = False
    outcomes: Sequence[str] = ("exited", "timed_out", "out_of_memory", "output_limit")
    without_cgroup: Sequence[str] = ()
    needs_x86: bool = False
    limits: dict[str, float] = field(default_factory=dict)


def held(kind: str, programs: dict[str, str], *, needs_x86: bool = False) -> list[Attempt]:
    """Return attempts that end in `hold()`."""
    return [
        Attempt(name=name, kind=kind, code=f"{code}\nhold()", holds=True, needs_x86=needs_x86)
        for name, code in programs.items()
    ]
