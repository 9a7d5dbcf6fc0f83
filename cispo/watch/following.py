"""Follows files of JSON lines that grow, and notices where a resume has shortened them (stdlib)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MOST_BYTES = 2**26
"""Read at once; the rest follows with the next call."""


class Following:
    """Hands on each whole line of a file once.

    Args:
        path: The file, which may come to be later.
        begin: Called before the first line, and again where the file was replaced.
        line: Called with each line's values, where it begins, and how many bytes it has.
    """

    def __init__(
        self,
        path: Path,
        *,
        begin: Callable[[], None],
        line: Callable[[dict[str, Any], int, int], None],
    ) -> None:
        self.path = path
        self._begin = begin
        self._line = line
        self._position = 0
        self._inode: int | None = None

    def advance(self) -> bool:
        """Hand on what is new; returns whether anything is.

        A line that is not whole yet waits; one that is no JSON is passed over.
        """
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._position:
                    self._inode, self._position = stat.st_ino, 0
                    self._begin()
                file.seek(self._position)
                return self._hand_on(file.read(_MOST_BYTES))
        except FileNotFoundError:
            return False

    def _hand_on(self, data: bytes) -> bool:
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            try:
                values = json.loads(line)
            except ValueError:
                values = None
            if isinstance(values, dict):
                self._line(values, self._position, len(line))
            self._position += len(line)
        return bool(whole)
