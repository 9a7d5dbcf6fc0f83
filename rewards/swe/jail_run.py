"""Runs hidden tests once, in a fresh jail, on a copy of the repository with a patch."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance
from cispo.data.swe.patch import FilePatch
from rewards.attempts import Attempts, is_killed
from rewards.swe.answer import as_json
from sandboxes.base import ExecResult, Limits, Program, lost
from sandboxes.swe.environment import Environment
from sandboxes.swe.inside import hunks
from sandboxes.swe.paths import PACKAGES, roots_in_jail
from sandboxes.workspace import (
    WORKSPACE,
    Ran,
    Workspace,
    WorkspaceLostError,
    give_away,
)
from sandboxes.workspaces import Workspaces

_INSIDE = Path(__file__).with_name("inside")
_RUNNERS = {"pytest": "pytest_runner.py", "functions": "function_runner.py"}
_REPORT_BYTES = 2**24
_OUTPUT_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run.

    Attributes:
        patches: Changes of the policy, or of the reference.
        sources: Hidden files by path.
        files: Test files that are run.
        selected: Ids of the tests that are run, with parameters or for all of them; None for all.
        nonce: Word that every line of the runner begins with.
    """

    patches: Sequence[FilePatch]
    sources: Mapping[str, str]
    files: Sequence[str]
    selected: Sequence[str] | None
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JailRun:
    """How it ended.

    Attributes:
        result: Of the jail.
        report: What the trusted driver reported; None where it could not.
    """

    result: ExecResult
    report: Mapping[str, Any] | None


async def run_in_jail(
    workspaces: Workspaces,
    environment: Environment,
    instance: Instance,
    order: Order,
    limits: Limits,
    *,
    scratch: Path,
    write_bytes: int,
) -> JailRun:
    """Run tests in a jail of their own; one that is lost or killed is made again.

    Args:
        workspaces: Makes jails.
        environment: Of the instance.
        instance: Whose tests are run.
        order: What to run.
        limits: Of all that runs in the jail.
        scratch: Folder for the hidden files while the jail lives; jails must be able to reach it.
        write_bytes: What may be written to the repository and to `/tmp`.
    """
    attempts, again = Attempts(), True
    while again:
        with _shown(order.sources, scratch) as shown:
            workspace = Workspace(
                base=environment.repo,
                read_only={PACKAGES: environment.packages, **shown},
                write_bytes=write_bytes,
            )
            try:
                async with workspaces.open(workspace, limits) as session:
                    program = _program(instance, order)
                    ran = await session.run(program, limits, result_bytes=_REPORT_BYTES)
            except WorkspaceLostError as error:
                ran = Ran(result=lost(str(error)), private=b"")
        again = attempts.again(ran.result, killed=is_killed(ran.result))
    return JailRun(result=ran.result, report=_read(ran))


def run_limits(settings: SweConfig) -> Limits:
    """Return the limits of one run of tests."""
    return Limits(
        cpu_seconds=settings.cpu_seconds,
        wall_seconds=settings.wall_seconds,
        memory_bytes=settings.memory_bytes,
        max_processes=settings.max_processes,
        output_bytes=_OUTPUT_BYTES,
        tmp_bytes=settings.write_bytes,
    )


@contextmanager
def _shown(sources: Mapping[str, str], scratch: Path) -> Iterator[dict[str, Path]]:
    """Write the hidden files for as long as the block runs, and say where the jail shows them."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="tests-") as name:
        folder = Path(name)
        shown = {}
        for number, (path, text) in enumerate(sources.items()):
            file = folder / str(number)
            file.write_text(text, encoding="utf-8", newline="")
            file.chmod(0o644)
            shown[f"{WORKSPACE}/{path}"] = file
        folder.chmod(0o755)
        give_away(folder)
        yield shown


def _program(instance: Instance, order: Order) -> Program:
    setup = instance.setup
    job = {
        "repo": WORKSPACE,
        "patches": [as_json(patch) for patch in order.patches],
        "environment": {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        "max_event_bytes": _REPORT_BYTES // 4,
        "runner": {
            "repo": WORKSPACE,
            "packages": PACKAGES,
            "source_roots": roots_in_jail(setup.source_roots),
            "plugins": list(setup.plugins),
            "files": list(order.files),
            "selected": None if order.selected is None else list(order.selected),
            "nonce": order.nonce,
        },
    }
    return Program(
        argv=("python3", "-I", "-S", "/tmp/driver.py"),
        files={
            "driver.py": (_INSIDE / "driver.py").read_bytes(),
            "runner.py": (_INSIDE / _RUNNERS[setup.runner]).read_bytes(),
            "hunks.py": Path(hunks.__file__).read_bytes(),
            "job.json": json.dumps(job).encode(),
        },
    )


def _read(ran: Ran) -> Mapping[str, Any] | None:
    """Read the report; a driver that was killed while it wrote left none."""
    try:
        report = json.loads(ran.private)
    except ValueError:
        return None
    return report if isinstance(report, dict) else None
