"""Programs as answers: right, wrong, crashing, slow, hostile; and sandboxes that fail."""

import asyncio

import pytest

from cispo.errors import SandboxUnavailableError
from cispo.types import Ungraded
from rewards.code import CodeGrader, read_runs
from rewards.code_tests import code_tests
from rewards.explained import Explained
from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.bubblewrap import BubblewrapSandbox
from tests.waiting import PATIENCE_SECONDS

LIMITS = Limits(
    cpu_seconds=2.0,
    wall_seconds=30.0,
    memory_bytes=128 * 2**20,
    max_processes=16,
    output_bytes=2**16,
)
SUMS = {
    "tests": [
        {"stdin": "1 2\n", "stdout": "3\n"},
        {"stdin": "-5 5\n", "stdout": "0\n"},
        {"stdin": "10 20\n", "stdout": "30\n"},
        {"stdin": "7 0\n", "stdout": "7\n"},
    ]
}
RIGHT = "a, b = map(int, input().split())\nprint(a + b)"


@pytest.fixture
def grader() -> CodeGrader:
    try:
        sandbox = BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, programs are untested: {error}")
    return CodeGrader(sandbox, LIMITS, max_concurrent=2)


async def passed(grader: CodeGrader, source: str, truth: dict[str, object] = SUMS) -> float:
    graded = await grader.grade(source, truth)
    assert not isinstance(graded, Ungraded), graded
    assert graded["correct"] == float(graded["passed_fraction"] == 1.0)
    return graded["passed_fraction"]


@pytest.mark.parametrize(
    "source",
    [
        RIGHT,
        "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
        "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))",
        "print(sum(int(x) for x in open(0).read().split()))",
        "print(sum(map(int, open('/dev/stdin').read().split())))",
        "import sys, os\na, b = sys.stdin.buffer.read().split()\n"
        "os.write(1, b'%d' % (int(a) + int(b)))",
        "def main():\n    print(sum(map(int, input().split())))\n"
        "if __name__ == '__main__':\n    main()",
        RIGHT + "\nexit()",
        RIGHT + "\nimport sys\nsys.exit(0)",
        RIGHT + "\nprint()\nprint('  ')",
        "import threading\n"
        "t = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', '''" + RIGHT + "'''])",
        "import os\nout = os.fdopen(1, 'w')\nout.write(str(sum(map(int, input().split()))))",
        "import sys\nprint(sum(map(int, input().split())))\nsys.stdout.close()",
        "import io, sys\nclass Fast(io.IOBase):\n"
        "  def __init__(self): self.kept = ''\n"
        "  def write(self, text): self.kept += text\n"
        "  def flush(self): real.write(self.kept); real.flush(); self.kept = ''\n"
        "real, sys.stdout = sys.stdout, Fast()\nprint(sum(map(int, input().split())))",
        "import atexit\ns = sum(map(int, input().split()))\natexit.register(lambda: print(s))",
    ],
)
async def test_a_right_program_passes_all_tests(grader: CodeGrader, source: str) -> None:
    assert await passed(grader, source) == 1.0


@pytest.mark.parametrize(
    ("source", "fraction"),
    [
        ("print(3)", 0.25),
        ("a, b = map(int, input().split())\nprint(abs(a) + abs(b))", 0.75),
        ("print('3\\n0\\n30\\n7')", 0.0),
        (RIGHT + "\nraise SystemExit(1)", 0.0),
        (RIGHT + "\n1 / 0", 0.0),
        ("print(input())", 0.0),
        ("", 0.0),
        ("   \n", 0.0),
        ("this is no program", 0.0),
        ("print(1", 0.0),
        ("#include <stdio.h>\nint main() { return 0; }", 0.0),
        ("\x00", 0.0),
        ("x = 1\n" * 100_000, 0.0),
        ("a, b = map(int, input().split())\nif a == 10:\n  while True: pass\nprint(a + b)", 0.5),
        ("a, b = map(int, input().split())\nif a == 10: print('x' * 10**9)\nprint(a + b)", 0.75),
        ("a, b = map(int, input().split())\nwhile a == 10: print('x' * 99)\nprint(a + b)", 0.5),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", 0.0),
        ("x = [0] * 10**10\n" + RIGHT, 0.0),
    ],
)
async def test_other_programs_pass_what_they_get_right(
    grader: CodeGrader, source: str, fraction: float
) -> None:
    assert await passed(grader, source) == fraction


