"""What the host sees of a program while it holds still: rights, namespaces, descriptors, limits."""

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_NS_GET_PARENT = 0xB702
_DEEPEST = 16
_HARMLESS = re.compile(
    r"pipe:|/memfd:|/dev/(null|zero|full|urandom|random)$|/tmp(/|$)|/dev/shm(/|$)|/dev/pts"
    r"|anon_inode:\[(eventfd|eventpoll|inotify|pidfd|signalfd|timerfd)\]|anon_inode:inotify"
    r"|/$|/usr/|/proc/\d+/|/etc/ld|/run/stdin$"
)
_LIMITS = ("Max cpu time", "Max file size", "Max core file size", "Max open files", "Max locked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A program as the host sees it."""

    rights: dict[str, str]
    namespaces: dict[str, str]
    depth: int
    mounts: tuple[tuple[str, str, str], ...]
    descriptors: tuple[str, ...]
    exotic_sockets: tuple[str, ...]
    limits: dict[str, tuple[str, str]]
    group: tuple[str, ...]
    oom_score: int


def look_at(pid: int) -> Sight:
    """Look at a process that holds still.

    Raises:
        OSError: It is gone.
    """
    root = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (root / "status").read_text().splitlines() if ":" in line
    )
    names = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    rights = {name: status[name].strip() for name in (*names, "NoNewPrivs", "Seccomp")}
    descriptors = {name: os.readlink(name) for name in (root / "fd").iterdir()}
    return Sight(
        rights=rights,
        namespaces={name: os.readlink(root / "ns" / name) for name in _NAMESPACES},
        depth=_depth(root / "ns" / "user"),
        mounts=tuple(_mounts(root)),
        descriptors=tuple(descriptors.values()),
        exotic_sockets=tuple(_exotic_sockets(root, list(descriptors.values()))),
        limits=dict(_limits(root)),
        group=tuple(sorted(line.split(":", 1)[1] for line in _lines(root / "cgroup"))),
        oom_score=int((root / "oom_score_adj").read_text()),
    )


def differences(seen: Sight, harmless: Sight) -> list[str]:
    """Return what a program has that a harmless one has not, in words.

    Args:
        seen: The program.
        harmless: A program that only held, in the same sandbox.
    """
    found = [
        f"{name} is {value}, not {harmless.rights[name]}"
        for name, value in seen.rights.items()
        if value != harmless.rights[name]
    ]
    if set(seen.rights["CapEff"]) != {"0"}:
        found.append(f"it has capabilities: {seen.rights['CapEff']}")
    found += [
        f"it shares the machine's {name} namespace"
        for name, link in seen.namespaces.items()
        if name in _isolated(harmless) and link == os.readlink(f"/proc/self/ns/{name}")
    ]
    if seen.depth != harmless.depth:
        found.append(f"it is {seen.depth} user namespaces deep, not {harmless.depth}")
    if set(seen.mounts) != set(harmless.mounts):
        found.append(f"its mounts differ: {set(seen.mounts) ^ set(harmless.mounts)}")
    found += [
        f"it has {link} open"
        for link in seen.descriptors
        if not _HARMLESS.match(link)
        and not link.startswith("socket:")
        and link not in seen.namespaces.values()
    ]
    found += [f"it has an exotic socket: {name}" for name in seen.exotic_sockets]
    found += [
        f"{name} is {value}, not {harmless.limits[name]}"
        for name, value in seen.limits.items()
        if value != harmless.limits[name]
    ]
    if len(seen.group) != len(harmless.group) or not _same_kind(seen.group, harmless.group):
        found.append(f"its control group is {seen.group}")
    if seen.oom_score < 0:
        found.append(f"the memory killer spares it: {seen.oom_score}")
    return found


def _isolated(harmless: Sight) -> list[str]:
    """Return the namespaces that every program of this sandbox has of its own."""
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES}
    return [name for name, link in harmless.namespaces.items() if link != own[name]]


def _depth(namespace: Path) -> int:
    """Return how many user namespaces lie above, up to the first that is not ours to see."""
    descriptor = os.open(namespace, os.O_RDONLY)
    depth = 0
    while depth < _DEEPEST:
        try:
            parent = fcntl.ioctl(descriptor, _NS_GET_PARENT)
        except OSError:
            break
        os.close(descriptor)
        descriptor = parent
        depth += 1
    os.close(descriptor)
    return depth


def _mounts(root: Path) -> list[tuple[str, str, str]]:
    """Return place, kind and whether writable, of every mount."""
    found = []
    for line in _lines(root / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        found.append((fields[4], after.split(" ")[0], fields[5].split(",")[0]))
    return found


def _exotic_sockets(root: Path, descriptors: list[str]) -> list[str]:
    """Return the open sockets that are neither internet, unix nor route ones."""
    known: set[str] = set()
    for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("unix", 6)):
        for line in _lines(root / "net" / table)[1:]:
            fields = line.split()
            known.add(fields[column])
    for line in _lines(root / "net" / "netlink")[1:]:
        fields = line.split()
        if fields[1] == "0":
            known.add(fields[9])
    inodes = [link[8:-1] for link in descriptors if link.startswith("socket:[")]
    connected = [inode for inode in inodes if inode not in known]
    return [inode for inode in connected if not _is_fresh_inet(root, inode)]


def _is_fresh_inet(root: Path, inode: str) -> bool:
    """Whether a socket is in no table for want of an address, by the name that the kernel gives."""
    for name in (root / "fd").iterdir():
        if os.readlink(name) == f"socket:[{inode}]":
            try:
                protocol = os.getxattr(name, "system.sockprotoname")
            except OSError:
                return False
            return protocol.rstrip(b"\0") in (b"TCP", b"TCPv6", b"UDP", b"UDPv6", b"UNIX-STREAM")
    return True


def _limits(root: Path) -> list[tuple[str, tuple[str, str]]]:
    found = []
    for line in _lines(root / "limits"):
        for name in _LIMITS:
            if line.startswith(name):
                soft, hard = line[len("Max realtime timeout      ") :].split()[:2]
                found.append((name, (soft, hard)))
    return found


def _same_kind(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two sets of control groups differ in numbers alone."""

    def plain(group: tuple[str, ...]) -> list[str]:
        return [re.sub(r"[0-9a-f]{8,}|\d+", "#", path) for path in group]

    return plain(one) == plain(other)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
