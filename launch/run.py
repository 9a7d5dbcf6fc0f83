"""One training run from its configuration to its report."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cispo.checkpoint import Checkpoints, complete_checkpoints
from cispo.config import RunConfig
from cispo.errors import CispoError, LearnerError, LearnerLostError
from cispo.spans import SpannedProgress
from cispo.stacks import VARIABLE, Dump, Stacks
from cispo.tracking.console import RunConsole, open_console, warnings_to
from cispo.tracking.log_file import LogFile
from cispo.tracking.pieces import pieces_of
from cispo.train import train
from cispo.watchdog import Watchdog
from launch.build import build_parts
from launch.cluster import ask_elsewhere, ray_cluster
from launch.converting import convert_for
from launch.interrupts import Interrupted, Interrupts
from launch.joining import check_cluster
from launch.preflight import CheckedTasks, make_run_dir
from launch.processes import end_now
from launch.recipe import make_recipe
from launch.restarts import Restarts
from launch.resume import Resume
from launch.signals import signals_to
from launch.trackers import RunTrackers

_FAILED = 2
_STARTING = "start Ray"


def run_training(cfg: RunConfig, composed: str, tasks: CheckedTasks, resume: Resume) -> None:
    """Train, and leave a summary and a report in the run's folder.

    Args:
        cfg: The whole configuration, checked.
        composed: The same as YAML, kept in the run's folder.
        tasks: What the checks read.
        resume: Where the run begins.

    Raises:
        CispoError: The run failed; what was logged until then is reported.
        SystemExit: A signal ended it; the code is 128 and the signal's number.
    """
    folder = make_run_dir(cfg.run_dir, composed, keep=resume.continues(cfg.run_dir))
    config = asdict(cfg)
    stacks = Stacks(folder, elsewhere=ask_elsewhere)
    with (
        open_console(name=cfg.name, iterations=cfg.iterations) as console,
        warnings_to(say := LogFile(folder / "log.txt", console.print)),
        closing(stacks),
    ):
        for notice in resume.notices(cfg.learner):
            say(notice)
        interrupts = Interrupts(say)
        trackers = RunTrackers(
            cfg.tracking,
            folder,
            resume,
            name=cfg.name,
            config=config,
            console=console,
            pieces=pieces_of(cfg.policy.path),
        )
        run = _Run(cfg, config, tasks, folder, console, say, trackers, interrupts, stacks)
        console.progress.start(_STARTING, 1)
        with (
            signals_to(interrupts.on_signal),
            run.watched(),
            _reported(trackers, say),
            ray_cluster(
                cfg.cluster,
                required_cpus=required_cpus(cfg),
                environment={VARIABLE: str(stacks.offers)},
            ),
        ):
            console.progress.finish(_STARTING)
            check_cluster(cfg, folder, resume, console.progress)
            num_done = run.train(resume)
    if interrupts.signal is not None and num_done < cfg.iterations:
        say.keep(stopped := f"stopped by {interrupts.signal.name}; {run.way_on()}")
        print(stopped, flush=True)
        raise SystemExit(128 + interrupts.signal)


@dataclass(frozen=True, slots=True)
class _Run:
    """What all attempts of a run share."""

    cfg: RunConfig
    config: Mapping[str, Any]
    tasks: CheckedTasks
    folder: Path
    console: RunConsole
    say: LogFile
    trackers: RunTrackers
    interrupts: Interrupts
    stacks: Stacks

    def train(self, resume: Resume) -> int:
        """Train, again from the last checkpoint where the learner is lost; returns iterations done.

        Raises:
            CispoError: The run failed, or its learner was lost too often.
        """
        restarts = Restarts(
            self.folder / "checkpoints",
            resume,
            self.config,
            max_restarts=self.cfg.max_restarts,
            say=self.say,
        )
        while True:
            try:
                return asyncio.run(self._attempt(resume))
            except Interrupted:
                return resume.iteration
            except LearnerError as error:
                # One that never started is rather configured wrongly than lost.
                if not isinstance(error, LearnerLostError) and not restarts.num_restarts:
                    raise
                resume = restarts.after(error, iteration=self.trackers.last_step + 1)
                self.trackers.restart(resume)

    async def _attempt(self, resume: Resume) -> int:
        recipe = make_recipe(self.cfg, self.tasks.training, announce=self.say)
        recipe.schedules.restore(resume.schedules)
        checkpoints = Checkpoints(
            self.folder / "checkpoints",
            keep=self.cfg.keep_checkpoints,
            config=self.config,
            tracker_run_id=self.trackers.wandb_run_id,
            schedules=recipe.schedules.state,
            warn=self.say,
            spans=self.trackers.spans,
        )
        try:
            with self.interrupts.covering() as stop:
                await convert_for(self.cfg.learner, resume, self.console.progress)
                async with build_parts(
                    self.cfg,
                    self.tasks,
                    resume,
                    recipe=recipe,
                    checkpoints=checkpoints,
                    tracker=self.trackers,
                    progress=SpannedProgress(self.console.progress, self.trackers.spans),
                    spans=self.trackers.spans,
                    stop=stop,
                    dump=self.dump,
                ) as parts:
                    return await train(
                        parts,
                        iterations=self.cfg.iterations,
                        updates_per_iteration=self.cfg.updates_per_iteration,
                        evaluate_every=self.cfg.evaluation.every,
                        checkpoint_every=self.cfg.checkpoint_every,
                        first_iteration=resume.iteration,
                        resume_from=resume.checkpoint,
                    )
        except BaseExceptionGroup as group:
            raise _explanation(group) from group

    def dump(self) -> Dump:
        """Write the stacks of all processes to the run's folder."""
        return self.stacks.dump(loop=self.interrupts.loop)

    def watched(self) -> Watchdog:
        """End the run where nothing happens any more, for as long as the block runs."""
        settings = self.cfg.watchdog
        return Watchdog(
            self.console.progress,
            dump_seconds=settings.dump_seconds,
            end_seconds=settings.end_seconds,
            grace_seconds=settings.grace_seconds,
            dump=self.dump,
            advice=self.way_on,
            end=self.interrupts.end,
            end_hard=self._end_hard,
            warn=self.say,
        )

    def _end_hard(self, error: CispoError) -> None:
        self.say.keep(text := f"error: {error}")
        end_now(_FAILED, text)

    def way_on(self) -> str:
        """Say how this run can be continued."""
        written = complete_checkpoints(self.folder / "checkpoints")
        if written:
            return f"continue with resume={self.cfg.run_dir} (checkpoint {written[-1].name})"
        if self.cfg.resume:
            return f"continue with resume={self.cfg.resume}; there is no newer checkpoint"
        return "there is no checkpoint to continue from yet"


@contextmanager
def _reported(trackers: RunTrackers, say: LogFile) -> Iterator[None]:
    """Leave a report however the block ends; one that cannot be written hides no other error."""
    try:
        yield
    except CispoError as error:
        say.keep(f"error: {error}")  # as the command shows it
        raise
    finally:
        try:
            trackers.conclude()
        except OSError as error:
            say(f"no report can be written: {error}")


def _explanation(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the user can act on, of those that came together."""
    ours, _ = group.split(CispoError)
    first: BaseException = ours or group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def required_cpus(cfg: RunConfig) -> float:
    """CPUs that the run's actors reserve together."""
    return (
        cfg.learner.num_ranks * cfg.learner.num_cpus
        + cfg.rollout.num_actors * cfg.rollout.num_cpus
        + cfg.reward.num_workers * cfg.reward.num_cpus
    )
