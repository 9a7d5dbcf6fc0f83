"""How workspaces travel between hosts: JSON messages, with bytes in base64."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sandboxes.base import Limits, Program
from sandboxes.wire import (
    BadRequestError,
    as_bytes,
    as_text,
    decode_limits,
    request_document,
    request_from,
    result_document,
    result_from,
)
from sandboxes.workspace import Change, ChangeKind, Ran


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a workspace is made of, where it travels.

    Attributes:
        base: Name of the contents of its base, see `sandboxes.trees`.
        trees: Names of the contents of folders, by their place in the jail.
        files: Contents of files by their place.
        environment: As of `sandboxes.workspace.Workspace`.
        write_bytes: As there.
        max_files: As there.
        limits: Of the session.
    """

    base: str
    trees: Mapping[str, str]
    files: Mapping[str, bytes]
    environment: Mapping[str, str]
    write_bytes: int
    max_files: int
    limits: Limits


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a session is asked to run."""

    program: Program
    limits: Limits
    cwd: str
    environment: Mapping[str, str]
    result_bytes: int


def encode_opening(opening: Opening) -> str:
    """Return it as `decode_opening` reads it."""
    document = dataclasses.asdict(opening)
    document["files"] = {place: as_text(content) for place, content in opening.files.items()}
    return json.dumps(document)


def decode_opening(data: str) -> Opening:
    """Read an opening.

    Raises:
        BadRequestError: A field is missing or has a value that it cannot have.
    """
    try:
        document: Mapping[str, Any] = json.loads(data)
        return Opening(
            base=str(document["base"]),
            trees=_texts(document["trees"]),
            files={place: as_bytes(text) for place, text in _texts(document["files"]).items()},
            environment=_texts(document["environment"]),
            write_bytes=int(document["write_bytes"]),
            max_files=int(document["max_files"]),
            limits=decode_limits(document["limits"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequestError(f"not a workspace: {error!r}") from error


def encode_order(order: Order) -> str:
    """Return it as `decode_order` reads it."""
    document = request_document(order.program, order.limits) | {
        "do": "run",
        "cwd": order.cwd,
        "environment": dict(order.environment),
        "result_bytes": order.result_bytes,
    }
    return json.dumps(document)


def decode_order(document: Mapping[str, Any]) -> Order:
    """Read an order.

    Raises:
        BadRequestError: A field is missing or has a value that it cannot have.
    """
    program, limits = request_from(document)
    try:
        return Order(
            program=program,
            limits=limits,
            cwd=str(document["cwd"]),
            environment=_texts(document["environment"]),
            result_bytes=int(document["result_bytes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequestError(f"not an order: {error!r}") from error


def encode_ran(ran: Ran) -> str:
    """Return it as `decode_ran` reads it."""
    return json.dumps({"result": result_document(ran.result), "private": as_text(ran.private)})


def decode_ran(document: Mapping[str, Any]) -> Ran:
    """Read what a program did.

    Raises:
        BadRequestError: A field is missing or has a value that it cannot have.
    """
    try:
        result = result_from(document["result"])
        return Ran(result=result, private=as_bytes(document["private"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequestError(f"not a result: {error!r}") from error


def encode_changes(changes: tuple[Change, ...]) -> str:
    """Return them as `decode_changes` reads them."""
    rows = [[c.path, c.kind, c.mode, as_text(c.content)] for c in changes]
    return json.dumps({"changes": rows})


def decode_changes(document: Mapping[str, Any]) -> tuple[Change, ...]:
    """Read changes.

    Raises:
        BadRequestError: A field is missing or has a value that it cannot have.
    """
    try:
        return tuple(
            Change(path=str(path), kind=ChangeKind(kind), mode=int(mode), content=as_bytes(content))
            for path, kind, mode, content in document["changes"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequestError(f"no changes: {error!r}") from error


def _texts(value: Mapping[Any, Any]) -> dict[str, str]:
    if not all(isinstance(word, str) for pair in value.items() for word in pair):
        raise BadRequestError(f"{value!r} holds something else than texts")
    return dict(value)
