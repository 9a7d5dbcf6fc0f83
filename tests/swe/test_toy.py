"""The toy family: SWE tasks that need nothing but Python, graded in a jail."""

import dataclasses

import pytest

from cispo.config import SourceConfig
from cispo.data.build import open_table
from cispo.data.swe.instance import Instance
from cispo.data.swe.toy import SweToyFamily
from cispo.errors import ConfigError
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.types import StopReason, Task
from rewards.grade import GradingVerifier, Shaping
from rewards.swe.grader import SweGrader
from tests.fakes import make_rollout

FAMILY = SweToyFamily(200, 0)
TRICKS = {
    "leave": "import os; os._exit(0)",
    "raise SystemExit": "raise SystemExit(0)",
    "equal to everything": "class mix:\n"
    "    def __init__(self, a, b): pass\n"
    "    def __eq__(self, other): return True",
    "forge lines": "import os, json\n"
    "for n in range(3, 64):\n"
    "    try: os.write(n, json.dumps(['x', 'finish', 0]).encode() + b'\\n')\n"
    "    except OSError: pass\n"
    "os._exit(0)",
    "empty the tests": "import sys\n"
    "def mix(a, b):\n"
    "    f = sys._getframe(1)\n"
    "    for g in f.f_globals.values():\n"
    "        if hasattr(g, '__code__'): g.__code__ = (lambda: None).__code__\n"
    "    raise AssertionError",
    "read the answer": "import sys, linecache\n"
    "def mix(a, b):\n"
    "    f = sys._getframe(1)\n"
    "    line = linecache.getline(f.f_code.co_filename, f.f_lineno)\n"
    "    return int(line.split('==')[1])",
}
FLAGGED = {"equal to everything", "forge lines", "empty the tests", "read the answer"}


def answer_with(task: Task, code: str) -> str:
    lines = task.messages[0].content.splitlines()
    wrong = next(line for line in lines if line.startswith("    return"))
    added = "".join(f"+{line}\n" for line in [wrong, *code.splitlines()])
    return f"```diff\n-{wrong}\n{added}```"


async def parts(grader: SweGrader, task: Task, text: str) -> dict[str, float]:
    graded = await grader.grade(text, task.truth)
    assert isinstance(graded, dict), graded
    return graded


async def test_the_worked_answer_is_right_and_the_fault_is_wrong(grader: SweGrader) -> None:
    for row in range(3):
        task = FAMILY[row]
        assert task.solution is not None
        assert (await parts(grader, task, task.solution))["correct"] == 1.0
        kept = await parts(grader, task, answer_with(task, ""))
        assert (kept["correct"], kept["tamper"], kept["pass_to_pass"]) == (0.0, 0.0, 1.0)
        assert (await parts(grader, task, "I do not know."))["correct"] == 0.0


@pytest.mark.parametrize("name", TRICKS)
async def test_a_trick_earns_nothing_without_pytest_either(grader: SweGrader, name: str) -> None:
    graded = await parts(grader, FAMILY[0], answer_with(FAMILY[0], TRICKS[name]))
    assert graded["applied"] == 1.0
    assert graded["correct"] == 0.0
    assert graded["tamper"] == float(name in FLAGGED)


async def test_a_rollout_with_a_submission_is_graded_by_it_and_an_aborted_one_is_not(
    grader: SweGrader, toy: Instance
) -> None:
    task = SweToyFamily(1, 0, "agent")[0]
    assert task.is_agentic
    shaping = Shaping(weights={"correct": 1.0}, max_tokens=100, overlong_cache_tokens=0)
    verifier = GradingVerifier({"swe": grader.grade}, shaping)
    said = make_rollout(text="<think>\nhm\n</think>\ndone")
    good = dataclasses.replace(said, submission=toy.patch)
    assert (await verifier.grade(task, good)).reward == 1.0  # type: ignore[union-attr]
    idle = dataclasses.replace(said, submission="")
    assert (await verifier.grade(task, idle)).reward == 0.0  # type: ignore[union-attr]
    lost = dataclasses.replace(said, stop_reason=StopReason.ABORTED)
    assert (await verifier.grade(task, lost)).cause == (  # type: ignore[union-attr]
        "the rollout was aborted"
    )


def test_rows_repeat_from_their_seed_and_differ_from_each_other() -> None:
    again = SweToyFamily(1, 7)[0]
    assert again == FAMILY[7]
    prompts = {FAMILY[row].messages[0].content for row in range(200)}
    assert len(prompts) > 100


def test_a_tiny_model_can_afford_prompt_and_answer() -> None:
    tokenizer = load_tokenizer(str(bundled_tokenizer("bpe1024")))
    for row in range(50):
        task = FAMILY[row]
        assert task.solution is not None
        assert len(tokenizer.encode(task.messages[0].content)) < 64
        assert len(tokenizer.encode(task.solution)) < 64


def test_the_family_is_a_source_of_tasks() -> None:
    source = SourceConfig(kind="swe_toy", name="repair_function", size=5, seed=3)
    table = open_table(source)
    assert (len(table), table[0]) == (5, FAMILY[3])
    with pytest.raises(ConfigError, match="form='essay': choose single_shot or agent"):
        open_table(dataclasses.replace(source, options={"form": "essay"}))
