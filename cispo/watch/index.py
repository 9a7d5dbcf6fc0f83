"""All rollouts of a run, by their places in its files; grows as the run writes more."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cispo.errors import RunFolderError
from cispo.watch.file_index import FileIndex, Names, index_file, stamp_of
from cispo.watch.members import read_member

_NAME = re.compile(r"(iteration|heldout)_\d{1,9}\.jsonl\.gz")
_KEPT_MEMBERS = 24


class RolloutIndex:
    """Knows where each rollout lies, and reads those that are asked for.

    One thread refreshes; any may read, and sees each file as a whole or not at all.

    Args:
        folder: The run's `rollouts` folder, which may come to be later.

    Attributes:
        sources: Sources of tasks so far.
        stops: Reasons for which rollouts stopped so far.
        num_waiting: Files that are not indexed yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, FileIndex] = {}
        self._texts: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.sources = Names()
        self.stops = Names()
        self.num_waiting = 0
        self._failed: dict[str, tuple[tuple[int, int], str]] = {}

    @property
    def files(self) -> Sequence[FileIndex]:
        """All files, by iteration."""
        return sorted(self._files.values(), key=lambda file: (file.step, file.kind))

    @property
    def broken(self) -> dict[str, str]:
        """Why files cannot be read, by name."""
        return {name: reason for name, (_, reason) in self._failed.items()}

    def file(self, name: str) -> FileIndex:
        """Return a file by its name.

        Raises:
            KeyError: None of the run's files has it.
        """
        return self._files[name]

    def refresh(self, *, at_most: int) -> bool:
        """Index files that are new or were replaced, the newest first; forget those that are gone.

        Args:
            at_most: Files to read now.

        Returns:
            Whether anything changed.
        """
        found = self._found()
        gone = self._files.keys() - found.keys()
        waiting = [path for name, (path, stamp) in found.items() if stamp != self._stamp(name)]
        chosen = waiting[:at_most]
        kept = {name: file for name, file in self._files.items() if name not in gone}
        for path in chosen:
            self._failed.pop(path.name, None)
            try:
                kept[path.name] = index_file(path, sources=self.sources, stops=self.stops)
            except (OSError, ValueError, LookupError, TypeError, RunFolderError) as error:
                kept.pop(path.name, None)
                reason = f"{type(error).__name__}: {error}"
                self._failed[path.name] = (found[path.name][1], reason)
        self._files = kept
        self.num_waiting = len(waiting) - len(chosen)
        return bool(gone or chosen)

    def line(self, file: FileIndex, row: int) -> bytes:
        """Return a rollout as its file has it.

        Raises:
            IndexError: The file has no such row.
            OSError: The file is gone.
            RunFolderError: It was replaced.
        """
        if not 0 <= row < len(file.rows):
            raise IndexError(row)
        place = file.rows[row]
        text = self.text(file, int(place["member"]))
        return text[place["offset"] : place["offset"] + place["length"]]

    def entry(self, file: FileIndex, row: int) -> dict[str, Any]:
        """Return a rollout as values; see `line`."""
        entry: dict[str, Any] = json.loads(self.line(file, row))
        return entry

    def text(self, file: FileIndex, member: int) -> bytes:
        """Return the text of a file's member; a few are kept."""
        key = (file.path.name, file.stamp, member)
        with self._lock:
            if key in self._texts:
                self._texts.move_to_end(key)
                return self._texts[key]
        text = read_member(file.path, file.members[member])
        with self._lock:
            self._texts[key] = text
            while len(self._texts) > _KEPT_MEMBERS:
                self._texts.popitem(last=False)
        return text

    def _found(self) -> dict[str, tuple[Path, tuple[int, int]]]:
        """The files that are there, the newest first; a link leads out of the run and is none."""
        found = {}
        for path in sorted(self._folder.glob("*_*.jsonl.gz"), key=_number, reverse=True):
            if _NAME.fullmatch(path.name) and not path.is_symlink():
                try:
                    stamp = stamp_of(path)
                except OSError:
                    continue
                found[path.name] = (path, stamp)
        return found

    def _stamp(self, name: str) -> tuple[int, int] | None:
        """Of the file when it was read, or when that failed."""
        if name in self._failed:
            return self._failed[name][0]
        return self._files[name].stamp if name in self._files else None


def _number(path: Path) -> tuple[str, str]:
    kind, _, number = path.name.partition("_")
    return number, kind
