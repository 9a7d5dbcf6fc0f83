"""Software-engineering tasks on every backend: grading, an agent, and the proof of it all."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance
from cispo.errors import SandboxUnavailableError
from rewards.swe.grader import SweGrader
from rollout.tools import RepositoryTools
from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.swe.environment import Environments
from sandboxes.swe.packages import python_version
from sandboxes.swe.proof import prove
from sandboxes.workspace import Change, ChangeKind, Ran, Workspace
from sandboxes.workspaces import Workspaces
from tests.backends import BACKENDS, opened
from tests.swe.hacks import HACKS
from tests.swe.test_episode import LIMITS, SUBMIT, Script, calls, play
from tests.swe.test_hacks import SHOP, hacked

TRIED = (
    *("leave at import", "report everything as passed", "steal the nonce, forge all"),
    *("forge lines through process 1", "rewrite the tests on disk", "kill everybody"),
)


@pytest.fixture(params=BACKENDS)
async def workspaces(request: pytest.FixtureRequest) -> AsyncIterator[Workspaces]:
    async with opened(request.param) as workspaces:
        yield workspaces


async def test_a_solution_is_right_nothing_is_wrong_and_tricks_earn_nothing(
    workspaces: Workspaces, settings: SweConfig
) -> None:
    grader = SweGrader(workspaces, settings, max_concurrent=1)
    truth = {"instance": SHOP.to_json()}
    right = await grader.grade(SHOP.patch, truth)
    assert right == {**right, "correct": 1.0, "tamper": 0.0}  # type: ignore[dict-item]
    empty = await grader.test(SHOP, (), skip_empty=False)
    assert empty.parts["correct"] == 0.0  # type: ignore[union-attr]
    for name in TRIED:
        parts = await grader.grade(hacked(HACKS[name]), truth)
        assert isinstance(parts, Mapping), (name, parts)
        assert parts["correct"] == 0.0, (name, parts)


async def test_an_agent_that_mends_the_fault_is_right(
    workspaces: Workspaces, settings: SweConfig, toy: Instance
) -> None:
    environment = await Environments(Path(settings.cache or "")).get(toy)
    wrong, right = (
        next(line[1:] for line in toy.patch.splitlines() if line.startswith(f"{sign}    return"))
        for sign in "-+"
    )
    policy = Script(
        calls("bash", command="git log --oneline && git status --short; touch x && ls"),
        calls("edit", path="sums.py", old=wrong, new=right),
        calls("view", path="sums.py"),
        SUBMIT,
    )
    async with workspaces.open(Workspace(base=environment.repo), LIMITS) as session:
        tools = RepositoryTools(session, environment, LIMITS, max_characters=2000)
        rollout = await play(policy, tools)
    assert rollout.submission is not None
    assert f"+{right}" in rollout.submission
    grader = SweGrader(workspaces, settings, max_concurrent=1)
    parts = await grader.grade(rollout.submission, {"instance": toy.to_json()})
    assert parts["correct"] == 1.0  # type: ignore[index]


async def test_the_proof_of_a_backend_names_its_layers(workspaces: Workspaces, cache: Path) -> None:
    layers = await prove(workspaces, scratch=cache / "proofs")
    assert "seccomp" in layers
    assert "no network" in layers


class Odd:
    """A backend whose programs have another Python, or lack a tool, or whose copies are none."""

    def __init__(self, said: Mapping[str, str], written: Mapping[str, bytes]) -> None:
        self._said = said
        self._changes = tuple(
            Change(path=path, kind=ChangeKind.FILE, mode=0o644, content=content)
            for path, content in written.items()
        )

    async def probe(self) -> tuple[str, ...]:
        return ("seccomp",)

    async def close(self) -> None:
        """Nothing is kept."""

    @asynccontextmanager
    async def open(self, workspace: Workspace, limits: Limits) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(run=self._run, changes=self._told)

    async def _run(self, program: Program, limits: Limits) -> Ran:
        said = self._said.get(program.argv[0], "")
        result = ExecResult(
            outcome=Outcome.EXITED,
            exit_code=0 if said else 127,
            stdout=said.encode(),
            stderr=b"",
            cpu_seconds=0.0,
            wall_seconds=0.0,
        )
        return Ran(result=result, private=b"")

    async def _told(self, *, max_bytes: int) -> tuple[Change, ...]:
        return self._changes


@pytest.mark.parametrize(
    ("change", "written", "message"),
    [
        ({"python3": "2.7"}, {}, "sandbox.backend: repositories would run with Python 2.7"),
        ({"git": ""}, {}, "sandbox.image: there is no git"),
        ({}, {"given": b"as it was"}, "sandbox layer workspaces: "),
    ],
)
async def test_a_backend_that_does_not_do_is_refused_by_the_key_to_change(
    cache: Path, change: dict[str, str], written: dict[str, bytes], message: str
) -> None:
    said = {"python3": python_version(), "bash": "5", "git": "2", **change}
    with pytest.raises(SandboxUnavailableError, match=message):
        await prove(Odd(said, written), scratch=cache / "proofs")  # type: ignore[arg-type]
