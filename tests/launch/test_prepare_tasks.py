"""Tasks are screened, their references checked and their pass rates measured, by one command."""

import json
from pathlib import Path

from tests.launch.commands import call, check_refused

PROBLEMS = [
    ("What is the sum of the first ten odd numbers?", "100"),
    ("what is the SUM of the first ten odd numbers", "100"),
    ("How many legs do three cats and two birds have in all, if none is lame?", "16"),
    ("What is the product of the digits of 1234?", "24"),
    ("Name the smallest prime number.", r"\boxed{"),
    ("Is 91 a prime number?", "No"),
]
EXAM = "Think: how many legs do three cats and two birds have in all, if none is lame?"


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tasks_are_screened_and_measured_and_those_removed_are_kept_with_the_reason(
    tmp_path: Path,
) -> None:
    problems = write(
        tmp_path / "problems.jsonl", [{"problem": p, "answer": a} for p, a in PROBLEMS]
    )
    (tmp_path / "math").mkdir()
    write(tmp_path / "math" / "aime24.jsonl", [{"problem": EXAM, "answer": "16"}])
    responses = [("1", r"\boxed{100}"), ("1", r"\boxed{99}"), ("4", r"\boxed{24}"), ("4", "24")]
    answers = write(
        tmp_path / "answers.jsonl",
        [{"task_id": f"problems/{number}", "response": text} for number, text in responses],
    )
    output = tmp_path / "clean.jsonl"
    arguments = (
        "tasks",
        f"tasks.path={problems}",
        f"output={output}",
        "evaluation_set=[aime24]",
        f"data={tmp_path}",
        f"answers={answers}",
        "num_rollouts=2",
        "sandbox.max_concurrent=1",
    )
    ran = call(*arguments, command="prepare")
    assert ran.returncode == 0, ran.stderr
    kept = read(output)
    assert [(row["task_id"], row["pass_rate"]) for row in kept] == [
        ("problems/1", 0.5),
        ("problems/4", 1.0),
    ]
    removed = {row["task_id"]: row["reason"] for row in read(tmp_path / "clean.removed.jsonl")}
    assert removed == {
        "problems/2": "duplicate",
        "problems/3": "contaminated",
        "problems/5": "unreadable_answer",
        "problems/6": "yes_no",
    }
    table = [line.split() for line in ran.stdout.splitlines()]
    assert ["read", "6", "6"] in table
    assert ["pass", "rate", "in", "(0,", "0.9)", "1", "1"] in table
    check_refused(call(*arguments, command="prepare"), f"output={output}", "overwrite=true")
