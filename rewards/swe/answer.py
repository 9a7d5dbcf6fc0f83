"""From what a policy wrote to the changes of files that count."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cispo.data.swe.patch import BadPatchError, FilePatch
from cispo.data.swe.read_patch import parse_blocks, parse_diff
from rewards.extract import after_thought
from sandboxes.swe.paths import refusal

_FENCE = re.compile(r"^```(?:diff|patch)[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_MOST_BYTES = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A patch after the filter.

    Attributes:
        patches: Changes that are applied.
        dropped: Why a change does not count, by path: a policy may write tests and configuration,
            but they are not used.
    """

    patches: tuple[FilePatch, ...]
    dropped: Mapping[str, str]


def read_patch(text: str, *, default_path: str | None = None) -> tuple[FilePatch, ...]:
    """Find the patch in a text: a bare diff, search/replace blocks, or diffs in fences.

    Args:
        text: An answer with its thought, or the diff that an agent leaves.
        default_path: File of changes that name none.

    Raises:
        BadPatchError: There is none, or it cannot be read.
    """
    if len(text) > _MOST_BYTES:
        raise BadPatchError(f"{len(text)} characters; at most {_MOST_BYTES} are read")
    if text.startswith("diff --git "):
        return parse_diff(text)
    answer = after_thought(text)
    if "<<<<<<< SEARCH" in answer:
        return parse_blocks(answer, default_path=default_path)
    fenced = _FENCE.findall(f"{answer}\n")
    return parse_diff("".join(fenced) if fenced else answer, default_path=default_path)


def filter_patch(
    patches: Sequence[FilePatch],
    repo: Path,
    *,
    source_roots: Collection[str],
    modules: Collection[str],
) -> Answer:
    """Drop what decides how tests run.

    Args:
        patches: All changes.
        repo: The repository before them.
        source_roots: Folders that Python imports from.
        modules: Top-level modules of the tests' environment.
    """
    kept, dropped = [], {}
    for patch in patches:
        for path in filter(None, (patch.old_path, patch.new_path)):
            is_new = path == patch.new_path and not (repo / path).exists()
            reason = refusal(path, is_new=is_new, source_roots=source_roots, known_modules=modules)
            if reason is not None:
                dropped[patch.path] = reason
        if patch.path not in dropped:
            kept.append(patch)
    return Answer(patches=tuple(kept), dropped=dropped)


def as_json(patch: FilePatch) -> dict[str, Any]:
    """Return a change as the driver in the jail reads it."""
    return {
        "old_path": patch.old_path,
        "new_path": patch.new_path,
        "mode": patch.mode,
        "hunks": [{"old": h.old, "new": h.new, "start": h.start} for h in patch.hunks],
    }
