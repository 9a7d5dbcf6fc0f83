"""The kernel calls that Python does not offer: mounts, namespaces, capabilities, filters."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x4000000, 0x8000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
_PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 4, 15, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_MODE_FILTER = 2
_MADV_COLLAPSE = 25
_LARGE_PAGE_BYTES = 1 << 21
_CAPABILITY_VERSION_3 = 0x20080522
_NUM_CAPABILITIES = 64

_CLONE = {"x86_64": 56, "aarch64": 220}

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = ctypes.PyDLL(None, use_errno=True).syscall  # keeps the interpreter's lock
_syscall.restype = ctypes.c_long


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system, or with `MS_BIND` a folder or file.

    Raises:
        OSError: The kernel refused; the message names the target.
    """
    words = [word.encode() for word in (source, target, kind)]
    _check(
        _libc.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount {kind} on {target}"
    )


def unshare(flags: int) -> None:
    """Leave namespaces for new ones.

    Raises:
        OSError: The kernel refused.
    """
    _check(_libc.unshare(flags), f"unshare {flags:#x}")


def enter(process: int, flags: int) -> None:
    """Enter namespaces of a process; its process namespace becomes that of future children.

    Args:
        process: Handle of the process.
        flags: Which namespaces.

    Raises:
        OSError: The kernel refused.
    """
    _check(_libc.setns(process, flags), f"setns {flags:#x}")


def fork(flags: int) -> int:
    """Fork into new namespaces, as `os.fork`; this process must have one thread.

    The C library does not learn of it: the child should do no more than fork again.

    Raises:
        OSError: The kernel refused.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_syscall(_CLONE[os.uname().machine], flags | signal.SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    code = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone {flags:#x}: {os.strerror(code)}")
    return pid


def name_process(name: str) -> None:
    """Set the name that lists of processes show, at most 15 characters."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def use_large_pages() -> None:
    """Put this process's memory into large pages, which a fork copies one entry of, and not 512.

    What a child then writes to is still copied in small pages. Kernels before 6.1, and memory that
    does not fill a large page, leave things as they are.
    """
    with open("/proc/self/maps") as file:
        mappings = [line.split() for line in file]
    for span, rights, _, _, _, *name in mappings:
        if "w" in rights and name in ([], ["[heap]"]):
            first, last = (int(end, 16) for end in span.split("-"))
            first = -(-first // _LARGE_PAGE_BYTES) * _LARGE_PAGE_BYTES
            if first + _LARGE_PAGE_BYTES <= last:
                length = (last - first) // _LARGE_PAGE_BYTES * _LARGE_PAGE_BYTES
                words = ctypes.c_void_p(first), ctypes.c_size_t(length)
                _libc.madvise(*words, _MADV_COLLAPSE)


def hide() -> None:
    """Keep processes of the same user from reading this one's memory, descriptors and environment.

    Raises:
        OSError: The kernel refused.
    """
    _control("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def unhide() -> None:
    """Undo `hide`, which forks inherit.

    Raises:
        OSError: The kernel refused.
    """
    _control("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 1)


def drop_capabilities() -> None:
    """Give up every capability, for good.

    Raises:
        OSError: The kernel refused.
    """
    for capability in range(_NUM_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
            break  # past the last one that this kernel knows, or nothing left to drop
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    _check(_libc.capset(header, ctypes.create_string_buffer(24)), "capset")
    _control("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def filter_calls(program: bytes) -> None:
    """Put this process, and all that it starts, under a seccomp filter, for good.

    Args:
        program: Array of `struct sock_filter`.

    Raises:
        OSError: The kernel refused.
    """
    _control("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)
    given = _FilterProgram(len(program) // 8, program)
    _control("PR_SET_SECCOMP", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(given))


def _control(name: str, option: int, first: int, second: int = 0) -> None:
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    _check(_libc.prctl(option, *arguments), name)


def _check(status: int, what: str) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
