"""What a maker of long prompts returns."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A conversation that ends with a question.

    Attributes:
        messages: Texts of the user and the assistant in turn; the user begins and ends.
        truth: For the verifier `recall`.
        answer: A right answer.
    """

    messages: tuple[str, ...]
    truth: Mapping[str, object]
    answer: str
