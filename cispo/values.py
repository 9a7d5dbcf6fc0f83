"""Plain Python values as JSON and back, so that a result can be compared outside the sandbox.

JSON has no tuples, sets, byte strings, infinities or dictionaries with other keys than text; those
are objects with one key that starts with a colon. This source is also sent into the sandbox, so it
needs the standard library alone.
"""

import math

_TUPLE, _SET, _BYTES, _DICT, _FLOAT, _COMPLEX = ":tuple", ":set", ":bytes", ":dict", ":float", ":c"


def encode(value: object) -> object:
    """Return what `json.dumps` writes for a value made of Python's own types.

    Raises:
        TypeError: A part of it is something else.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {_FLOAT: repr(value)}
        case complex():
            return {_COMPLEX: [encode(value.real), encode(value.imag)]}
        case bytes() | bytearray():
            return {_BYTES: value.hex()}
        case list():
            return [encode(item) for item in value]
        case tuple():
            return {_TUPLE: [encode(item) for item in value]}
        case set() | frozenset():
            return {_SET: [encode(item) for item in value]}
        case dict():
            if all(isinstance(key, str) and not key.startswith(":") for key in value):
                return {key: encode(item) for key, item in value.items()}
            return {_DICT: [[encode(key), encode(item)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__} is not made of Python's own types")


def decode(encoded: object) -> object:
    """Return the value that `encode` was given; sets come back as frozen sets.

    Raises:
        ValueError: It is not what `encode` returns.
    """
    if isinstance(encoded, list):
        return [decode(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    tag = next(iter(encoded), "")
    if len(encoded) != 1 or not tag.startswith(":"):
        return {key: decode(item) for key, item in encoded.items()}
    content = encoded[tag]
    try:
        match tag:
            case ":tuple":
                return tuple(decode(item) for item in content)
            case ":set":
                return frozenset(decode(item) for item in content)
            case ":bytes":
                return bytes.fromhex(content)
            case ":float":
                return float(content)
            case ":c":
                real, imag = (float(decode(part)) for part in content)  # type: ignore[arg-type]
                return complex(real, imag)
            case ":dict":
                return {decode(key): decode(item) for key, item in content}
    except TypeError as error:
        raise ValueError(f"{tag} holds {content!r}") from error
    raise ValueError(f"there is no {tag}")


def equal(result: object, expected: object, *, tolerance: float = 0.0) -> bool:
    """Whether a result is what was expected.

    An expected list also accepts a tuple, because many data sets hold JSON, which has no tuples; an
    expected tuple accepts no list.

    Args:
        result: Of the program.
        expected: Of the task.
        tolerance: By how much floats may differ, absolutely or relatively.
    """
    if isinstance(expected, (list, tuple)):
        kinds = (list, tuple) if isinstance(expected, list) else (tuple,)
        return (
            isinstance(result, kinds)
            and len(result) == len(expected)
            and all(equal(r, e, tolerance=tolerance) for r, e in zip(result, expected, strict=True))
        )
    if isinstance(expected, dict):
        return (
            isinstance(result, dict)
            and result.keys() == expected.keys()
            and all(equal(result[key], expected[key], tolerance=tolerance) for key in expected)
        )
    if isinstance(expected, (int, float)) and isinstance(result, (int, float)):
        both_nan = expected != expected and result != result
        return result == expected or both_nan or _is_near(result, expected, tolerance)
    return result == expected


def _is_near(result: float, expected: float, tolerance: float) -> bool:
    try:
        return tolerance > 0 and math.isclose(
            result, expected, rel_tol=tolerance, abs_tol=tolerance
        )
    except OverflowError:  # an integer beyond all floats
        return False
