"""Patches as data: what they change, how they are written, what undoes them (stdlib only)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

_REGULAR_MODES = ("100644", "100755")
_NOT_IN_PATHS = re.compile(r'[\x00-\x1f\x7f\\"]')


class BadPatchError(ValueError):
    """A text is no patch that can be applied; the message says where it stops making sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunk:
    """Lines that take the place of others; every line keeps its line break.

    Attributes:
        old: Lines that must be there.
        new: Lines that come instead.
        start: Number of the first old line, from 1; None where the lines themselves say it.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    start: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePatch:
    """All changes of one regular file inside a repository.

    Attributes:
        old_path: Path before, None for a new file.
        new_path: Path after, None for a deleted file.
        hunks: Changes in order of position.
        mode: File mode in octal where the patch names one.
        is_binary: Whether the contents are no text.
    """

    old_path: str | None
    new_path: str | None
    hunks: tuple[Hunk, ...] = ()
    mode: str | None = None
    is_binary: bool = False

    def __post_init__(self) -> None:
        for path in filter(None, (self.old_path, self.new_path)):
            parts = PurePosixPath(path).parts
            if not parts or path[0] in "/~" or ".." in parts or _NOT_IN_PATHS.search(path):
                raise BadPatchError(f"path {path!r} does not stay in the repository")
        if self.old_path is None and self.new_path is None:
            raise BadPatchError("a change without the path of its file")
        if self.is_binary:
            raise BadPatchError(f"{self.path}: binary contents cannot be applied")
        if self.mode is not None and self.mode not in _REGULAR_MODES:
            raise BadPatchError(f"{self.path}: mode {self.mode} is not that of a regular file")

    @property
    def path(self) -> str:
        """The path that it changes; that after the change where both differ."""
        return self.new_path or self.old_path or ""


def split_lines(text: str) -> list[str]:
    """Split at line feeds alone, which stay with their lines."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


def format_diff(patches: Sequence[FilePatch]) -> str:
    """Write a unified diff; a hunk without a line number gets the number 1."""
    return "".join(_format_file(patch) for patch in patches)


def reverse(patches: Sequence[FilePatch]) -> tuple[FilePatch, ...]:
    """Return what undoes a patch."""
    undone = []
    for patch in patches:
        shift, hunks = 0, []
        for hunk in patch.hunks:
            start = None if hunk.start is None else hunk.start + shift
            hunks.append(Hunk(old=hunk.new, new=hunk.old, start=start))
            shift += len(hunk.new) - len(hunk.old)
        swapped = replace(patch, old_path=patch.new_path, new_path=patch.old_path)
        undone.append(replace(swapped, hunks=tuple(hunks)))
    return tuple(undone)


def _format_file(patch: FilePatch) -> str:
    old, new = patch.old_path, patch.new_path
    lines = [f"diff --git a/{old or new} b/{new or old}\n"]
    if old is None:
        lines.append(f"new file mode {patch.mode or _REGULAR_MODES[0]}\n")
    if new is None:
        lines.append(f"deleted file mode {patch.mode or _REGULAR_MODES[0]}\n")
    if old and new and old != new:
        lines += [f"rename from {old}\n", f"rename to {new}\n"]
    if patch.hunks:
        lines.append(f"--- a/{old}\n" if old else "--- /dev/null\n")
        lines.append(f"+++ b/{new}\n" if new else "+++ /dev/null\n")
    shift = 0
    for hunk in patch.hunks:
        start = hunk.start or 1
        removed = f"{start - (not hunk.old)},{len(hunk.old)}"
        added = f"{start + shift - (not hunk.new)},{len(hunk.new)}"
        lines.append(f"@@ -{removed} +{added} @@\n")
        lines += _body(hunk)
        shift += len(hunk.new) - len(hunk.old)
    return "".join(lines)


def _body(hunk: Hunk) -> Iterator[str]:
    """Write common lines at both ends as context, and all between them as removed and added."""
    old, new = hunk.old, hunk.new
    shortest = min(len(old), len(new))
    head = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    shortest -= head
    tail = next((i for i in range(shortest) if old[-1 - i] != new[-1 - i]), shortest)
    signed = [(" ", line) for line in old[:head]]
    signed += [("-", line) for line in old[head : len(old) - tail]]
    signed += [("+", line) for line in new[head : len(new) - tail]]
    signed += [(" ", line) for line in old[len(old) - tail :]]
    for sign, line in signed:
        yield f"{sign}{line}"
        if not line.endswith("\n"):
            yield "\n\\ No newline at end of file\n"
