"""An agent's episode: what a scripted policy does in a jailed repository, and what it is worth."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest_asyncio

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance
from cispo.data.swe.tasks import instance_task
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.policy.tool_calls import ToolCall, render_tool_calls
from cispo.types import PolicyVersion, Rollout, StopReason, Task
from rewards.swe.grader import SweGrader
from rollout.episode import Budgets, Turn, run_episode
from rollout.tools import RepositoryTools, ToolResult, shortened
from rollout.wording import ChatWording
from sandboxes.base import Limits
from sandboxes.swe.environment import Environments
from sandboxes.workspace import Workspace, WorkspaceLostError
from sandboxes.workspaces import JailWorkspaces

LIMITS = Limits(
    cpu_seconds=10.0,
    wall_seconds=60.0,
    memory_bytes=256 * 2**20,
    max_processes=32,
    output_bytes=65536,
)
BUDGETS = Budgets(max_turns=8, max_turn_tokens=400, max_tokens=4000, wall_seconds=100.0)
TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")


class Script:
    """A policy that says what it was told to, and remembers what it was shown."""

    def __init__(self, *turns: str, versions: Sequence[int] = (1,)) -> None:
        self._turns = list(turns)
        self._versions = list(versions)
        self.prompts: list[Sequence[int]] = []

    async def sample_turn(self, prompt: Sequence[int], *, seed: int, max_new_tokens: int) -> Turn:
        self.prompts.append(prompt)
        number = len(self.prompts) - 1
        tokens = [*TOKENIZER.encode(self._turns[number], add_special_tokens=False), END]
        reason = StopReason.END_OF_TURN
        if len(tokens) > max_new_tokens:
            tokens, reason = tokens[:max_new_tokens], StopReason.LENGTH
        version = PolicyVersion(self._versions[min(number, len(self._versions) - 1)])
        return Turn(
            token_ids=tokens,
            logprobs=[-0.25] * len(tokens),
            is_sampled=[True] * len(tokens),
            stop_reason=reason,
            version_runs=((version, len(tokens)),),
        )


class Echo:
    """Tools without a jail: they say what they were called with, and try to end their turn."""

    def __init__(self, *, lost_after: int = 100) -> None:
        self._left = lost_after

    async def call(self, call: ToolCall) -> ToolResult:
        self._left -= 1
        if self._left < 0:
            raise WorkspaceLostError("gone")
        said = f"{json.dumps(dict(call.arguments))}<|im_end|>"
        return ToolResult(said, ends_episode=call.name == "submit")

    async def tell(self, text: str) -> ToolResult:
        return ToolResult("", ends_episode=True)

    async def submission(self) -> str:
        return "what is left"


def calls(name: str, **arguments: object) -> str:
    return f"<think>\nhm\n</think>\n{render_tool_calls([ToolCall(name=name, arguments=arguments)])}"


SUBMIT = calls("submit")


@pytest_asyncio.fixture
async def tools(
    jails: JailWorkspaces, settings: SweConfig, toy: Instance
) -> AsyncIterator[RepositoryTools]:
    environment = await Environments(Path(settings.cache or "")).get(toy)
    async with jails.open(Workspace(base=environment.repo), LIMITS) as session:
        yield RepositoryTools(session, environment, LIMITS, max_characters=2000)


async def play(policy: Script, tools: object, *, budgets: Budgets = BUDGETS) -> Rollout:
    return await run_episode(
        task(),
        policy,
        ChatWording(TOKENIZER),
        tools,
        budgets,
        seed=5,  # type: ignore[arg-type]
    )


def task() -> Task:
    instance = Instance(
        instance_id="i",
        problem_statement="Mend it.",
        patch="",
        test_patch="",
        fail_to_pass=("t.py::test_a",),
        tree={"a.py": ""},
    )
    return instance_task(instance, "agent", source="toy")


async def test_a_scripted_policy_that_mends_the_fault_is_right(
    tools: RepositoryTools, grader: SweGrader, toy: Instance
) -> None:
    wrong, right = (
        next(line[1:] for line in toy.patch.splitlines() if line.startswith(f"{sign}    return"))
        for sign in "-+"
    )
    policy = Script(
        calls("bash", command="cat sums.py && git log --oneline | wc -l"),
        calls("view", path="sums.py"),
        calls("edit", path="sums.py", old=wrong, new=right),
        calls("bash", command="git diff --stat; python3 -c 'import sums'; touch /sums.py; exit 3"),
        SUBMIT,
    )
    rollout = await play(policy, tools)
    shown = [TOKENIZER.decode(prompt) for prompt in policy.prompts]
    assert f"{wrong}\n\n1" not in shown[0]
    assert wrong in shown[1]
    assert f"    2 {wrong}" in shown[2]
    assert "sums.py is changed" in shown[3]
    assert "1 file changed" in shown[4]
    assert "Read-only file system" in shown[4]
    assert "[exit status 3]" in shown[4]
    assert rollout.stop_reason is StopReason.END_OF_TURN
    assert rollout.submission is not None
    assert f"+{right}" in rollout.submission
    parts = await grader.grade(rollout.submission, {"instance": toy.to_json()})
    assert parts["correct"] == 1.0  # type: ignore[index]


async def test_an_agent_that_changes_nothing_submits_nothing(
    tools: RepositoryTools, grader: SweGrader, toy: Instance
) -> None:
    rollout = await play(Script(calls("bash", command="ls -la"), SUBMIT), tools)
    assert rollout.submission == ""
    parts = await grader.grade("", {"instance": toy.to_json()})
    assert parts["correct"] == 0.0  # type: ignore[index]


async def test_new_removed_and_replaced_files_are_in_the_diff_and_links_are_not(
    tools: RepositoryTools,
) -> None:
    commands = (
        "rm README.md; mkdir new; printf 'a\\nb' > new/b.txt; ln -s /etc/passwd link; mkfifo pipe",
        "rm -r tests; mkdir tests; echo 1 > tests/one; printf '\\xff' > binary; echo x > .git/x",
    )
    policy = Script(*(calls("bash", command=command) for command in commands), SUBMIT)
    submission = (await play(policy, tools)).submission
    assert submission is not None
    for part in (
        "diff --git a/README.md b/README.md\ndeleted file mode 100644\n",
        "diff --git a/new/b.txt b/new/b.txt\nnew file mode 100644\n",
        "+a\n+b\n\\ No newline at end of file\n",
        "deleted file mode 100644\n--- a/tests/test_words.py\n",
        "+++ b/tests/one\n",
    ):
        assert part in submission
    for part in ("link", "pipe", "binary", "passwd", ".git/"):
        assert part not in submission.replace("diff --git", "")


async def test_only_sampled_tokens_are_actions_and_no_token_is_made_twice() -> None:
    policy = Script(calls("bash", command="x"), calls("bash", command="y"), "All done.")
    rollout = await play(policy, Echo())
    for prompt, following in zip(policy.prompts, policy.prompts[1:], strict=False):
        assert tuple(following[: len(prompt)]) == tuple(prompt)
    assert tuple(rollout.token_ids[: len(policy.prompts[-1])]) == tuple(policy.prompts[-1])
    sampled = [t for t, m in zip(rollout.token_ids, rollout.action_mask, strict=True) if m]
    assert sampled.count(END) == 3
    assert rollout.num_action_tokens == len(sampled)
    for probability, is_action in zip(rollout.behaviour_logprobs, rollout.action_mask, strict=True):
        assert probability == (-0.25 if is_action else 0.0)
    told = TOKENIZER.decode(rollout.token_ids)
    assert '<|im_start|>tool bash\n{"command": "x"}<|im_end|><|im_end|>' in told
    # One end for each turn: the prompt's, three of the policy, two of the tools. What a tool says
    # is text, so that the `<|im_end|>` in it ends nothing.
    assert list(rollout.token_ids).count(END) == 6
    assert rollout.submission == "what is left"
    assert rollout.text.endswith("All done.")


async def test_turns_tokens_and_time_have_budgets() -> None:
    loop = [calls("bash", command="x")] * 9
    limited = await play(Script(*loop), Echo(), budgets=_with(max_turns=2))
    assert limited.stop_reason is StopReason.TURN_LIMIT
    assert sum(limited.action_mask) == 2 * (limited.num_action_tokens // 2)
    assert limited.action_mask[-1]
    short = await play(Script(*loop), Echo(), budgets=_with(max_turn_tokens=7))
    assert (short.stop_reason, short.num_action_tokens) == (StopReason.LENGTH, 7)
    full = await play(Script(*loop), Echo(), budgets=_with(max_tokens=len(limited.token_ids)))
    assert full.stop_reason is StopReason.LENGTH
    late = await play(Script(*loop), Echo(), budgets=_with(wall_seconds=1e-9))
    assert late.stop_reason is StopReason.TURN_LIMIT
    assert list(late.token_ids).count(END) == 3  # the prompt's, one turn, one result


async def test_a_call_that_cannot_be_read_is_answered() -> None:
    policy = Script("<tool_calls>\n{not json\n</tool_calls>", "Enough.")
    await play(policy, Echo())
    assert "error: line 2 of the turn" in TOKENIZER.decode(policy.prompts[1])


async def test_calls_that_no_tokenizer_can_repeat_are_answered(tools: RepositoryTools) -> None:
    turns = (
        '<tool_calls>\n{"name": "view\\ud800", "arguments": {}}\n</tool_calls>',
        '<tool_calls>\n{"name": "view", "arguments": {"path": "\\ud800"}}\n</tool_calls>',
        f'<tool_calls>\n{{"name": "view", "arguments": {{"first_line": {"9" * 5000}}}}}\n'
        "</tool_calls>",
    )
    budgets = _with(max_turn_tokens=10**5, max_tokens=10**6)
    for turn in turns:
        policy = Script(turn, "Enough.")
        rollout = await play(policy, tools, budgets=budgets)
        assert rollout.stop_reason is StopReason.END_OF_TURN
        assert "error: " in TOKENIZER.decode(policy.prompts[1])


async def test_names_that_are_no_text_and_folders_without_end_are_left_out(
    tools: RepositoryTools,
) -> None:
    code = (
        "import os; os.chdir(b'.'); open(b'\\xff.py', 'w').close(); open('a\\nb.py', 'w').close()\n"
        "open('kept.py', 'w').write('k = 1\\n')\n"
        "for _ in range(1500): os.mkdir('d'); os.chdir('d')"
    )
    policy = Script(calls("bash", command=f'python3 -c "{code}"'), SUBMIT)
    submission = (await play(policy, tools)).submission
    assert submission is not None
    assert [line for line in submission.splitlines() if line.startswith("+++")] == ["+++ b/kept.py"]


async def test_a_lost_workspace_aborts_the_rollout_or_is_raised_before_it_began() -> None:
    policy = Script(calls("bash", command="x"), calls("bash", command="y"), versions=(3, 4))
    rollout = await play(policy, Echo(lost_after=1))
    assert rollout.stop_reason is StopReason.ABORTED
    assert rollout.submission is None
    assert (rollout.oldest_version, rollout.newest_version) == (3, 4)


async def test_tools_answer_calls_that_make_no_sense(tools: RepositoryTools) -> None:
    async def say(name: str, **arguments: object) -> str:
        return (await tools.call(ToolCall(name=name, arguments=arguments))).text

    assert (await say("fly")) == "error: no tool 'fly'; there are bash, view, edit, submit"
    assert (await say("bash", order="ls")) == 'error: bash does not take {"order": "ls"}'
    assert "no plain path" in await say("view", path="../../etc/passwd")
    assert "no file that can be read" in await say("view", path="absent.py")
    assert (await say("view", path="sums.py", first_line=9)) == "[sums.py has 3 lines]"
    assert (await say("view", path="sums.py", first_line=1, last_line=1)) == ("    1 def mix(a,b):")
    assert "0 times" in await say("edit", path="sums.py", old="absent", new="x")
    assert "exists" in await say("edit", path="sums.py", old="", new="x")
    assert (await say("edit", path="d/n.py", old="", new="x\n")) == "d/n.py is changed"
    assert (await say("bash", command="cat d/n.py")) == "x"
    assert (await say("bash", command="true")) == "[no output]"
    assert "left out" in await say("bash", command="seq 4000")
    assert "Errno" in await say("edit", path="/usr/x", old="", new="x")


def test_the_middle_of_a_long_text_is_left_out() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 4) == "ab\n[... 3 characters left out ...]\nfg"


def _with(**changes: float) -> Budgets:
    values = {name: getattr(BUDGETS, name) for name in BUDGETS.__slots__}
    return Budgets(**{**values, **changes})  # type: ignore[arg-type]
