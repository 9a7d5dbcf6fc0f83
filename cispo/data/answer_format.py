"""The form of an answer in supervised data: a thought between tags, then the answer."""

from collections.abc import Sequence


def with_thought(steps: Sequence[str], answer: str) -> str:
    """Write `<think>`, the steps, one a line, `</think>` and the answer."""
    return "\n".join(["<think>", *steps, "</think>", answer])


def without_thought(solution: str) -> str:
    """Keep the answer of a worked solution and empty its thought."""
    return with_thought((), solution.rpartition("</think>")[2].strip())
