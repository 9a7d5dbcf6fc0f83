"""`launch.score` as a user calls it."""

import json
from pathlib import Path

import pytest

from tests.launch.commands import call, check_refused, launch


def test_a_file_of_answers_is_scored_and_summed_up(tmp_path: Path) -> None:
    rows = [
        {"task_id": "half", "response": r"<think>so</think>\boxed{\frac{1}{2}}", "truth": "0.5"},
        {"task_id": "half", "response": r"\boxed{2}", "truth": {"answer": "0.5"}},
        {"task_id": "bad", "response": r"\boxed{2}", "truth": {}},
    ]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = launch("verifier=math", f"input={source}", f"output={output}", command="score")
    assert ran.returncode == 0, ran.stderr
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["verdict"] for row in written] == ["graded", "graded", "ungraded"]
    assert [row["reward"] for row in written[:2]] == [1.0, 0.0]
    assert "graded 2, right 1 (50.0%), mean reward 0.5000" in ran.stdout
    assert "ungraded 1:" in ran.stdout


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["verifier=maths", "input=a", "output=b"], "there is no such verifier; choose"),
        (["verifier=math", "input=no.jsonl", "output=b"], "input=no.jsonl: no such file"),
        (["verifier=math", "input=a", "output=a"], "must be another file"),
        (["verifier=math", "input=a"], "output: has no value"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(overrides: list[str], words: str) -> None:
    check_refused(call(*overrides, command="score"), words)
