"""Writes rollouts to compressed files, to be read or graded again."""

import contextlib
import gzip
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cispo.drops import drop_reason
from cispo.tracking.token_record import TokenRecord
from cispo.types import Graded, Group, Lesson, Metrics, Rollout, RolloutKind, Ungraded, Verdict

_NAMES = {RolloutKind.TRAINING: "iteration", RolloutKind.HELD_OUT: "heldout"}
_MEMBER_BYTES = 2**16
"""Text of a part of a file that can be read without the others, unless one group has more."""


class RolloutFiles:
    """Writes `iteration_000001.jsonl.gz` and `heldout_000001.jsonl.gz`, one JSON object a rollout.

    Groups are compressed a few at a time: any gzip reader reads the whole, and the watch page what
    it shows. A file that cannot be written is counted, said once, and survived: nothing is learned
    from it.

    Args:
        folder: Made when missing.
        every: Iterations between files, whatever their kind; 0 writes none.
        keep_through: On a resume, the checkpoint's iteration: later files are removed.
        recorded_tokens: Tokens of a file that are kept one by one; see `TokenRecord`.
        pieces: Texts of token ids; None shows the ids.

    Attributes:
        num_failures: Files that could not be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        keep_through: int | None = None,
        recorded_tokens: int = 0,
        pieces: Callable[[Sequence[int]], Sequence[str]] | None = None,
    ) -> None:
        self._folder = folder
        self._every = every
        self._recorded_tokens = recorded_tokens
        self._pieces = pieces
        self.num_failures = 0
        folder.mkdir(parents=True, exist_ok=True)
        if keep_through is not None:
            for path in folder.glob("*_*.jsonl.gz"):
                if int(path.name.partition("_")[2].partition(".")[0]) > keep_through:
                    path.unlink()

    def log(self, step: int, metrics: Metrics) -> None:
        """Metrics have a file of their own."""

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Write the file of an iteration or evaluation, all of it or nothing."""
        if self._every == 0 or step % self._every:
            return
        tokens = TokenRecord(self._recorded_tokens, self._pieces)
        found = entries(groups, kind=kind, lessons=lessons, tokens=tokens)
        path = self._folder / f"{_NAMES[kind]}_{step:06d}.jsonl.gz"
        unfinished = path.with_suffix(".tmp")
        try:
            unfinished.write_bytes(b"".join(_members(found)))
            os.replace(unfinished, path)
        except OSError as error:
            self._count_failure(path, error)
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def finish(self, summary: Mapping[str, object]) -> None:
        """Nothing is open."""

    def _count_failure(self, path: Path, error: OSError) -> None:
        self.num_failures += 1
        if self.num_failures == 1:
            logging.getLogger(__name__).warning(
                "%s cannot be written (%s); the run goes on, without rollouts on disk while that "
                "lasts",
                path,
                error.strerror or error,
            )


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """Read one file back."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(entry) for entry in lines]


def _members(found: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Compress entries, whole groups together, into pieces that are gzip files by themselves."""
    lines: list[bytes] = []
    size, last_group = 0, None
    for entry in found:
        if size >= _MEMBER_BYTES and entry["group"] != last_group:
            yield _compressed(lines)
            lines, size = [], 0
        lines.append(json.dumps(entry, ensure_ascii=False).encode(errors="replace") + b"\n")
        size += len(lines[-1])
        last_group = entry["group"]
    yield _compressed(lines)


def _compressed(lines: Sequence[bytes]) -> bytes:
    # Without a time stamp equal rollouts make equal files.
    return gzip.compress(b"".join(lines), compresslevel=6, mtime=0)


def entries(
    groups: Sequence[Group],
    *,
    kind: RolloutKind = RolloutKind.TRAINING,
    lessons: Sequence[Lesson] = (),
    tokens: TokenRecord | None = None,
) -> Iterator[dict[str, Any]]:
    """One JSON object a rollout; `task_id`, `verifier`, `response`, `truth` suffice to grade it.

    Args:
        groups: What was sampled.
        kind: What for.
        lessons: What was learned from.
        tokens: Describes single tokens; None leaves them out.
    """
    learned = {id(lesson.sample.rollout): lesson for lesson in lessons}
    for group in groups:
        dropped = drop_reason(group) if kind is RolloutKind.TRAINING else None
        for member, (rollout, verdict) in enumerate(
            zip(group.rollouts, group.verdicts, strict=True)
        ):
            lesson = learned.get(id(rollout))
            yield {
                "kind": kind,
                "group": group.index,
                "member": member,
                "task_id": group.task.task_id,
                "source": group.task.source,
                "verifier": group.task.verifier,
                "messages": [{"role": m.role, "content": m.content} for m in group.task.messages],
                "truth": dict(group.task.truth),
                "response": rollout.text,
                **_verdict(verdict),
                "without_signal": dropped,
                "advantage": lesson.sample.advantage if lesson else None,
                **_trajectory(rollout),
                "tokens": tokens.of(rollout, lesson) if tokens else None,
            }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    match verdict:
        case Graded():
            return {
                "reward": verdict.reward,
                "parts": dict(verdict.parts),
                "ungraded": None,
                "output": verdict.output,
            }
        case Ungraded():
            return {"reward": None, "parts": None, "ungraded": verdict.cause, "output": ""}


def _trajectory(rollout: Rollout) -> dict[str, Any]:
    return {
        "stop_reason": rollout.stop_reason,
        "prompt_tokens": len(rollout.token_ids) - rollout.num_action_tokens,
        "action_tokens": rollout.num_action_tokens,
        "logprob_mean_nats": sum(rollout.behaviour_logprobs) / rollout.num_action_tokens,
        "oldest_version": rollout.oldest_version,
        "newest_version": rollout.newest_version,
        "version_runs": rollout.version_runs,
    }
