"""Values across the sandbox's border, and how results are compared."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.values import decode, encode, equal

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner)
        | st.sets(st.integers() | st.text()).map(frozenset)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_values_come_back_as_they_were(value: object) -> None:
    returned = decode(json.loads(json.dumps(encode(value))))
    assert returned == value
    assert type(returned) is type(value)


def test_what_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError, match="generator"):
        encode(x for x in [1])


@pytest.mark.parametrize(
    "encoded",
    [
        {":what": 1},
        {":tuple": 1},
        {":set": [[1]]},
        {":bytes": "zz"},
        {":float": "x"},
        {":dict": [1]},
    ],
)
def test_what_no_encoder_writes_is_refused(encoded: object) -> None:
    with pytest.raises(ValueError, match=r"holds|there is|fromhex|float|invalid"):
        decode(encoded)


@pytest.mark.parametrize(
    ("result", "expected", "is_equal"),
    [
        (1, 1, True),
        (1.0, 1, True),
        (True, 1, True),
        (0, False, True),
        (True, True, True),
        ((1, 2), [1, 2], True),
        ([1, 2], (1, 2), False),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        (frozenset({1}), frozenset({1}), True),
        (math.nan, math.nan, True),
        ("1", 1, False),
        (None, None, True),
        (0.1 + 0.2, 0.3, False),
    ],
)
def test_results_are_compared_as_python_does_but_for_lists(
    result: Any, expected: Any, is_equal: bool
) -> None:
    assert equal(result, expected) is is_equal


def test_a_tolerance_is_absolute_or_relative() -> None:
    assert equal([0.1 + 0.2], [0.3], tolerance=1e-9)
    assert equal(1e12 + 1, 1e12, tolerance=1e-9)
    assert not equal(1.1, 1.0, tolerance=1e-2)
    assert not equal(10**400, 0.5, tolerance=1e-6)  # no float is that large
    assert equal(10**400, 10**400, tolerance=1e-6)