HACKS = {
    "kills the driver": "import os\nos.kill(os.getppid(), 9)",
    "kills itself": "import os\nos.kill(os.getpid(), 9)",
    "leaves without a word": "import os\nos._exit(0)",
    "compares equal to all": "class A:\n  def __eq__(s, o): return True\nprint(A())",
    "looks for the answers": (
        "import gc, sys\nfor o in gc.get_objects():\n"
        "  if isinstance(o, (bytes, str)) and o in (b'3\\n', '3\\n', '3'): print(o); break"
    ),
    "reads the driver": "print(open('/tmp/driver.py').read())",
    "forges frames on the inherited descriptors": (
        "import os\nfor fd in range(3, 20):\n"
        "  try: os.write(fd, b'0 0 2\\n3\\n1 0 2\\n0\\n')\n  except OSError: pass"
    ),
    "forges a frame in its output": "print('0 0 2\\n3\\n1 0 2\\n0\\n2 0 3\\n30\\n3 0 2\\n7\\n')",
    "patches exit codes": "import os\nos.waitstatus_to_exitcode = lambda s: 0\n1/0",
}


@pytest.mark.parametrize("name", list(HACKS))
async def test_a_hack_earns_nothing(grader: CodeGrader, name: str) -> None:
    assert await passed(grader, HACKS[name]) == 0.0


