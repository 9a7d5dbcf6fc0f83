"""How a program, its limits and its result travel between hosts: JSON, with bytes in base64."""

import base64
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from sandboxes.base import ExecResult, Limits, Outcome, Program

_COUNTS = ("memory_bytes", "max_processes", "output_bytes", "tmp_bytes")


class BadRequestError(ValueError):
    """What came is not a request, or not a result; the message says which field."""


def encode_request(program: Program, limits: Limits) -> bytes:
    """Return a request as `decode_request` reads it."""
    return json.dumps(request_document(program, limits)).encode()


def request_document(program: Program, limits: Limits) -> dict[str, Any]:
    """Return a request as `request_from` reads it, which can be a part of something larger."""
    return {
        "program": {
            "argv": program.argv,
            "stdin": as_text(program.stdin),
            "files": {name: as_text(content) for name, content in program.files.items()},
        },
        "limits": dataclasses.asdict(limits),
    }


def decode_request(data: bytes) -> tuple[Program, Limits]:
    """Read a request.

    Raises:
        BadRequestError: A field is missing or has a value that it cannot have.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise BadRequestError(f"not a request: {error!r}") from error
    return request_from(document)


def request_from(document: Mapping[str, Any]) -> tuple[Program, Limits]:
    """Read a request that is JSON no more; see `decode_request`."""
    try:
        given = document["program"]
        program = Program(
            argv=tuple(map(_string, given["argv"])),
            stdin=as_bytes(given["stdin"]),
            files={_string(name): as_bytes(text) for name, text in given["files"].items()},
        )
        limits = decode_limits(document["limits"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequestError(f"not a request: {error!r}") from error
    return program, limits


def decode_limits(document: Mapping[str, Any]) -> Limits:
    """Read limits.

    Raises:
        ValueError: One has a value that it cannot have.
        KeyError: One is missing.
    """
    return Limits(**{name: _number(name, document[name]) for name in _LIMITS})


def encode_result(result: ExecResult) -> bytes:
    """Return a result as `decode_result` reads it."""
    return json.dumps(result_document(result)).encode()


def result_document(result: ExecResult) -> dict[str, Any]:
    """Return a result as `result_from` reads it, which can be a part of something larger."""
    return {
        "outcome": result.outcome,
        "exit_code": result.exit_code,
        "stdout": as_text(result.stdout),
        "stderr": as_text(result.stderr),
        "cpu_seconds": result.cpu_seconds,
        "wall_seconds": result.wall_seconds,
    }


def decode_result(data: bytes) -> ExecResult:
    """Read a result.

    Raises:
        BadRequestError: A field is missing or has a value that it cannot have.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise BadRequestError(f"not a result: {error!r}") from error
    return result_from(document)


def result_from(document: Mapping[str, Any]) -> ExecResult:
    """Read a result that is JSON no more; see `decode_result`."""
    try:
        exit_code = document["exit_code"]
        return ExecResult(
            outcome=Outcome(document["outcome"]),
            exit_code=None if exit_code is None else int(exit_code),
            stdout=as_bytes(document["stdout"]),
            stderr=as_bytes(document["stderr"]),
            cpu_seconds=float(document["cpu_seconds"]),
            wall_seconds=float(document["wall_seconds"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequestError(f"not a result: {error!r}") from error


_LIMITS = tuple(field.name for field in dataclasses.fields(Limits))


def _number(name: str, value: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRequestError(f"limit {name} is {value!r}; it must be a number")
    return int(value) if name in _COUNTS else float(value)


def _string(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise BadRequestError(f"{value!r} is no text without NUL")
    return value


def as_text(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode()


def as_bytes(text: str) -> bytes:
    """Read what `as_text` wrote.

    Raises:
        ValueError: It is no base64.
    """
    return base64.b64decode(text, validate=True)
