"""Reads the fields of a JSON object one by one, each with its type and range."""

import difflib
import json
from collections.abc import Collection, Mapping
from typing import TypeVar, overload

from rollout.server.errors import bad_request

T = TypeVar("T")


def parse_object(data: bytes) -> Mapping[str, object]:
    """Read the body of a request.

    Raises:
        ApiError: It is no JSON object.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}", param=None) from error
    if not isinstance(body, dict):
        raise bad_request("the body is not a JSON object", param=None)
    return body


class Fields:
    """The fields of an object; null counts as absent, as clients send it for what they leave out.

    Every method raises an `ApiError` that names the field if its value does not fit.

    Args:
        body: The object.
        path: Where it stands in the request, for messages; for example `"messages[0]."`.
    """

    def __init__(self, body: Mapping[str, object], *, path: str = "") -> None:
        self._body = body
        self._path = path
        self._read: set[str] = set()

    def get(self, name: str) -> object:
        """Return a field of any type, None where absent."""
        self._read.add(name)
        return self._body.get(name)

    def text(self, name: str) -> str | None:
        """Return a text."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(name, "must be a string")
        return self.encodable(name, value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    @overload
    def integer(self, name: str, default: int, *, low: int, high: int) -> int: ...
    @overload
    def integer(self, name: str, default: None, *, low: int, high: int) -> int | None: ...
    def integer(self, name: str, default: int | None, *, low: int, high: int) -> int | None:
        """Return a whole number in low .. high."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"must be a whole number in {low} .. {high}")
        return value

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """Return a number in low .. high."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise self.error(name, f"must be a number in {low:g} .. {high:g}")

    def items(self, name: str) -> list[object]:
        """Return a list, empty where absent."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(name, "must be a list")
        return value

    def nested(self, name: str) -> "Fields | None":
        """Return an object's fields."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, "must be an object")
        return Fields(value, path=f"{self._path}{name}.")

    def only(self, name: str, *allowed: object, reason: str) -> None:
        """Accept a field only where its value asks for nothing."""
        value = self.get(name)
        if value is not None and value not in allowed:
            raise self.error(name, f"is not supported: {reason}")

    def refuse_unread(self, harmless: Collection[str]) -> None:
        """Refuse fields that nothing has read; a misspelt one must not be without effect."""
        for name in self._body:
            if name not in self._read and name not in harmless:
                near = difflib.get_close_matches(name, self._read, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise self.error(name, f"is not a field that this server knows{hint}")

    def encodable(self, name: str, text: str) -> str:
        """Refuse text with half a surrogate pair, which JSON can express and UTF-8 cannot."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.error(name, f"is not valid Unicode: {error.reason}") from error
        return text

    def error(self, name: str, advice: str) -> Exception:
        """Return the error of a field's value."""
        full = f"{self._path}{name}"
        value = self._body.get(name)
        shown = "" if value is None else f"={_shown(value)}"
        return bad_request(f"{full}{shown} {advice}", param=full)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
