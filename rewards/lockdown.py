"""Gives up, for good, everything that a process needs only to do harm."""

import ctypes
import gc
import os
import resource
import signal
from pathlib import Path

from sandboxes.seccomp import compute_only_filter

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def lock_down(*, memory_bytes: int) -> None:
    """Leave this process nothing but to compute, read files and use the pipes it has open.

    It can then start no process, open no socket, write or remove no file, and signal nobody; it
    dies with its parent. Modules that are imported later still load, which is why reading stays
    allowed.

    Args:
        memory_bytes: Address space that it may add to what it has now.

    Raises:
        OSError: The kernel refused a step.
        SandboxUnavailableError: The processor's system calls are not known.
    """
    filter_bytes = compute_only_filter()
    libc = ctypes.CDLL(None, use_errno=True)
    _control(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    limit = _address_space_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(name, (0, 0))
    gc.freeze()
    program = _FilterProgram(len(filter_bytes) // 8, filter_bytes)
    _control(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _control(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _control(libc: ctypes.CDLL, option: int, first: int, second: int = 0) -> None:
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    if libc.prctl(option, *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
