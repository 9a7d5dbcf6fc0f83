"""Scoring a file: order, resumption, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from cispo.errors import ConfigError, TaskFileError
from cispo.types import Graded, Rollout, Task, Ungraded, Verdict
from rewards.offline import Case, Tally, read_cases, score_cases


class Lengths:
    """Gives the length of the text as the reward, and nothing for texts that say so."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        self.asked.append(task.task_id)
        if rollout.text == "broken":
            raise OverflowError("int too large")
        if rollout.text == "lost":
            return Ungraded(cause="the sandbox was lost")
        is_right = float(rollout.text == task.truth["answer"])
        return Graded(reward=float(len(rollout.text)), parts={"correct": is_right})


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def case(name: str, response: str = "a", truth: Any = "a") -> dict[str, Any]:
    return {"task_id": name, "response": response, "truth": truth}


async def score(cases: list[Case], output: Path, verifier: Lengths) -> Tally:
    return await score_cases(
        verifier, cases, output, name="x", max_concurrent=3, advance=lambda count: None
    )


async def test_verdicts_come_in_the_input_s_order_with_a_tally(tmp_path: Path) -> None:
    rows = [case("a"), case("b", "bb"), case("c", "lost"), *(case(f"d{i}") for i in range(9))]
    cases = read_cases(write(tmp_path / "in.jsonl", *rows))
    tally = await score(cases, tmp_path / "out.jsonl", Lengths())
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in written] == [row["task_id"] for row in rows]
    assert written[1]["reward"] == 2.0
    assert written[2] | {"seconds": 0} == {
        "line": 3,
        "task_id": "c",
        "verdict": "ungraded",
        "cause": "the sandbox was lost",
        "seconds": 0,
    }
    assert (tally.graded, tally.correct, tally.reward_sum) == (11, 10, 12.0)
    assert "ungraded 1: the sandbox was lost" in tally.lines()


async def test_a_case_that_the_verifier_cannot_stand_is_ungraded_and_ends_nothing(
    tmp_path: Path,
) -> None:
    rows = [case("a"), case("b", "broken"), case("c")]
    cases = read_cases(write(tmp_path / "in.jsonl", *rows))
    tally = await score(cases, tmp_path / "out.jsonl", Lengths())
    assert tally.graded == 2
    assert tally.causes == {"the verifier failed: OverflowError('int too large')": 1}


async def test_a_second_call_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    cases = read_cases(write(tmp_path / "in.jsonl", *(case(f"t{i}") for i in range(6))))
    output = tmp_path / "out.jsonl"
    await score(cases, output, Lengths())
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:4]) + lines[4][:10])
    verifier = Lengths()
    tally = await score(cases, output, verifier)
    assert verifier.asked == ["t4", "t5"]
    assert (tally.graded, tally.new) == (6, 2)
    kept = [json.loads(line)["task_id"] for line in output.read_text().splitlines()]
    assert kept == [f"t{i}" for i in range(6)]


async def test_the_output_of_another_input_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    await score(read_cases(write(tmp_path / "a.jsonl", case("a"))), output, Lengths())
    with pytest.raises(ConfigError, match="overwrite=true"):
        await score(read_cases(write(tmp_path / "b.jsonl", case("b"))), output, Lengths())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"task_id": "a", "response": "x"}, "line 2: lacks truth"),
        ({"task_id": "a", "response": 3, "truth": "x"}, "line 2: 'response' must be text"),
        ({"task_id": "a", "response": "x", "truth": [1]}, "line 2: 'truth' must be"),
        ({**case("a"), "num_tokens": 0}, "line 2: 'num_tokens'"),
        ({**case("a"), "num_tokens": 10**12}, "line 2: 'num_tokens'"),
        ({**case("a"), "num_tokens": True}, "line 2: 'num_tokens'"),
        ([1], "line 2: a case is a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(TaskFileError, match=words):
        read_cases(write(tmp_path / "in.jsonl", case("fine"), row))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"task_id": ', "line 2: not JSON"),
        (b"[" * 100_000, "line 2: not JSON that can be read"),
        (b'{"task_id": 1, "response": "", "truth": ' + b"1" * 5000 + b"}", "line 2: not JSON"),
        (b'{"task_id": "\xff"}', "line 2: not UTF-8"),
    ],
)
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    path = write(tmp_path / "in.jsonl", case("fine"))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(TaskFileError, match=words):
        read_cases(path)


def test_a_mark_at_the_start_empty_lines_and_long_line_ends_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", case("a"), case("b"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert [(one.line, one.task_id) for one in read_cases(path)] == [(1, "a"), (3, "b")]


@pytest.mark.parametrize(
    ("truth", "read"),
    [
        ("4", {"answer": "4"}),
        (0.5, {"answer": "0.5"}),
        (["4", "four"], {"answer": ["4", "four"]}),
        (None, {"answer": None}),
        ({"tests": []}, {"tests": []}),
    ],
)
def test_a_truth_may_be_an_answer_alone(tmp_path: Path, truth: Any, read: Any) -> None:
    assert read_cases(write(tmp_path / "in.jsonl", case("a", truth=truth)))[0].truth == read


async def test_names_that_no_encoding_has_come_back_as_they_were(tmp_path: Path) -> None:
    cases = read_cases(
        write(tmp_path / "in.jsonl", case("half \ud800"), case("same"), case("same"))
    )
    output = tmp_path / "out.jsonl"
    await score(cases, output, Lengths())
    tally = await score(cases, output, Lengths())
    assert (tally.graded, tally.new) == (3, 0)
    assert json.loads(output.read_text().splitlines()[0])["task_id"] == "half \ud800"


async def test_an_output_that_holds_no_verdicts_is_refused(tmp_path: Path) -> None:
    cases = read_cases(write(tmp_path / "in.jsonl", case("a")))
    (tmp_path / "out.jsonl").write_text("my notes\n")
    with pytest.raises(ConfigError, match="no verdict"):
        await score(cases, tmp_path / "out.jsonl", Lengths())
    assert (tmp_path / "out.jsonl").read_text() == "my notes\n"


def test_no_file_and_no_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match="no such file"):
        read_cases(tmp_path / "none.jsonl")
    with pytest.raises(TaskFileError, match="holds no case"):
        read_cases(write(tmp_path / "in.jsonl"))
