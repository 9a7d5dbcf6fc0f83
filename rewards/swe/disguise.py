"""Test files as they go into the grading jail: random names, and clones that must fail.

Whoever forges results from inside the interpreter has to pass the tests and fail their clones, and
cannot tell them by name. A test with one clone leaves one choice in two; a test with three, of
which two have one change and one has both, one in four, and no majority to look at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rewards.swe.test_source import Site, TestFunction, find_tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A copy of a test that must fail under the reference solution.

    Attributes:
        path: File of the test.
        test: Name of the test with its classes.
        sites: What is changed in it.
        must_fail: Parameters, `[a-b]` or empty, with which it fails.
    """

    path: str
    test: str
    sites: tuple[Site, ...]
    must_fail: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disguise:
    """A test file in disguise.

    Attributes:
        source: Its text.
        names: By the id of a test without parameters, its id in the disguise.
        clones: By the id in the disguise of a clone, the clone.
    """

    source: str
    names: Mapping[str, str]
    clones: Mapping[str, Clone]


def disguise(
    source: str,
    path: str,
    clones: Sequence[Clone],
    rng: Random,
    *,
    puts_clones_first: bool = False,
) -> Disguise:
    """Rename the tests of a file and put clones beside them, in random order.

    A test that other parts of the file know by name keeps it, and has no clones.

    Args:
        source: The file.
        path: Its path.
        clones: Clones of tests of any files.
        rng: Makes names and order.
        puts_clones_first: Whether every test comes after its clones, which shows whether they
            disturb it.

    Raises:
        SyntaxError: The file is no Python.
    """
    data = source.encode()
    pieces: list[bytes] = []
    names: dict[str, str] = {}
    placed: dict[str, Clone] = {}
    done = 0
    for test in find_tests(source):
        ours = f"{path}::{test.qualified}"
        if not test.can_be_renamed:
            names[ours] = ours
            continue
        variants: list[tuple[Clone | None, str, bytes]] = [
            (clone, name := _random_name(rng), _variant(data, test, clone, name))
            for clone in (None, *(c for c in clones if (c.path, c.test) == (path, test.qualified)))
        ]
        if puts_clones_first:
            variants.append(variants.pop(0))
        else:
            rng.shuffle(variants)
        pieces.append(data[done : test.start])
        for clone, name, text in variants:
            nodeid = "::".join(filter(None, (path, test.scope, name)))
            pieces.append(text)
            if clone is None:
                names[ours] = nodeid
            else:
                placed[nodeid] = clone
        done = test.end
    pieces.append(data[done:])
    return Disguise(source=b"".join(pieces).decode(), names=names, clones=placed)


def choose_clones(
    sound: Sequence[Clone], *, first: Sequence[str], num_bits: int, rng: Random
) -> tuple[list[Clone], int]:
    """Choose clones for one grading.

    Args:
        sound: Clones with one change each that are known to fail.
        first: Ids of tests without parameters that are to have clones before others.
        num_bits: Forgery by chance shall succeed with at most 2 ** -num_bits, if that can be had.
        rng: Decides.

    Returns:
        The clones, and the bits that they are worth.
    """
    by_test: dict[tuple[str, str], list[Clone]] = {}
    for clone in sound:
        by_test.setdefault((clone.path, clone.test), []).append(clone)
    tests = list(by_test)
    rng.shuffle(tests)
    tests.sort(key=lambda test: "::".join(test) not in first)
    missing = num_bits - len(tests)
    chosen: list[Clone] = []
    bits = 0
    for test in tests:
        if bits >= num_bits:
            break
        square = _square(by_test[test], rng) if missing > 0 else []
        chosen += square or [rng.choice(by_test[test])]
        bits += 2 if square else 1
        missing -= bool(square)
    return chosen, bits


def _square(clones: Sequence[Clone], rng: Random) -> list[Clone]:
    """Return one clone, another, and one with the changes of both; empty where none go together."""
    shuffled = rng.sample(clones, len(clones))
    for index, one in enumerate(shuffled):
        for other in shuffled[index + 1 :]:
            if one.sites[0].assertion != other.sites[0].assertion:
                both = Clone(
                    path=one.path,
                    test=one.test,
                    sites=(*one.sites, *other.sites),
                    must_fail=tuple(dict.fromkeys((*one.must_fail, *other.must_fail))),
                )
                return [one, other, both]
    return []


def _variant(data: bytes, test: TestFunction, clone: Clone | None, name: str) -> bytes:
    """Return the text of a test under another name and with a clone's changes."""
    start = test.name_start - test.start
    edits = [(start, start + len(test.name.encode()), name)]
    if clone is not None:
        edits += [(site.start, site.end, site.text) for site in clone.sites]
    text = data[test.start : test.end]
    for first, last, new in sorted(edits, reverse=True):
        text = text[:first] + new.encode() + text[last:]
    return text if text.endswith(b"\n") else text + b"\n"


def _random_name(rng: Random) -> str:
    return f"test_{rng.getrandbits(64):016x}"
