"""Parts of a grading together with what the sandbox said, for people who look at a rollout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MOST_CHARACTERS = 2000
"""Of an output; the middle of a longer one is left out."""

_MOST_TESTS = 3
_MOST_OF_A_TEST = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What a judge found, and why.

    Attributes:
        parts: Named parts of the grading.
        output: Why it is not right, at most `MOST_CHARACTERS`; empty where there is nothing to say.
    """

    parts: Mapping[str, float]
    output: str = ""


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text without its middle, where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    half = (most - 8) // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def failed_tests(
    failed: Sequence[tuple[int, int | None, bytes]],
    num_tests: int,
    *,
    outcome: str,
    stderr: bytes,
) -> str:
    """Say which tests of a program failed, and what the first few of them put out.

    Args:
        failed: Number, exit code (None where it never ended) and output of each failed test.
        num_tests: Tests in all.
        outcome: How the sandbox's run of all tests ended.
        stderr: What all tests together wrote to it.
    """
    if not failed:
        return ""
    head = f"{len(failed)} of {num_tests} tests failed; the run: {outcome}"
    return shortened("\n".join([head, *_lines(failed, stderr)]))


def _lines(failed: Sequence[tuple[int, int | None, bytes]], stderr: bytes) -> Iterator[str]:
    for number, code, output in failed[:_MOST_TESTS]:
        end = "did not end" if code is None else f"exit code {code}"
        text = shortened(output.decode(errors="replace").strip(), _MOST_OF_A_TEST)
        yield f"test {number + 1}: {end}, output: {text or '(none)'}"
    if said := stderr.decode(errors="replace").strip():
        yield f"stderr: {said}"
