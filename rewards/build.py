"""Builds a verifier, with all that its judges need, from plain settings."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from cispo.config import JudgeConfig, RewardConfig, SandboxConfig
from cispo.errors import ConfigError
from cispo.types import Rollout, Task, Verdict
from rewards.code import CodeGrader
from rewards.endpoint import ChatEndpoint
from rewards.grade import (
    GradingVerifier,
    Judge,
    Shaping,
    code_judge,
    logic_judge,
    math_judge,
    own_judge,
    recall_judge,
)
from rewards.grader_process import GraderProcess
from rewards.judge import GenerativeJudge
from rewards.own_function import is_own, own_functions
from rewards.shaping import KNOWN_PARTS
from rewards.swe.grader import SweGrader
from rewards.tau2 import grade_tau2
from sandboxes.build import build_sandbox, build_workspaces, sandbox_limits
from sandboxes.swe.proof import prove

_IN_PROCESS = ("math", "logic", "recall")
_VERIFIERS = frozenset({*_IN_PROCESS, "code", "judge", "swe", "tau2"})


def known_verifiers() -> frozenset[str]:
    """Return the names of the verifiers that are ours."""
    return _VERIFIERS


def named_verifiers(references: Sequence[str]) -> dict[str, str]:
    """Return verifiers by the name that a task's `verifier` has.

    Args:
        references: Names of ours, or `FILE.py:FUNCTION`, whose name is that of the function.

    Raises:
        ConfigError: There is no such verifier, file or function.
    """
    for name in references:
        if not is_own(name) and name not in _VERIFIERS:
            raise ConfigError(
                f"reward.verifiers={references}: no verifier {name!r}; there are "
                f"{', '.join(sorted(_VERIFIERS))}, and FILE.py:FUNCTION for one of your own"
            )
    ours = {name: name for name in references if not is_own(name)}
    return ours | own_functions(references, taken=_VERIFIERS)


class BuiltVerifier:
    """A verifier with the start and the end of what it uses."""

    def __init__(
        self,
        verifier: GradingVerifier,
        *,
        starts: Sequence[Callable[[], Awaitable[object]]],
        closes: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        """Take the verifier and what it uses."""
        self._verifier = verifier
        self._starts = starts
        self._closes = closes

    async def start(self) -> None:
        """Warm up and prove the sandbox; without it the first gradings are slower and unproven.

        Raises:
            ConfigError: A user's verifier cannot be run.
            SandboxUnavailableError: Programs cannot be held.
            RuntimeError: The grader process does not start.
        """
        for start in self._starts:
            await start()

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        """Judge one rollout; see `cispo.ports.Verifier`."""
        return await self._verifier.grade(task, rollout)

    async def close(self) -> None:
        """End its processes."""
        for close in self._closes:
            await close()


def build_verifier(
    reward: RewardConfig, sandbox: SandboxConfig, *, max_new_tokens: int
) -> BuiltVerifier:
    """Build the verifier that dispatches on a task's `verifier`.

    Args:
        reward: Verifiers, weights and deadlines.
        sandbox: Limits of programs.
        max_new_tokens: Budget of a rollout, for the penalty for length.

    Raises:
        ConfigError: A verifier or a part of the reward does not exist.
        SandboxUnavailableError: `code` or `swe` is wanted and there is no sandbox.
    """
    check_reward(reward, max_new_tokens=max_new_tokens)
    judges: dict[str, Judge] = {}
    starts: list[Callable[[], Awaitable[object]]] = []
    closes: list[Callable[[], Awaitable[None]]] = []
    names = [name for name in _IN_PROCESS if name in reward.verifiers]
    if names:
        process = GraderProcess(names, deadline_seconds=reward.deadline_seconds)
        makers: Mapping[str, Callable[[GraderProcess], Judge]] = {
            "math": math_judge,
            "logic": logic_judge,
            "recall": recall_judge,
        }
        judges |= {name: makers[name](process) for name in names}
        starts.append(process.start)
        closes.append(process.close)
    num_programs = sandbox.max_concurrent * max(1, len(sandbox.hosts))
    for name, reference in own_functions(reward.verifiers, taken=_VERIFIERS).items():
        process = GraderProcess([reference], deadline_seconds=reward.deadline_seconds)
        judges[name] = own_judge(process, reference)
        starts.append(process.start)
        closes.append(process.close)
    if "code" in reward.verifiers:
        programs = build_sandbox(sandbox)
        starts.append(programs.probe)
        closes.append(programs.close)
        grader = CodeGrader(programs, sandbox_limits(sandbox), max_concurrent=num_programs)
        judges["code"] = code_judge(grader)
    if "swe" in reward.verifiers:
        workspaces = build_workspaces(sandbox)
        swe = SweGrader(workspaces, sandbox.swe, max_concurrent=num_programs)
        starts.append(lambda: prove(workspaces, scratch=swe.cache / "proofs"))
        closes.append(workspaces.close)
        judges["swe"] = swe.explain
    if "tau2" in reward.verifiers:
        judges["tau2"] = grade_tau2
    if "judge" in reward.verifiers:
        judge = _judge(reward.judge)
        judges["judge"] = judge.judge
        closes.append(judge.close)
    shaping = Shaping(
        weights=reward.weights,
        max_tokens=max_new_tokens,
        overlong_cache_tokens=reward.overlong_cache_tokens,
    )
    return BuiltVerifier(GradingVerifier(judges, shaping), starts=starts, closes=closes)


def _judge(judge: JudgeConfig) -> GenerativeJudge:
    if judge.url is None:
        raise ConfigError("reward.judge.url=null: the verifier 'judge' needs a model's address")
    endpoint = ChatEndpoint(
        judge.url,
        judge.model,
        api_key_variable=judge.api_key_variable,
        max_attempts=judge.max_attempts,
        max_calls=judge.max_calls,
        max_concurrent=judge.max_concurrent,
        deadline_seconds=judge.deadline_seconds,
    )
    return GenerativeJudge(
        endpoint, max_answer_characters=judge.max_answer_characters, max_tokens=judge.max_tokens
    )


def check_reward(reward: RewardConfig, *, max_new_tokens: int) -> None:
    """Refuse settings that name what does not exist.

    Raises:
        ConfigError: With the key, the value and what there is.
    """
    named_verifiers(reward.verifiers)
    for name in reward.weights:
        if name not in KNOWN_PARTS:
            raise ConfigError(
                f"reward.weights={reward.weights}: no part {name!r}; "
                f"there are {', '.join(sorted(KNOWN_PARTS))}"
            )
    if not 0 <= reward.overlong_cache_tokens <= max_new_tokens:
        raise ConfigError(
            f"reward.overlong_cache_tokens={reward.overlong_cache_tokens}: "
            f"must lie in 0..{max_new_tokens}, the budget of a rollout"
        )
