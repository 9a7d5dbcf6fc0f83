"""Tasks and rollouts whose verdicts are known beforehand; a part of other benchmarks."""

from collections.abc import Mapping

from cispo.types import Message, PolicyVersion, Rollout, StopReason, Task

ADDER = "```python\na, b = map(int, input().split())\nprint(a + b + {off_by})\n```"


def answered(
    name: str, verifier: str, truth: Mapping[str, object], text: str
) -> tuple[Task, Rollout]:
    """Return a task, and a rollout of two tokens that says `text` after an empty thought."""
    task = Task(
        task_id=name,
        messages=(Message(role="user", content="?"),),
        verifier=verifier,
        truth=truth,
    )
    rollout = Rollout(
        task_id=name,
        token_ids=[0, 1],
        action_mask=[False, True],
        behaviour_logprobs=[0.0, 0.0],
        text=f"<think>.</think>{text}",
        stop_reason=StopReason.END_OF_TURN,
        oldest_version=PolicyVersion(1),
        newest_version=PolicyVersion(1),
    )
    return task, rollout


def boxed(name: str, answer: str, reference: str) -> tuple[Task, Rollout]:
    """Return a mathematical task with an answer in a box."""
    return answered(name, "math", {"answer": reference}, rf"\boxed{{{answer}}}")


def program(name: str, *, off_by: int, num_tests: int, first: int = 0) -> tuple[Task, Rollout]:
    """Return a task to add two numbers with a program that is off by something."""
    numbers = range(first, first + num_tests)
    tests = [{"stdin": f"{n} 1\n", "stdout": f"{n + 1}\n"} for n in numbers]
    return answered(name, "code", {"tests": tests}, ADDER.format(off_by=off_by))
