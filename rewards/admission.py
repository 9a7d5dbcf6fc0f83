"""Admits tasks to training: nothing earns nothing, the reference solution earns everything.

Each is tried several times, and what comes of it is kept by the hash of the task's content, so that
a set is examined once. A task that cannot be examined because the machine failed has no verdict.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cispo.data.swe.instance import Instance, digest
from cispo.data.swe.patch import BadPatchError, FilePatch
from cispo.data.swe.read_patch import parse_diff
from cispo.types import Task, Ungraded
from rewards.code import CodeGrader
from rewards.extract import program
from rewards.swe.calibrate import UnsoundError
from rewards.swe.grader import LostError, SweGrader
from rewards.swe.tested import TestedPatch
from sandboxes.swe.environment import UnbuildableError

NEEDS_ADMISSION = frozenset({"code", "swe"})
"""Verifiers whose tasks are programs and tests, which are wrong more often than they look."""

_FORMAT = 2
_NOTHING = "pass\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the examination of a task came to.

    Attributes:
        is_admitted: Whether training may use it.
        reason: Why not: `unbuildable`, `unsound` or `flaky`, a colon, and what was seen.
        num_runs: How often each answer was tried.
    """

    is_admitted: bool
    reason: str = ""
    num_runs: int = 0


class Admissions:
    """Verdicts that are kept in a folder."""

    def __init__(self, cache: Path) -> None:
        """Take the cache of environments, beside which they lie."""
        self._folder = cache / "admissions"

    def find(self, task: Task) -> Admission | None:
        """Return the verdict on a task, or None where it was not examined."""
        path = self._folder / f"{admission_key(task)}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if document.pop("format") != _FORMAT:
            return None
        return Admission(**document)

    def keep(self, task: Task, admission: Admission) -> None:
        """Keep a verdict, all of it or nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{admission_key(task)}.json"
        scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        document = {"format": _FORMAT, **asdict(admission)}
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.rename(path)


class Examiner:
    """Examines tasks of programs."""

    def __init__(
        self,
        code: CodeGrader | None,
        swe: SweGrader | None,
        admissions: Admissions,
        *,
        num_runs: int,
        min_canary_bits: int,
    ) -> None:
        """Take the graders that training will use.

        Args:
            code: Grades programs; None where there are no such tasks.
            swe: Grades patches; None where there are no such tasks.
            admissions: Where verdicts are kept.
            num_runs: How often each answer is tried.
            min_canary_bits: Instances whose tests allow fewer are unsound: results could be forged
                by chance.
        """
        self._code = code
        self._swe = swe
        self._admissions = admissions
        self._num_runs = num_runs
        self._min_canary_bits = min_canary_bits

    async def examine(self, task: Task, *, anew: bool = False) -> Admission:
        """Return the verdict on a task, that of an earlier examination where it has one.

        Raises:
            LostError: The machine failed; the task has no verdict.
        """
        known = None if anew else self._admissions.find(task)
        if known is not None and known.num_runs >= self._num_runs:
            return known
        if task.verifier == "swe":
            admission = await self._examine_instance(task)
        else:
            admission = await self._examine_program(task)
        self._admissions.keep(task, admission)
        return admission

    async def _examine_instance(self, task: Task) -> Admission:
        assert self._swe is not None
        try:
            instance = Instance.from_json(task.truth["instance"])  # type: ignore[arg-type]
            gold = parse_diff(instance.patch)
            await self._swe.calibration(instance)
        except UnbuildableError as error:
            return self._refused(f"unbuildable: {error}")
        except (UnsoundError, BadPatchError, KeyError, TypeError, ValueError) as error:
            return self._refused(f"unsound: {error}")
        swe = self._swe

        async def try_often(patches: Sequence[FilePatch]) -> list[TestedPatch]:
            tried: list[TestedPatch] = []
            while sum(tested.num_runs for tested in tried) < self._num_runs:
                tested = await swe.test(instance, patches, skip_empty=False)
                if isinstance(tested, Ungraded):
                    raise LostError(tested.cause)
                tried.append(tested)
            return tried

        empty, solved = await try_often(()), await try_often(gold)
        if min(tested.bits for tested in solved) < self._min_canary_bits:
            return self._refused(
                f"unsound: its tests allow {solved[0].bits} bits of clones that must fail, "
                f"fewer than min_canary_bits={self._min_canary_bits}"
            )
        return self._judged(
            [tested.parts["correct"] for tested in empty],
            [tested.parts["correct"] for tested in solved],
            why=next((t.findings[0] for t in solved if t.findings), ""),
        )

    async def _examine_program(self, task: Task) -> Admission:
        assert self._code is not None
        if task.solution is None:
            return self._refused("unsound: the task has no solution to try")
        code = self._code

        async def try_one(source: str) -> float:
            graded = await code.grade(source, task.truth)
            if isinstance(graded, Ungraded):
                raise LostError(graded.cause)
            return graded["correct"]

        empty = [await try_one(_NOTHING) for _ in range(self._num_runs)]
        solved = [await try_one(program(task.solution)) for _ in range(self._num_runs)]
        return self._judged(empty, solved, why="its output differs")

    def _judged(self, empty: Sequence[float], solved: Sequence[float], *, why: str) -> Admission:
        if any(empty):
            return self._refused("unsound: an answer that does nothing is right")
        if not any(solved):
            return self._refused(f"unsound: its own solution is wrong: {why}")
        if not all(solved):
            times = f"{sum(map(bool, solved))} of {len(solved)} times"
            return self._refused(f"flaky: its own solution is right {times}: {why}")
        return Admission(is_admitted=True, num_runs=self._num_runs)

    def _refused(self, reason: str) -> Admission:
        return Admission(is_admitted=False, reason=reason, num_runs=self._num_runs)


async def examine_all(
    examiner: Examiner,
    tasks: Sequence[Task],
    *,
    max_concurrent: int,
    anew: bool,
    advance: Callable[[], None],
) -> Mapping[str, Admission | LostError]:
    """Examine tasks, a few at a time; return verdicts, or why there is none, by id of the task."""
    slots = asyncio.Semaphore(max_concurrent)

    async def one(task: Task) -> Admission | LostError:
        async with slots:
            try:
                return await examiner.examine(task, anew=anew)
            except LostError as error:
                return error
            finally:
                advance()

    verdicts = await asyncio.gather(*(one(task) for task in tasks))
    return {task.task_id: verdict for task, verdict in zip(tasks, verdicts, strict=True)}


def admission_key(task: Task) -> str:
    """Hash all that decides a verdict on a task: equal for equal tasks, whatever their names."""
    if task.verifier == "swe":
        document: Any = task.truth.get("instance")
        try:
            return Instance.from_json(document).content_hash
        except (AttributeError, TypeError, ValueError):
            return digest(["swe", document])
    return digest([task.verifier, dict(task.truth), task.solution])