async def test_a_sleeping_program_is_wrong_and_costs_its_wall_time(grader: CodeGrader) -> None:
    grader = CodeGrader(
        BubblewrapSandbox(),
        Limits(**{n: getattr(LIMITS, n) for n in Limits.__slots__} | {"wall_seconds": 2.0}),
        max_concurrent=1,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await passed(grader, "import time\ntime.sleep(600)") == 0.0


async def test_a_long_right_answer_fits_whatever_the_output_limit(grader: CodeGrader) -> None:
    truth = {"tests": [{"stdin": "", "stdout": "x" * 300_000}]}
    assert await passed(grader, "print('x' * 300000)", truth) == 1.0


async def test_text_that_is_not_ascii_goes_in_and_out(grader: CodeGrader) -> None:
    truth = {"tests": [{"stdin": "größe 数\n", "stdout": "größe 数 é\n"}]}
    assert await passed(grader, "print(input(), 'é')", truth) == 1.0


@pytest.mark.parametrize(
    "truth", [{}, {"tests": []}, {"tests": "x"}, {"tests": [{"stdin": ""}]}, {"tests": [3]}]
)
async def test_tests_that_cannot_be_read_are_ungraded(
    grader: CodeGrader, truth: dict[str, object]
) -> None:
    assert isinstance(await grader.grade(RIGHT, truth), Ungraded)


class ScriptedSandbox:
    """Answers with prepared results, one a run."""

    def __init__(self, *results: ExecResult) -> None:
        self.results = list(results)

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        return self.results.pop(0)

    async def probe(self) -> tuple[str, ...]:
        return ()


def result(outcome: Outcome, *, stdout: bytes = b"", exit_code: int | None = None) -> ExecResult:
    return ExecResult(
        outcome=outcome,
        exit_code=exit_code,
        stdout=stdout,
        stderr=b"bwrap: the reason",
        cpu_seconds=0.0,
        wall_seconds=0.0,
    )


ALL_RIGHT = b"0 0 2\n3\n1 0 2\n0\n2 0 3\n30\n3 0 2\n7\n"
LOST = result(Outcome.LOST)
PASSES = result(Outcome.EXITED, stdout=ALL_RIGHT, exit_code=0)
KILLED = result(Outcome.EXITED, stdout=ALL_RIGHT[:8], exit_code=137)
TEST_KILLED = result(Outcome.EXITED, stdout=b"0 -9 0\n" + ALL_RIGHT[8:], exit_code=0)


def scripted(*results: ExecResult) -> tuple[CodeGrader, ScriptedSandbox]:
    sandbox = ScriptedSandbox(*results)
    return CodeGrader(sandbox, LIMITS, max_concurrent=1), sandbox


@pytest.mark.parametrize("first", [LOST, KILLED, TEST_KILLED])
async def test_a_run_that_was_lost_or_killed_is_tried_again(first: ExecResult) -> None:
    grader, sandbox = scripted(first, PASSES)
    assert await passed(grader, RIGHT) == 1.0
    assert not sandbox.results


async def test_a_sandbox_that_is_lost_twice_is_no_wrong_answer() -> None:
    grader, _ = scripted(LOST, LOST)
    graded = await grader.grade(RIGHT, SUMS)
    assert graded == Ungraded(cause="code: the sandbox was lost bwrap: the reason")


async def test_a_program_that_is_killed_every_time_did_it_itself() -> None:
    grader, _ = scripted(KILLED, TEST_KILLED, KILLED, KILLED)
    assert await passed(grader, RIGHT) == 0.25


async def test_who_loses_a_run_and_then_kills_the_program_costs_no_verdict() -> None:
    grader, sandbox = scripted(LOST, KILLED, KILLED, PASSES)
    assert await passed(grader, RIGHT) == 1.0
    assert not sandbox.results


@pytest.mark.parametrize(
    "outcome", [Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY, Outcome.OUTPUT_LIMIT]
)
async def test_what_a_program_did_to_itself_is_not_tried_again(outcome: Outcome) -> None:
    grader, sandbox = scripted(result(outcome, stdout=ALL_RIGHT[:8]), PASSES)
    assert await passed(grader, RIGHT) == 0.25
    assert len(sandbox.results) == 1


@pytest.mark.parametrize(
    ("stdout", "runs"),
    [
        (b"", {}),
        (b"0 0 2\n3\n", {0: (0, b"3\n")}),
        (b"0 -9 0\n1 1 1\nx", {0: (-9, b""), 1: (1, b"x")}),
        (b"0 0 5\n3\n", {}),  # cut
        (
            b"0 0 1\n30 0 1\n4",
            {
                0: (0, b"3"),
            },
        ),  # the second is of test 0 again
        (b"garbage0 0 1\n3", {}),
        (b"0 0 1\n3garbage", {0: (0, b"3")}),
        (b"0 0 99999999999999\n3", {}),
    ],
)
def test_frames_are_read_up_to_what_is_none(stdout: bytes, runs: dict[int, object]) -> None:
    assert read_runs(stdout) == runs


@pytest.mark.parametrize(
    ("output", "expected", "is_pass"),
    [
        (b"3", "3\n", True),
        (b"3 \n\n", "3", True),
        (b"1\r\n2", "1\n2\n", True),
        (b" 3", "3", False),
        (b"1\n\n2", "1\n2", False),
        (b"", "", True),
        (b"\xff", "?", False),
        (b"3.0", "3", False),
    ],
)
def test_outputs_are_compared_line_by_line_without_trailing_space(
    output: bytes, expected: str, is_pass: bool
) -> None:
    tests = code_tests({"tests": [{"stdin": "", "stdout": expected}]})
    assert tests.expects(0, output) is is_pass


async def test_what_failed_is_told_with_what_it_put_out() -> None:
    stdout = b"0 0 2\n3\n1 0 2\n9\n2 1 0\n\n"
    sandbox = ScriptedSandbox(result(Outcome.TIMED_OUT, stdout=stdout))
    graded = await CodeGrader(sandbox, LIMITS, max_concurrent=1).explain(RIGHT, SUMS)
    assert isinstance(graded, Explained)
    assert graded.parts == {"correct": 0.0, "passed_fraction": 0.25}
    assert graded.output.splitlines() == [
        "3 of 4 tests failed; the run: timed_out",
        "test 2: exit code 0, output: 9",
        "test 3: exit code 1, output: (none)",
        "test 4: did not end, output: (none)",
        "stderr: bwrap: the reason",
    ]


async def test_where_all_is_right_there_is_nothing_to_tell() -> None:
    grader = CodeGrader(ScriptedSandbox(PASSES), LIMITS, max_concurrent=1)
    assert await grader.explain(RIGHT, SUMS) == Explained(
        parts={"correct": 1.0, "passed_fraction": 1.0}
    )
