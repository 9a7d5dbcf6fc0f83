"""Refuses a run whose nodes do not all see its folders, or would run other code."""

import hashlib
import platform
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cispo.config import PolicyConfig
from cispo.errors import ConfigError
from cispo.ports import Progress
from launch.nodes import Node, on_node

_PACKAGES = ("cispo", "rollout", "rewards", "sandboxes", "launch")
_LIBRARIES = ("torch", "deepspeed", "transformers", "numpy", "safetensors")
_PHASE = "looking around on nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a process on one node finds there.

    Attributes:
        entries: Names in each folder that all should see, by the folder; None where it is not.
        marks: Whether a file that the driver has just written is there, by its path.
        versions: Of the interpreter and of libraries, by name; empty where one is not installed.
        code: Digest of this project's source files.
        home: Folder from which they were imported.
    """

    entries: Mapping[Path, tuple[str, ...] | None]
    marks: Mapping[Path, bool]
    versions: Mapping[str, str]
    code: str
    home: str


def anywhere(policy: PolicyConfig) -> PolicyConfig:
    """The same policy for processes that stand elsewhere: a folder gets its full path."""
    if policy.path is None or not (path := Path(policy.path).expanduser()).exists():
        return policy
    return replace(policy, path=str(path.absolute()))


def look(read: Sequence[Path], marks: Sequence[Path]) -> Sight:
    """Look around on the node where this is called."""
    home = Path(str(import_module("launch").__file__)).parents[1]
    return Sight(
        entries={folder: _entries(folder) for folder in read},
        marks={mark: mark.is_file() for mark in marks},
        versions={
            "Python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
        },
        code=_digest(home),
        home=str(home),
    )


def check_nodes(
    nodes: Sequence[Node],
    *,
    written: Mapping[str, Path],
    read: Mapping[str, Path],
    seconds: float,
    progress: Progress,
) -> None:
    """Look around on every node, and compare with what the driver sees.

    Args:
        nodes: All nodes of the cluster.
        written: Folders into which the driver or actors write and from which others read, by their
            key in the configuration.
        read: Folders from which all read, likewise.
        seconds: Wall time that the nodes have to answer.
        progress: Told which have not answered yet.

    Raises:
        ConfigError: A node sees another folder or none, has other code or other versions of
            libraries, or cannot import the project; the message names the node.
    """
    marks = {key: folder / f".seen-{uuid.uuid4().hex}" for key, folder in written.items()}
    for mark in marks.values():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        own = look([*read.values()], [*marks.values()])
        calls = _ask(nodes, [*read.values()], [*marks.values()])
        _wait(calls, nodes, seconds, progress)
        looked = [(node, _answer(call)) for node, call in zip(nodes, calls, strict=True)]
        is_edited = _digest(Path(own.home)) != own.code  # meanwhile, so that nothing can be said
        faults = [
            fault
            for node, sight in looked
            if (fault := _fault(node, sight, own, marks=marks, read=read, is_edited=is_edited))
        ]
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)
    if faults:
        raise ConfigError("; ".join(faults))


def _ask(nodes: Sequence[Node], read: Sequence[Path], marks: Sequence[Path]) -> list[Any]:
    """Have each node looked at; returns Ray's calls in the order of the nodes."""
    return [on_node(look, node.node_id).remote(read, marks) for node in nodes]


def _wait(calls: Sequence[Any], nodes: Sequence[Node], seconds: float, progress: Progress) -> None:
    """Wait until all have answered, or the time is over."""
    import ray

    host_of = {call: node.host for call, node in zip(calls, nodes, strict=True)}
    deadline = time.monotonic() + seconds
    progress.start(_PHASE, len(calls))
    pending = list(calls)
    while pending and time.monotonic() < deadline:
        progress.waiting(_PHASE, ", ".join(host_of[call] for call in pending))
        answered, pending = ray.wait(pending, num_returns=len(pending), timeout=1.0)
        progress.advance(_PHASE, len(answered))
    progress.finish(_PHASE)


def _answer(call: Any) -> Sight | str:
    """What a node sees, or why it did not say."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        sight: Sight = ray.get(call, timeout=0)
    except GetTimeoutError:
        return "no answer in cluster.startup_seconds"
    except RayError as error:
        return str(error).strip().splitlines()[-1]
    return sight


def _fault(
    node: Node,
    sight: Sight | str,
    own: Sight,
    *,
    marks: Mapping[str, Path],
    read: Mapping[str, Path],
    is_edited: bool = False,
) -> str:
    """What is wrong on a node, in a sentence; empty where nothing is."""
    if isinstance(sight, str):
        return (
            f"{node} cannot run this project ({sight}); install it there, or share the folder "
            f"{own.home}"
        )
    for key, mark in marks.items():
        if not sight.marks[mark]:
            return (
                f"{key}={mark.parent}: {node} does not see what {socket.gethostname()} writes "
                "there; put it on a file system that all nodes share"
            )
    for key, folder in read.items():
        if sight.entries[folder] != own.entries[folder]:
            seen = "no such folder" if sight.entries[folder] is None else "other files"
            return f"{key}={folder}: {node} sees {seen} there; share it, or copy it to all nodes"
    for name, here in own.versions.items():
        if sight.versions[name] != here:
            there = sight.versions[name] or "none"
            return f"{node} has {name} {there}, {socket.gethostname()} has {here}"
    if sight.code != own.code and not is_edited:
        return f"{node} has other code in {sight.home} than {socket.gethostname()} in {own.home}"
    return ""


def _entries(folder: Path) -> tuple[str, ...] | None:
    try:
        return tuple(sorted(entry.name for entry in folder.iterdir()))
    except OSError:
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _digest(home: Path) -> str:
    """Digest of names and contents of all source files of the project."""
    hasher = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((home / package).rglob("*.py")):
            hasher.update(f"{file.relative_to(home)}\0".encode())
            hasher.update(file.read_bytes())
    return hasher.hexdigest()
