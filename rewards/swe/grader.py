"""Grades a patch: what a policy's change of a repository is worth by the hidden tests."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance, digest
from cispo.data.swe.patch import BadPatchError, FilePatch
from cispo.data.swe.read_patch import parse_diff
from cispo.types import Ungraded
from rewards.explained import Explained, shortened
from rewards.swe.answer import as_json, filter_patch, read_patch
from rewards.swe.calibrate import (
    Calibration,
    UnsoundError,
    calibrate,
    candidates,
    disguised_files,
    undisturbed,
)
from rewards.swe.disguise import Disguise, choose_clones
from rewards.swe.jail_run import JailRun, Order, run_in_jail, run_limits
from rewards.swe.once import Once
from rewards.swe.tested import NOTHING, TestedPatch, failure_of, in_disguise, judge_run
from rewards.swe.verdict import TestRun, read_run
from rewards.truth import BadTruthError, truth_field
from sandboxes.base import Outcome
from sandboxes.swe.environment import Environment, Environments, UnbuildableError
from sandboxes.workspaces import Workspaces

_MAX_RECENT = 4096


class LostError(Exception):
    """The sandbox was lost, which is nobody's fault who is graded."""


class SweGrader:
    """Runs hidden tests on patches, a few at a time."""

    def __init__(self, workspaces: Workspaces, settings: SweConfig, *, max_concurrent: int) -> None:
        """Take the sandbox.

        Args:
            workspaces: Where tests run.
            settings: Places and limits.
            max_concurrent: Jails that run at once.
        """
        self._workspaces = workspaces
        self._settings = settings
        self._environments = Environments.at(settings.cache, settings.repositories)
        self._slots = asyncio.Semaphore(max_concurrent)
        self._calibrating: dict[str, asyncio.Lock] = {}
        self._recent: Once[TestedPatch | Ungraded] = Once(
            max_answers=_MAX_RECENT, may_keep=_is_repeatable
        )

    @property
    def cache(self) -> Path:
        """Where environments and calibrations are kept."""
        return self._environments.cache

    async def grade(self, text: str, truth: Mapping[str, Any]) -> Mapping[str, float] | Ungraded:
        """Return the parts alone; see `explain`."""
        found = await self.explain(text, truth)
        return found if isinstance(found, Ungraded) else found.parts

    async def explain(self, text: str, truth: Mapping[str, Any]) -> Explained | Ungraded:
        """Return the parts of a grading, and why a patch is not right.

        `correct` is 1.0 where all tests pass and nobody cheated; `fail_to_pass` and `pass_to_pass`
        are the shares of those that pass, 0.0 where somebody did; `applied`, `tamper` and
        `timed_out` are 0.0 or 1.0. What only the machine can be blamed for is `Ungraded`. Equal
        patches of a group are tested once.

        Args:
            text: An answer with a patch in it, or the diff that an agent leaves.
            truth: `{"instance": {...}}`, see `cispo.data.swe.instance`.
        """
        try:
            instance = Instance.from_json(truth_field(truth, "instance", dict))
        except (BadTruthError, ValueError) as error:
            return Ungraded(cause=f"swe: {error}")
        try:
            patches = read_patch(text, default_path=_only(instance.shown_files))
        except BadPatchError as error:
            return Explained(parts=NOTHING, output=shortened(f"no patch: {error}"))
        key = digest([instance.content_hash, [as_json(patch) for patch in patches]])
        tested = await self._recent.get(key, lambda: self.test(instance, patches))
        if isinstance(tested, Ungraded):
            return tested
        return Explained(parts=tested.parts, output=shortened("\n".join(tested.findings)))

    async def test(
        self, instance: Instance, patches: Sequence[FilePatch], *, skip_empty: bool = True
    ) -> TestedPatch | Ungraded:
        """Run the hidden tests on a patch, of which tests and configuration are dropped.

        Args:
            instance: The task.
            patches: All changes.
            skip_empty: Whether a patch of which nothing is left counts as wrong without a run.
        """
        try:
            environment = await self._environments.get(instance)
            setup = instance.setup
            answer = filter_patch(
                patches,
                environment.repo,
                source_roots=setup.source_roots,
                modules=environment.modules,
            )
            if skip_empty and not answer.patches:
                dropped = tuple(f"{path}: {why}" for path, why in answer.dropped.items())
                return TestedPatch(parts=NOTHING, findings=("nothing is changed", *dropped))
            calibration = await self.calibration(instance, environment)
        except (UnbuildableError, UnsoundError) as error:
            return Ungraded(cause=f"swe: {error}")
        except LostError as error:
            return Ungraded(cause=f"swe: the sandbox was lost {error}")
        return await self._confirmed(instance, environment, calibration, answer.patches)

    async def calibration(
        self, instance: Instance, environment: Environment | None = None
    ) -> Calibration:
        """Return what is known of the tests of an instance, learnt now if need be.

        Raises:
            UnbuildableError: Its environment cannot be made.
            UnsoundError: Its own solution does not do.
            LostError: The sandbox was lost.
        """
        if environment is None:
            environment = await self._environments.get(instance)
        key = instance.content_hash
        name = f"{key}-{self._settings.canary_bits}.json"
        path = self.cache / "calibrations" / name
        async with self._calibrating.setdefault(key, asyncio.Lock()):
            known = Calibration.load(path)
            if known is None:
                known = await self._calibrate(instance, environment)
                known.save(path)
        return known

    async def _calibrate(self, instance: Instance, environment: Environment) -> Calibration:
        rng = Random(instance.content_hash)
        try:
            gold = parse_diff(instance.patch)
        except BadPatchError as error:
            raise UnsoundError(f"its patch cannot be read: {error}") from error
        kept = filter_patch(
            gold,
            environment.repo,
            source_roots=instance.setup.source_roots,
            modules=environment.modules,
        )
        num_bits = self._settings.canary_bits
        clones = candidates(environment, instance, rng, num_bits=num_bits)
        while True:
            files = disguised_files(environment, instance, clones, rng, puts_clones_first=True)
            run, tests = await self._run(instance, environment, kept.patches, files)
            try:
                if (cause := failure_of(run)) is not None:
                    raise UnsoundError(f"with the reference solution, {cause}")
                if tests.contradictions:
                    raise UnsoundError(f"with the reference solution, {tests.contradictions[0]}")
                return calibrate(instance, tests, files, cpu_seconds=run.result.cpu_seconds)
            except UnsoundError:
                if not clones:
                    raise
                fewer = undisturbed(clones, instance, tests, files)
                clones = fewer if len(fewer) < len(clones) else []

    async def _confirmed(
        self,
        instance: Instance,
        environment: Environment,
        calibration: Calibration,
        patches: Sequence[FilePatch],
    ) -> TestedPatch | Ungraded:
        """Test a patch that passes again, in another disguise, until chance is ruled out."""
        tested = await self._test(instance, environment, calibration, patches)
        for _ in range(self._settings.max_runs - 1):
            if isinstance(tested, Ungraded) or not tested.parts["correct"]:
                break
            if tested.bits >= self._settings.canary_bits or not tested.bits:
                break
            again = await self._test(instance, environment, calibration, patches)
            if isinstance(again, Ungraded):
                return again
            tested = replace(
                again,
                bits=tested.bits + again.bits,
                num_runs=tested.num_runs + again.num_runs,
                cpu_seconds=tested.cpu_seconds + again.cpu_seconds,
            )
        return tested

    async def _test(
        self,
        instance: Instance,
        environment: Environment,
        calibration: Calibration,
        patches: Sequence[FilePatch],
    ) -> TestedPatch | Ungraded:
        rng = SystemRandom()  # nobody can go on from the names that it gave
        first = [test.partition("[")[0] for test in calibration.fail_to_pass]
        clones, bits = choose_clones(
            calibration.clones, first=first, num_bits=self._settings.canary_bits, rng=rng
        )
        files = disguised_files(environment, instance, clones, rng)
        try:
            run, tests = await self._run(instance, environment, patches, files, calibration)
        except LostError as error:
            return Ungraded(cause=f"swe: the sandbox was lost {error}")
        return judge_run(run, tests, calibration, files, bits=bits)

    async def _run(
        self,
        instance: Instance,
        environment: Environment,
        patches: Sequence[FilePatch],
        files: Mapping[str, Disguise],
        calibration: Calibration | None = None,
    ) -> tuple[JailRun, TestRun]:
        settings = self._settings
        nonce = secrets.token_hex(16)
        if calibration is None:
            listed = [
                test.partition("[")[0] for test in (*instance.fail_to_pass, *instance.pass_to_pass)
            ]
        else:
            listed = [*calibration.fail_to_pass, *calibration.pass_to_pass]
        clones = [name for file in files.values() for name in file.clones]
        order = Order(
            patches=patches,
            sources={**environment.tests, **{path: file.source for path, file in files.items()}},
            files=list(files),
            selected=sorted({*in_disguise(listed, files), *clones}),  # an order tells nothing
            nonce=nonce,
        )
        async with self._slots:
            run = await run_in_jail(
                self._workspaces,
                environment,
                instance,
                order,
                run_limits(settings),
                scratch=self.cache / "gradings",
                write_bytes=settings.write_bytes,
            )
        if run.result.outcome is Outcome.LOST:
            said = run.result.stderr.decode(errors="replace").strip()
            raise LostError(said.rpartition("\n")[2])
        has_run = run.report is not None and "events" in run.report
        return run, read_run(run.report, nonce) if has_run and run.report else TestRun()


def _is_repeatable(tested: TestedPatch | Ungraded) -> bool:
    """Whether the tests would say the same of the same patch."""
    return isinstance(tested, TestedPatch) and not tested.parts["timed_out"]


def _only(shown: Mapping[str, str]) -> str | None:
    """Return the one file that a prompt shows, which changes without a path are about."""
    return next(iter(shown)) if len(shown) == 1 else None
