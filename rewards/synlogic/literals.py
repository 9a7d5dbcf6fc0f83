"""Data in a model's answer: the last fenced block or nested list, read as JSON or as literals."""

import ast
import json
import re

_FENCED = re.compile(r"```[a-zA-Z0-9]*\s*\n?(.*?)```", re.DOTALL)
_MAX_CHARACTERS = 16_384


def last_block(answer: str) -> str:
    """Return the last fenced block, or the whole answer where there is none."""
    blocks = _FENCED.findall(answer)
    return str(blocks[-1]).strip() if blocks else answer.strip()


def last_brackets(answer: str) -> str | None:
    """Return what stands between the last `[[` and the `]]` after it."""
    before, closes, _ = answer.rpartition("]]")
    _, opens, inside = before.rpartition("[[")
    return inside.strip() if opens and closes else None


def read_literal(text: str) -> object:
    """Return the lists, tuples, dictionaries, numbers and texts that a text writes down.

    Raises:
        ValueError: It is something else; nothing of it is run.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"longer than {_MAX_CHARACTERS} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        literal: object = ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("no literal") from error
    return literal
