"""Sends metrics to W&B without ever asking a question, ending a run or holding it up for long."""

import contextlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import wandb

from cispo.errors import ConfigError
from cispo.tracking.rollouts import entries
from cispo.types import Group, Lesson, Metrics, RolloutKind

_TABLE_ROWS = 16
_FORGET_SECONDS = 5.0
_TABLES = {RolloutKind.TRAINING: "rollouts", RolloutKind.HELD_OUT: "heldout_rollouts"}
_TABLE_COLUMNS = ("task_id", "source", "response", "reward", "stop_reason", "action_tokens")


class WandbTracker:
    """Logs to one W&B run; a failure is counted, said once, and survived.

    A call that does not return in time is the last one: W&B is given up.

    Args:
        folder: The run's folder; it keeps W&B's files and the id under which a resume goes on.
        mode: `offline` (upload later with `wandb sync`) or `online`.
        project: W&B project.
        name: Name of the run.
        config: The whole configuration, shown beside the metrics.
        run_id: W&B run that goes on; None takes that of the folder, or a new one.
        deadline_seconds: Wall time that a call to W&B may take.

    Attributes:
        run_id: W&B's name of the run.
        num_failures: Calls that failed, and those that were left out after W&B was given up.

    Raises:
        ConfigError: `online` without credentials, for which W&B would ask, or with an API key that
            cannot be one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["offline", "online"],
        project: str,
        name: str,
        config: Mapping[str, Any],
        run_id: str | None = None,
        deadline_seconds: float = 120.0,
    ) -> None:
        if mode == "online":
            _refuse_without_credentials()
        self.num_failures = 0
        self.run_id = _run_id(folder / "wandb_run_id.txt", run_id)
        self._deadline_seconds = deadline_seconds
        self._run: Any = None

        def start() -> None:
            self._run = wandb.init(
                dir=folder,
                mode=mode,
                project=project,
                name=name,
                id=self.run_id,
                resume="allow",
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )

        self._attempt("start", start)

    def log(self, step: int, metrics: Metrics) -> None:
        """Log one step."""
        self._attempt("log metrics", lambda: self._run.log(dict(metrics), step=step))

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Log the first rollouts as a table of their kind."""

        def send() -> None:
            first = islice(entries(groups, kind=kind), _TABLE_ROWS)
            rows = [[entry[column] for column in _TABLE_COLUMNS] for entry in first]
            table = wandb.Table(columns=list(_TABLE_COLUMNS), data=rows)
            self._run.log({_TABLES[kind]: table}, step=step)

        self._attempt("record rollouts", send)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the summary and close the run."""

        def close() -> None:
            self._run.summary.update(dict(summary))
            self._run.finish()

        self._attempt("finish", close)

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        if self._run is None and what != "start":
            self.num_failures += 1
            return
        try:
            _call_within(self._deadline_seconds, action)
        except Exception as error:  # the run is worth more than its dashboard
            if isinstance(error, TimeoutError) or what == "start":
                self._run = None
                _end_service()
            self.num_failures += 1
            if self.num_failures == 1:
                logging.getLogger(__name__).warning(
                    "W&B failed to %s (%s: %s); the run goes on, metrics.jsonl has everything",
                    what,
                    type(error).__name__,
                    error,
                )


def _refuse_without_credentials() -> None:
    """Look for credentials, without a word to the server: it may be away, and the run goes on."""
    wandb.setup(wandb.Settings(silent=True))  # a login that says who we are asks it
    try:
        has_credentials = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(f"tracking.wandb_mode=online: {error}") from error
    if not has_credentials:
        raise ConfigError(
            "tracking.wandb_mode=online: W&B has no credentials on this machine; run "
            "`wandb login` first, or use tracking.wandb_mode=offline"
        )


def _call_within(seconds: float, action: Callable[[], None]) -> None:
    """Call in another thread, which is left alone when it takes too long.

    Raises:
        TimeoutError: It did.
        Exception: Whatever the action raised.
    """
    errors: list[Exception | None] = []

    def call() -> None:
        try:
            action()
        except Exception as error:  # raised again in the caller's thread
            errors.append(error)
        else:
            errors.append(None)

    thread = threading.Thread(target=call, name="W&B", daemon=True)
    thread.start()
    thread.join(seconds)
    if not errors:
        raise TimeoutError(f"no answer in {seconds:g} s")
    if errors[0] is not None:
        raise errors[0]


def _end_service() -> None:
    """Kill W&B's own process, for which this one would wait at its end, and let W&B forget it."""
    _kill_service()

    def forget() -> None:
        with contextlib.suppress(ConnectionError, SystemExit):  # it is dead, and was killed
            wandb.teardown()

    with contextlib.suppress(TimeoutError):
        _call_within(_FORGET_SECONDS, forget)


def _kill_service() -> None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"wandb-core" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def _run_id(path: Path, given: str | None) -> str:
    if given is not None or not path.exists():
        path.write_text(f"{given or secrets.token_hex(4)}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
