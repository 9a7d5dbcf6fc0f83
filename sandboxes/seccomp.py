"""Seccomp filters as classic BPF programs: which system calls untrusted code may not make.

A filter is a list of (code, jump-if-true, jump-if-false, operand) over `struct seccomp_data`: the
call's number at offset 0, the processor at 4, the low half of argument i at 16 + 8 i.
"""

import errno
import platform
import struct
from collections.abc import Iterable, Sequence

from cispo.errors import SandboxUnavailableError
from sandboxes.syscalls import PROCESSORS, Processor

Instruction = tuple[int, int, int, int]

_LOAD, _EQUALS, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH = 0, 4
_X32_BIT = 0x40000000
_NEW_NAMESPACE = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_CLONE_PARENT = 0x8000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_UNIX, _INET, _INET6, _NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_WRITES = 0o3 | 0o100 | 0o1000  # O_WRONLY | O_RDWR, O_CREAT, O_TRUNC

_KERNEL_SURFACE = (
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "unshare", "setns", "ptrace"),
    *("process_vm_readv", "process_vm_writev", "pidfd_getfd", "process_madvise", "kcmp", "bpf"),
    *("perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("add_key", "request_key", "keyctl", "kexec_load", "kexec_file_load", "create_module"),
    *("init_module", "finit_module", "delete_module", "get_kernel_syms", "query_module"),
    *("name_to_handle_at", "open_by_handle_at", "fanotify_init", "fanotify_mark", "acct", "uselib"),
    *("clock_settime", "clock_adjtime", "settimeofday", "adjtimex", "syslog", "modify_ldt"),
    *("mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node", "migrate_pages"),
    *("move_pages", "swapon", "swapoff", "reboot", "sethostname", "setdomainname", "quotactl"),
    *("quotactl_fd", "nfsservctl", "lookup_dcookie", "vhangup", "iopl", "ioperm", "ustat", "sysfs"),
    *("_sysctl", "memfd_secret"),
)
_EFFECTS = (
    *("execve", "execveat", "fork", "vfork", "clone", "clone3", "kill", "tkill", "socket"),
    *("socketpair", "connect", "bind", "listen", "sendto", "sendmsg", "creat", "openat2"),
    *("truncate", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "link", "linkat"),
    *("unlink", "unlinkat", "symlink", "symlinkat", "chmod", "fchmodat", "fchmodat2", "chown"),
    *("lchown", "fchownat", "mknod", "mknodat", "setxattr", "lsetxattr", "fsetxattr"),
    *("setxattrat", "pidfd_send_signal", "shmget", "semget", "msgget", "mq_open"),
)


def jail_filter() -> bytes:
    """Return the filter for a program inside a jail, as an array of `struct sock_filter`.

    It refuses what namespaces do not contain: AF_VSOCK and other exotic sockets, further
    namespaces, mounts, debugging, io_uring, bpf, keyrings, file handles, clocks, pushing input into
    a terminal, and children that a process leaves to its parent: the parent may be ours, and its
    namespace cannot end before such a child is buried.

    Raises:
        SandboxUnavailableError: The processor's system call numbers are not known.
    """
    cpu = _processor()
    return _assemble(
        [
            *_prologue(cpu),
            *_refuse(cpu, _KERNEL_SURFACE, errno.EPERM),
            *_refuse(cpu, ("clone3",), errno.ENOSYS),
            *_refuse_bits(cpu, "clone", argument=0, bits=_NEW_NAMESPACE | _CLONE_PARENT),
            *_refuse_values(cpu, "ioctl", argument=1, values=(_TIOCSTI, _TIOCLINUX)),
            *_sockets(cpu, "socketpair", (_UNIX,)),
            *_sockets(cpu, "socket", (_UNIX, _INET, _INET6)),
            (_RETURN, 0, 0, _ALLOW),
        ]
    )


def compute_only_filter() -> bytes:
    """Return the filter for a process that only computes, reads files and answers on open pipes.

    Raises:
        SandboxUnavailableError: The processor's system call numbers are not known.
    """
    cpu = _processor()
    return _assemble(
        [
            *_prologue(cpu),
            *_refuse(cpu, _KERNEL_SURFACE, errno.EPERM),
            *_refuse(cpu, _EFFECTS, errno.EPERM),
            *_refuse_bits(cpu, "open", argument=1, bits=_WRITES),
            *_refuse_bits(cpu, "openat", argument=2, bits=_WRITES),
            (_RETURN, 0, 0, _ALLOW),
        ]
    )


def _processor() -> Processor:
    machine = platform.machine()
    if machine not in PROCESSORS:
        raise SandboxUnavailableError(
            f"sandbox layer seccomp: no system call table for processor {machine!r}; "
            f"use one of {', '.join(PROCESSORS)}"
        )
    return PROCESSORS[machine]


def _prologue(cpu: Processor) -> list[Instruction]:
    """Kill foreign instruction sets, refuse the hidden second table."""
    instructions = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUALS, 1, 0, cpu.audit_arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if cpu.has_x32:
        instructions += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    return instructions


def _refuse(cpu: Processor, names: Iterable[str], code: int) -> list[Instruction]:
    instructions = []
    for name in names:
        if name in cpu.numbers:
            instructions += [(_EQUALS, 0, 1, cpu.numbers[name]), (_RETURN, 0, 0, _ERRNO | code)]
    return instructions


def _when(cpu: Processor, name: str, body: Sequence[Instruction]) -> list[Instruction]:
    """Run `body` for one call; it may fall through, after which the number is loaded again."""
    if name not in cpu.numbers:
        return []
    skip = len(body) + 1
    return [(_EQUALS, 0, skip, cpu.numbers[name]), *body, (_LOAD, 0, 0, _NUMBER)]


def _load_argument(index: int) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index)


def _refuse_bits(cpu: Processor, name: str, *, argument: int, bits: int) -> list[Instruction]:
    refuse = [(_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return _when(cpu, name, [_load_argument(argument), *refuse])


def _refuse_values(
    cpu: Processor, name: str, *, argument: int, values: Iterable[int]
) -> list[Instruction]:
    body = [_load_argument(argument)]
    for value in values:
        body += [(_EQUALS, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return _when(cpu, name, body)


def _sockets(cpu: Processor, name: str, domains: Iterable[int]) -> list[Instruction]:
    body = [_load_argument(0)]
    for domain in domains:
        body += [(_EQUALS, 0, 1, domain), (_RETURN, 0, 0, _ALLOW)]
    if name == "socket":  # name look-ups ask the kernel for its (empty) list of interfaces
        body += [
            (_EQUALS, 0, 3, _NETLINK),
            _load_argument(2),
            (_EQUALS, 0, 1, _NETLINK_ROUTE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    body.append((_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT))
    return _when(cpu, name, body)


def _assemble(instructions: Sequence[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
