"""Reads patches from text: unified diffs and search/replace blocks (stdlib only).

Policies write diffs whose line counts are wrong and whose file is implied. What they mean is read
where it can be told and refused where it cannot; the time is linear in the text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cispo.data.swe.patch import BadPatchError, FilePatch, Hunk, split_lines

_HUNK = re.compile(r"@@(?: -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@)?")
_MODE = re.compile(r"(?:new file|deleted file|new) mode (\d{6})$|index \S{1,99} (\d{6})$")
_SEARCH, _DIVIDER, _REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
_LINES_TO_PATH = 3


def parse_diff(text: str, *, default_path: str | None = None) -> tuple[FilePatch, ...]:
    """Read a unified diff, with any text between its files.

    Args:
        text: The diff.
        default_path: File of hunks, or of mere `-` and `+` lines, that name none.

    Raises:
        BadPatchError: It is no diff, names no file, or a file is not to be had that way.
    """
    patches = tuple(_DiffReader(split_lines(text), default_path).files())
    if not patches:
        raise BadPatchError("no diff in it")
    return patches


def parse_blocks(text: str, *, default_path: str | None = None) -> tuple[FilePatch, ...]:
    """Read search/replace blocks, each below the path of its file, with any text between them.

    Args:
        text: The blocks; one with nothing to search for makes a new file.
        default_path: File of blocks without a path.

    Raises:
        BadPatchError: There is none, or one is not complete or names no file.
    """
    patches: dict[str, FilePatch] = {}
    lines = split_lines(text)
    position = 0
    while position < len(lines):
        if lines[position].rstrip() != _SEARCH:
            position += 1
            continue
        divider = _find(lines, _DIVIDER, position + 1)
        end = _find(lines, _REPLACE, divider + 1)
        path = _path_above(lines, position) or default_path
        if path is None:
            raise BadPatchError(f"line {position + 1}: no path of a file above {_SEARCH}")
        hunk = Hunk(old=tuple(lines[position + 1 : divider]), new=tuple(lines[divider + 1 : end]))
        known = patches.get(path)
        patches[path] = (
            replace(known, hunks=(*known.hunks, hunk))
            if known
            else FilePatch(old_path=path if hunk.old else None, new_path=path, hunks=(hunk,))
        )
        position = end + 1
    if not patches:
        raise BadPatchError(f"no {_SEARCH} block in it")
    return tuple(patches.values())


class _DiffReader:
    """Goes through the lines of a diff once."""

    def __init__(self, lines: Sequence[str], default_path: str | None) -> None:
        self._lines = lines
        self._at = 0
        self._default_path = default_path

    def files(self) -> Iterator[FilePatch]:
        """Read all files."""
        has_file = False
        while self._at < len(self._lines):
            if self._line.startswith("diff --git ") or self._is_file_head:
                has_file = True
                yield self._file()
            elif self._line.startswith("@@") or (not has_file and self._line[:1] in ("-", "+")):
                if has_file or self._default_path is None:
                    raise BadPatchError(f"line {self._at + 1}: a hunk without a file")
                path = self._default_path
                yield FilePatch(old_path=path, new_path=path, hunks=tuple(self._hunks()))
                has_file = True
            else:
                self._at += 1

    @property
    def _line(self) -> str:
        return self._lines[self._at]

    @property
    def _is_file_head(self) -> bool:
        after = self._lines[self._at + 1 : self._at + 2]
        return self._line.startswith("--- ") and bool(after) and after[0].startswith("+++ ")

    def _file(self) -> FilePatch:
        old = new = mode = None
        is_binary = False
        if self._line.startswith("diff --git "):
            old, new = _header_paths(self._line)
            self._at += 1
        while self._at < len(self._lines) and not self._line.startswith(("diff --git ", "@@")):
            line = self._line.rstrip("\n")
            if self._is_file_head:
                old, new = _path(line[4:]), _path(self._lines[self._at + 1][4:])
                self._at += 2
                break
            if match := _MODE.match(line):
                mode = match[1] or match[2]
            old = None if line.startswith("new file") else old
            new = None if line.startswith("deleted file") else new
            old = line[12:] if line.startswith("rename from ") else old
            new = line[10:] if line.startswith("rename to ") else new
            is_binary |= line.startswith(("GIT binary patch", "Binary files "))
            self._at += 1
        hunks = tuple(self._hunks())
        return FilePatch(old_path=old, new_path=new, hunks=hunks, mode=mode, is_binary=is_binary)

    def _hunks(self) -> Iterator[Hunk]:
        while self._at < len(self._lines):
            match = _HUNK.match(self._line)
            if match:
                self._at += 1
            elif self._line[:1] not in ("+", "-") or self._is_file_head:
                return
            yield self._hunk(match)

    def _hunk(self, head: re.Match[str] | None) -> Hunk:
        """Read one hunk; the counts in its head decide only what the lines leave open."""
        start, num_old, num_new = _counts(head)
        old: list[str] = []
        new: list[str] = []
        while self._at < len(self._lines):
            is_open = len(old) < num_old or len(new) < num_new
            sign, body = self._line[0], self._line[1:]
            if sign == "\n":
                sign, body = " ", "\n"
            if sign == "\\":
                _drop_line_break(old, new, self._lines[self._at - 1][:1])
                self._at += 1
                continue
            if sign not in " +-" or (self._is_file_head and not self._is_removal(is_open)):
                break
            if sign == " " and not is_open and not body.strip():
                break
            if sign != "+":
                old.append(body if body.endswith("\n") else f"{body}\n")
            if sign != "-":
                new.append(body if body.endswith("\n") else f"{body}\n")
            self._at += 1
        if start is not None and not old:
            start += 1  # an insertion names the line that it follows
        return Hunk(old=tuple(old), new=tuple(new), start=start)

    def _is_removal(self, is_open: bool) -> bool:
        """Whether `--- x` is the removed line `-- x` and not the head of the next file."""
        after = self._lines[self._at + 2 : self._at + 3]
        return is_open and not (after and after[0].startswith("@@"))


def _counts(head: re.Match[str] | None) -> tuple[int | None, int, int]:
    if head is None or head[1] is None:
        return None, 0, 0
    return int(head[1]), int(head[2] or 1), int(head[4] or 1)


def _drop_line_break(old: list[str], new: list[str], sign: str) -> None:
    """Heed `No newline at end of file`, which speaks of the line above it."""
    for lines, other in ((old, "+"), (new, "-")):
        if sign != other and lines:
            lines[-1] = lines[-1].removesuffix("\n")


def _header_paths(line: str) -> tuple[str | None, str | None]:
    words = line.rstrip("\n").removeprefix("diff --git ")
    half = len(words) // 2
    if words[half : half + 1] == " " and words[2:half] == words[half + 3 :]:
        return _path(words[:half]), _path(words[half + 1 :])
    old, _, new = words.partition(" b/")
    return _path(old), _path(new)


def _path(words: str) -> str | None:
    path = words.partition("\t")[0].strip()
    if path in ("/dev/null", ""):
        return None
    return path[2:] if path.startswith(("a/", "b/")) else path


def _find(lines: Sequence[str], mark: str, start: int) -> int:
    for position in range(start, len(lines)):
        if lines[position].rstrip() == mark:
            return position
    raise BadPatchError(f"line {start}: a block without {mark}")


def _path_above(lines: Sequence[str], position: int) -> str | None:
    """Return the path in the nearest line above a block, which may be decorated."""
    for line in reversed(lines[max(position - _LINES_TO_PATH, 0) : position]):
        if line.strip() and not line.startswith(("```", _REPLACE)):
            word = line.strip().strip("#*`: ")
            return word if word and not re.search(r"\s", word) else None
    return None
