"""The commands that documentation shows, in blocks and sentences, and what marks them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELLS = ("bash", "sh", "console")
PROGRAMS = frozenset(
    {
        *("python", "make", "git", "pip", "uv", "wandb", "lm_eval", "curl", "ssh", "sudo"),
        *("cd", "mkdir", "cp", "ls", "cat", "ln", "tail", "zcat", "export", "source", "ulimit"),
        *("ray", "sbatch", "srun", "scancel", "squeue", "kubectl", "helm", "docker", "podman"),
    }
)
"""What the first word of a line must be for it to be a command, in blocks of no language."""

_FENCE = re.compile(r"^\s*(?:```|~~~)\s*(\w*)")
_INDENTED = re.compile(r"^ {4,}\S")
_INLINE = re.compile(r"`((?:\w+=\S+ )?python -m [^`]+=[^`]*)`")
_SHOWN = re.compile(r"^`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.+?) -->")
_ASSIGNED = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of a page.

    Attributes:
        page: File in which it stands.
        line: Its number there, from 1.
        words: As a shell would split it, without variables before it, comments and what follows a
            pipe.
        reason: Why nothing of it is run, from `<!-- not run: REASON -->` above its block; or empty.
    """

    page: Path
    line: int
    words: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {' '.join(self.words)}"


def shown_files(page: Path) -> dict[str, str]:
    """Return the files that a page tells its reader to write: a block below `NAME`: alone."""
    return dict(_SHOWN.findall(page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[Command]:
    """Yield all commands of a page.

    A block of a shell's language holds nothing else but commands and comments; one without a
    language, or one that is indented, may hold output as well.
    """
    reason = ""
    pending, begun = "", 0
    for number, line, language in _lines(page.read_text(encoding="utf-8")):
        if language is None:
            if mark := _MARK.search(line):
                reason = mark[1]
            elif line.strip() and not _FENCE.match(line):
                reason = ""
            for inline in _INLINE.findall(line):
                yield from _split(page, number, inline, reason="", is_shell=False)
            continue
        begun = begun if pending else number
        pending += line if pending.endswith("\n") else line.strip().removeprefix("$ ")
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        if language in SHELLS and _is_open(pending):
            pending += "\n"
            continue
        yield from _split(page, begun, pending, reason=reason, is_shell=language in SHELLS)
        pending = ""


def _lines(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield number, line, and the language of its block: empty for none, None outside of any."""
    fenced: str | None = None
    may_indent = True
    for number, line in enumerate(text.splitlines(), start=1):
        if fence := _FENCE.match(line):
            fenced = fence[1] if fenced is None else None
            yield number, line, None
        elif fenced is not None:
            yield number, line, fenced
        elif may_indent and _INDENTED.match(line):
            yield number, line, ""
            continue
        else:
            yield number, line, None
        may_indent = not line.strip()


def _is_open(line: str) -> bool:
    """Whether a quotation goes on in the next line."""
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return True
    return False


def _split(page: Path, number: int, line: str, *, reason: str, is_shell: bool) -> Iterator[Command]:
    first = line.split(" ", 1)[0]
    program = first.rpartition("/")[2]
    is_command = program in PROGRAMS or program.startswith("cispo-") or _ASSIGNED.match(first)
    if not is_shell and not is_command:
        return
    for words in _parts(line):
        while words and _ASSIGNED.fullmatch(words[0]):
            words = words[1:]
        if words:
            name = words[0].rpartition("/")[2]
            assert name in PROGRAMS or name.startswith("cispo-"), f"{page.name}:{number}: {line}"
            yield Command(page=page, line=number, words=(name, *words[1:]), reason=reason)


def _parts(line: str) -> Iterator[tuple[str, ...]]:
    """Yield what stands between `&&`, without what follows a pipe, a redirection or `&`."""
    words: list[str] = []
    is_dropped = False
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word in ("&&", ";"):
            yield tuple(words)
            words, is_dropped = [], False
        elif word in ("|", ">", ">>", "<", "&", "2>&1"):
            is_dropped = True
        elif not is_dropped:
            words.append(word)
