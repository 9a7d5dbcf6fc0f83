"""`run.json`: a checkpoint's state, and the size and checksum of all its files (stdlib only)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from cispo.checkpoint.digests import digests, force_to_disk
from cispo.checkpoint.state import RunState
from cispo.errors import CheckpointError

STATE_FILE = "run.json"
_FORMAT = 2
_MOST_NAMED = 3


def seal(folder: Path, state: RunState) -> None:
    """Add the manifest to a folder that has all other files, and force all of it to disk.

    Raises:
        OSError: It cannot be written, for example because the disk is full.
    """
    files = _files(folder)
    force_to_disk(files)
    content = {
        "format": _FORMAT,
        "state": asdict(state),
        "files": {
            str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": digest}
            for file, digest in zip(files, digests(files), strict=True)
        },
    }
    content["sha256"] = _checksum(content)
    path = folder / STATE_FILE
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    folders = [entry for entry in folder.rglob("*") if entry.is_dir()]
    force_to_disk([path, *folders, folder])


def load_state(checkpoint: Path) -> RunState:
    """Read a checkpoint's state after comparing every file's size and checksum.

    The learner's part is for `Learner.restore`, groups in flight for `load_groups`.

    Raises:
        CheckpointError: It is incomplete, damaged, or of another format.
    """
    content = _read(checkpoint / STATE_FILE)
    if broken := _broken(checkpoint, content["files"]):
        named = "; ".join(broken[:_MOST_NAMED])
        more = f"; and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
        raise CheckpointError(f"{checkpoint} is broken: {named}{more}")
    known = {field.name for field in fields(RunState)}
    return RunState(**{name: value for name, value in content["state"].items() if name in known})


def checkpoint_bytes(checkpoint: Path) -> int:
    """What a checkpoint takes on disk, its manifest left out.

    Raises:
        CheckpointError: It has no readable manifest.
    """
    return sum(entry["bytes"] for entry in _read(checkpoint / STATE_FILE)["files"].values())


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / STATE_FILE)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is broken: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.parent} is broken: {path.name} cannot be read: {error}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of the framework")
    if content.pop("sha256", None) != _checksum(content):
        raise CheckpointError(f"{path.parent} is broken: {path.name} has another checksum")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _broken(checkpoint: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with each broken file; only those of the right size are read."""
    broken: list[str] = []
    whole: list[str] = []
    for name, entry in files.items():
        file = checkpoint / name
        found = file.stat().st_size if file.is_file() else None
        if found is None:
            broken.append(f"{name} is missing")
        elif found != entry["bytes"]:
            broken.append(f"{name} has {found} bytes instead of {entry['bytes']}")
        else:
            whole.append(name)
    for name, digest in zip(whole, _digests(checkpoint, whole), strict=True):
        if digest != files[name]["sha256"]:
            broken.append(f"{name} has another checksum")
    return broken


def _digests(checkpoint: Path, names: list[str]) -> list[str]:
    try:
        return digests([checkpoint / name for name in names])
    except OSError as error:
        raise CheckpointError(f"{checkpoint} is broken: {error}") from error
