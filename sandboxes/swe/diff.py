"""From what an agent wrote in its workspace to a unified diff, in time linear in its size."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from cispo.data.swe.patch import BadPatchError, FilePatch, Hunk, format_diff, split_lines
from sandboxes.workspace import Change, ChangeKind

_CONTEXT = 3
_IGNORED_FOLDERS = frozenset({".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"})
_EXECUTABLE = 0o100


def diff_of(changes: Iterable[Change], base: Path) -> str:
    """Return what changed as a diff; links, special files and what is no text are left out.

    Args:
        changes: Paths that were written, hostile in every field.
        base: Folder that the workspace began as.
    """
    patches: list[FilePatch] = []
    for change in changes:
        if _IGNORED_FOLDERS.intersection(change.path.split("/")):
            continue
        try:
            change.path.encode()
            patches += _patches(change, base)
        except (BadPatchError, UnicodeError):
            continue
    return format_diff(patches)


def _patches(change: Change, base: Path) -> Iterator[FilePatch]:
    """Yield the changes of files that one written path stands for."""
    if change.kind is ChangeKind.FILE:
        yield from _file_patch(change, base)
    elif change.kind is ChangeKind.REMOVED or change.kind is ChangeKind.REPLACED:
        for path in _files_below(base, change.path):
            yield from _removal(path, base)


def _file_patch(change: Change, base: Path) -> Iterator[FilePatch]:
    before = _text(base, change.path)
    after = change.content.decode()
    if before == after:
        return
    is_new = before is None
    mode = "100755" if is_new and change.mode & _EXECUTABLE else None
    hunk = _hunk(split_lines(before or ""), split_lines(after))
    yield FilePatch(
        old_path=None if is_new else change.path,
        new_path=change.path,
        hunks=(hunk,) if after or before else (),
        mode=mode,
    )


def _removal(path: str, base: Path) -> Iterator[FilePatch]:
    before = _text(base, path)
    if before is not None:
        hunk = Hunk(old=tuple(split_lines(before)), new=(), start=1)
        yield FilePatch(old_path=path, new_path=None, hunks=(hunk,) if before else ())


def _hunk(before: list[str], after: list[str]) -> Hunk:
    """Return one change from the first line that differs to the last, with lines around it."""
    shortest = min(len(before), len(after))
    head = next((i for i in range(shortest) if before[i] != after[i]), shortest)
    shortest -= head
    tail = next((i for i in range(shortest) if before[-1 - i] != after[-1 - i]), shortest)
    head, tail = max(head - _CONTEXT, 0), max(tail - _CONTEXT, 0)
    return Hunk(
        old=tuple(before[head : len(before) - tail]),
        new=tuple(after[head : len(after) - tail]),
        start=head + 1,
    )


def _text(base: Path, path: str) -> str | None:
    """Return a file of the base, which must be none of its links, or None where there is none."""
    place = base / path
    if any((base / folder).is_symlink() for folder in (path, *map(str, Path(path).parents))):
        return None
    return place.read_bytes().decode() if place.is_file() else None


def _files_below(base: Path, path: str) -> list[str]:
    place = base / path
    if place.is_dir() and not place.is_symlink():
        found = sorted(file for file in place.rglob("*") if file.is_file())
        return [str(file.relative_to(base)) for file in found]
    return [path]
