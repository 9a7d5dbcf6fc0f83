"""Verifiers that users bring: found, run, and blamed by file and line."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from cispo.config import RewardConfig, SandboxConfig
from cispo.errors import ConfigError
from cispo.types import Graded, Message, Task, Ungraded
from rewards.build import build_verifier, named_verifiers
from rewards.own_function import BrokenVerifierError, load, own_functions, parts_of
from rewards.trial import try_verifiers
from tests.fakes import make_rollout


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent(
            """
            from limits import MOST

            def near(answer, truth):
                return max(0.0, 1.0 - abs(int(answer or 0) - truth["n"]) / MOST)

            def many(answer, truth):
                return {"correct": answer == "yes", "words": 0.5}

            def loops(answer, truth):
                while True:
                    pass

            def one(answer):
                return 1.0
            """
        )
    )
    (tmp_path / "limits.py").write_text("MOST = 4\n")
    yield path
    for name in ("limits", str(path)):
        sys.modules.pop(name, None)


def task(verifier: str, solution: str | None = None, **truth: object) -> Task:
    return Task(
        task_id="t",
        messages=(Message(role="user", content="?"),),
        verifier=verifier,
        truth=truth,
        solution=solution,
    )


def test_a_function_is_named_by_itself_and_found_by_its_full_path(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert named_verifiers(["math", "mine.py:near"]) == {"math": "math", "near": f"{file}:near"}


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("absent.py:near", "absent.py cannot be read"),
        ("mine.py:far", "mine.py defines no function 'far'; it defines near, many, loops, one"),
        ("mine.py:one", "mine.py, line 14: one must take the answer and the truth"),
        ("bad.py:near", "bad.py, line 2: not Python"),
        ("maths.py:math", "there is a verifier 'math' already"),
    ],
)
def test_what_cannot_be_used_is_refused_before_it_is_run(
    reference: str, words: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    Path("bad.py").write_text("raise SystemExit\ndef near(:\n")
    Path("maths.py").write_text("def math(answer, truth):\n    return 1\n")
    with pytest.raises(ConfigError, match=r"reward\.verifiers") as refused:
        own_functions([reference], taken={"math"})
    assert words in str(refused.value)


def test_two_functions_of_one_name_are_refused(file: Path) -> None:
    other = file.with_name("other.py")
    other.write_text(file.read_text())
    with pytest.raises(ConfigError, match="there is a verifier 'near' already"):
        own_functions([f"{file}:near", f"{other}:near"], taken=())


def test_a_file_that_fails_when_it_is_run_is_blamed_with_its_line(file: Path) -> None:
    file.with_name("limits.py").write_text("")
    with pytest.raises(ConfigError, match=r"mine\.py, line 2: ImportError"):
        load(f"{file}:near")


@pytest.mark.parametrize(
    ("returned", "parts"),
    [
        (1, {"correct": 1.0, "score": 1.0}),
        (True, {"correct": 1.0, "score": 1.0}),
        (0.75, {"correct": 0.0, "score": 0.75}),
        ({"correct": False, "words": 0.5}, {"correct": 0.0, "words": 0.5}),
    ],
)
def test_numbers_and_parts_are_verdicts(returned: object, parts: dict[str, float]) -> None:
    assert parts_of(returned) == parts


@pytest.mark.parametrize(
    "returned", [None, "1", 1.5, -0.1, float("nan"), {"score": 1.0}, {"correct": "yes"}, [1.0]]
)
def test_anything_else_is_the_verifiers_fault(returned: object) -> None:
    with pytest.raises(BrokenVerifierError, match="returned"):
        parts_of(returned)


def test_a_failure_names_the_users_line(file: Path) -> None:
    near = load(f"{file}:near")
    assert near("3", {"n": 4}) == {"correct": 0.0, "score": 0.75}
    with pytest.raises(BrokenVerifierError, match=r"mine\.py, line 5: ValueError: invalid literal"):
        near("three", {"n": 4})


async def test_it_grades_what_follows_the_thought_in_a_process_that_may_be_killed(
    file: Path,
) -> None:
    reward = RewardConfig(
        verifiers=[f"{file}:near", f"{file}:loops"],
        weights={"correct": 0.5, "score": 0.5},
        deadline_seconds=1.0,
    )
    built = build_verifier(reward, SandboxConfig(), max_new_tokens=100)
    try:
        right = await built.grade(task("near", n=4), make_rollout(text="<think>9</think>4"))
        assert isinstance(right, Graded)
        assert right.reward == 1.0
        near = await built.grade(task("near", n=4), make_rollout(text="3"))
        assert isinstance(near, Graded)
        assert near.reward == 0.5 * 0.75
        broken = await built.grade(task("near", n=4), make_rollout(text="three"))
        assert isinstance(broken, Ungraded)
        assert f"{file}, line 5: ValueError" in broken.cause
        endless = await built.grade(task("loops"), make_rollout(text="4"))
        assert isinstance(endless, Ungraded) or endless.parts["deadline_missed"] == 1.0
    finally:
        await built.close()


def test_a_verifier_is_tried_before_a_run(file: Path) -> None:
    def tried(name: str, first: Task) -> None:
        try_verifiers({name: f"{file}:{name}"}, [task("math"), first], deadline_seconds=60.0)

    tried("many", task("many"))
    with pytest.raises(
        ConfigError, match=r"line 5: ValueError.*tried on task t with the answer '\?'"
    ):
        tried("near", task("near", n=4))
    file.write_text(file.read_text().replace("int(answer or 0)", "len(answer)"))
    tried("near", task("near", n=1))
    with pytest.raises(ConfigError, match=r"line 5: KeyError: 'n'"):
        tried("near", task("near"))


def test_a_file_that_cannot_be_run_is_refused_before_a_run(file: Path) -> None:
    file.with_name("limits.py").write_text("")
    with pytest.raises(ConfigError, match="ImportError"):
        try_verifiers({"near": f"{file}:near"}, [task("near", n=4)], deadline_seconds=60.0)
