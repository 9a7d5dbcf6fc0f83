"""The verifier as a whole, and the settings that it refuses."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from cispo.config import RewardConfig, SandboxConfig
from cispo.errors import ConfigError, SandboxUnavailableError
from cispo.types import Graded, Message, Task, Ungraded
from rewards.build import BuiltVerifier, build_verifier, known_verifiers
from tests.fakes import make_rollout

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEIGHTS = {"correct": 1.0, "format": 0.1, "overlong": 0.5}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[BuiltVerifier]:
    reward = RewardConfig(weights=WEIGHTS, overlong_cache_tokens=20)
    try:
        built = build_verifier(reward, SandboxConfig(), max_new_tokens=100)
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, programs are untested: {error}")
    await built.start()
    yield built
    await built.close()


def task(verifier: str, **truth: Any) -> Task:
    return Task(
        task_id="t",
        messages=(Message(role="user", content="?"),),
        verifier=verifier,
        truth=truth,
    )


MATH = task("math", answer="4")
LOGIC = task("logic", dataset="gcd", entry={"answer": "6", "metadata": {}})
CODE = task("code", tests=[{"stdin": "2\n", "stdout": "4\n"}])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (MATH, r"<think>2+2</think>\boxed{4}"),
        (LOGIC, "<think>2*3</think><answer>6</answer>"),
        (CODE, "<think>double</think>```python\nprint(2*int(input()))\n```"),
    ],
)
async def test_each_verifier_is_reached_by_its_name(
    verifier: BuiltVerifier, given: Task, text: str
) -> None:
    verdict = await verifier.grade(given, make_rollout(text=text))
    assert isinstance(verdict, Graded)
    assert verdict.parts["correct"] == 1.0
    assert verdict.parts["format"] == 1.0
    assert verdict.reward == pytest.approx(1.1)


async def test_length_and_form_are_parts_of_the_reward(verifier: BuiltVerifier) -> None:
    rollout = make_rollout(text="4", num_action_tokens=90)
    verdict = await verifier.grade(MATH, rollout)
    assert isinstance(verdict, Graded)
    assert verdict.parts == {"correct": 1.0, "format": 0.0, "overlong": -0.5}
    assert verdict.reward == pytest.approx(0.75)


async def test_an_unknown_verifier_is_ungraded(verifier: BuiltVerifier) -> None:
    verdict = await verifier.grade(task("poetry"), make_rollout())
    assert verdict == Ungraded(cause="no verifier 'poetry'")


@pytest.mark.parametrize("given", [task("math"), task("logic"), task("code")])
async def test_a_task_without_truth_is_ungraded(verifier: BuiltVerifier, given: Task) -> None:
    assert isinstance(await verifier.grade(given, make_rollout(text="4")), Ungraded)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"verifiers": ["math", "poetry"]}, "reward.verifiers"),
        ({"weights": {"correct": 1.0, "beauty": 1.0}}, "reward.weights"),
        ({"overlong_cache_tokens": 101}, "reward.overlong_cache_tokens"),
    ],
)
async def test_settings_that_name_what_does_not_exist_are_refused(
    changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=f"{key}="):
        build_verifier(RewardConfig(**changes), SandboxConfig(), max_new_tokens=100)


async def test_no_sandbox_is_needed_where_no_programs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    build_verifier(RewardConfig(verifiers=["math"]), SandboxConfig(), max_new_tokens=100)
    with pytest.raises(SandboxUnavailableError):
        build_verifier(RewardConfig(verifiers=["code"]), SandboxConfig(), max_new_tokens=100)


async def test_the_names_of_verifiers_are_known() -> None:
    assert known_verifiers() == {"math", "logic", "recall", "code", "judge", "swe", "tau2"}
