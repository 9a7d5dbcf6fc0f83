"""The reference of all settings: what is read from a schema, and that the page is up to date."""

from dataclasses import dataclass, field

import pytest

from cispo.config.described import Key, keys
from cispo.config.reference import reference_page
from cispo.config.require import require
from launch.reference import PAGE, page

SIZES = (1, 2)


@dataclass(slots=True, kw_only=True)
class Inner:
    """Below.

    Attributes:
        size: How much; a meaning
            on two lines.
    """

    size: int = 1

    def __post_init__(self) -> None:
        require(self.size in SIZES, "inner.size", self.size, f"choose one of {SIZES}")


@dataclass(slots=True, kw_only=True)
class Outer:
    """Above.

    Attributes:
        low: At least.
        high: At most.
        names: Some.
    """

    low: int
    high: float = 2.0
    names: list[str] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    many: dict[str, Inner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("low", "high"):
            require(getattr(self, key) > 0, key, getattr(self, key), "must be > 0")
        self._check()

    def _check(self) -> None:
        require(self.low < self.high, "low", self.low, f"must be below high={self.high:g}")


def test_keys_have_types_defaults_meanings_and_what_is_refused() -> None:
    low, high, names, inner, many = keys(Outer)
    assert low == Key(
        name="low",
        kind="int",
        default="",
        meaning="At least.",
        advice=["must be > 0", "must be below high"],
        below=None,
    )
    assert (high.default, high.advice) == ("2.0", ["must be > 0"])
    assert (names.kind, names.default) == ("list[str]", "[]")
    assert (inner.below, many.below, inner.meaning) == (Inner, Inner, "Below.")
    (size,) = keys(Inner)
    assert size.meaning == "How much; a meaning on two lines."
    assert size.advice == ["choose one of (1, 2)"]


def test_a_key_without_a_meaning_and_a_meaning_without_a_key_are_errors() -> None:
    @dataclass
    class Bare:
        """Nothing said.

        Attributes:
            other: Not there.
        """

        size: int = 1

    with pytest.raises(ValueError, match=r"Bare.*\['size', 'other'\]"):
        keys(Bare)


def test_a_schema_stands_once_with_all_its_places() -> None:
    text = reference_page({"outer": Outer}, {"group": {"one": "a | b"}}, base="outer")
    assert text.count("### Inner") == 1
    assert "At `inner`, `many.NAME`." in text
    assert "| `low` | `int` | must be set | At least. | must be > 0; must be below high |" in text
    assert "| `group` | `one` | a \\| b |" in text


def test_the_page_is_up_to_date() -> None:
    is_same = PAGE.read_text(encoding="utf-8") == page()
    assert is_same, "schemas or conf/ have changed: python -m launch.reference"
