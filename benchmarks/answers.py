"""Tasks and rollouts whose verdicts are known beforehand; a part of other benchmarks."""

from collections.abc import Mapping

from cispo.types import Message, PolicyVersion, Rollout, StopReason, Task

ADDER = """```python
import time
a, b = map(int, input().split())
time.sleep({pause})
print(a + b + {off_by})
```"""


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


def program(
    name: str, *, off_by: int, num_tests: int, first: int = 0, pause: float = 0.0
) -> tuple[Task, Rollout]:
    """Return a task to add two numbers with a program that is off by something.

    Args:
        name: Of the task.
        off_by: What the program adds too much.
        num_tests: Tests of the task.
        first: The first number of the first test.
        pause: Seconds that the program sleeps in each test.
    """
    numbers = range(first, first + num_tests)
    tests = [{"stdin": f"{n} 1\n", "stdout": f"{n + 1}\n"} for n in numbers]
    text = ADDER.format(off_by=off_by, pause=pause)
    return answered(name, "code", {"tests": tests}, text)
