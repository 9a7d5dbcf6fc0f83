"""A folder that appears under its name when it is complete, and not before."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = "unfinished-"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give out an empty folder beside `target`; at the end it takes the name, and that one's place.

    A crash leaves the old folder, or none, under the name; what it leaves beside it goes at the
    next attempt. An exception removes everything that was written.
    """
    target = target.resolve()
    unfinished = target.with_name(_UNFINISHED + target.name)
    replaced = target.with_name(f"{_UNFINISHED}replaced-{target.name}")
    for leftover in (unfinished, replaced):
        if leftover.exists():
            shutil.rmtree(leftover)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    for path in (*unfinished.iterdir(), unfinished):
        force_to_disk(path)
    if target.exists():
        target.rename(replaced)
    unfinished.rename(target)
    force_to_disk(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def force_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
