"""Test files as they go into the grading jail: random names, and clones that must fail.

Whoever forges results from inside the interpreter has to pass the tests and fail their clones, and
cannot tell them by name. Only clones of the tests that the forger's solution fails are in the way:
the others come out right without forgery. So tests that must turn to pass have several clones where
they are few. The clones of a test change one constant to different values, or one constant,
another, and both: no majority gives the original away.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rewards.swe.sites import MOST_ALTERNATIVES, Site
from rewards.swe.test_source import TestFunction, find_tests

_FEWEST_GUARDS = 4
"""Tests that need not turn to pass and have a clone, against those who forge what they broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A copy of a test that must fail under the reference solution.

    Attributes:
        path: File of the test.
        test: Name of the test with its classes.
        sites: What is changed in it.
        must_fail: Parameters, `[a-b]` or empty, with which it fails.
        contradicts: Those of the test in the same rows: a clone may change the table of them.
    """

    path: str
    test: str
    sites: tuple[Site, ...]
    must_fail: tuple[str, ...] = ("",)
    contradicts: tuple[str, ...] = ("",)

    @property
    def is_plain(self) -> bool:
        """Whether nothing shows that it is no test."""
        return all(site.is_plain for site in self.sites)


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
            disturb it; nothing else is hidden then.

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
        own = [clone for clone in clones if (clone.path, clone.test) == (path, test.qualified)]
        same = {} if puts_clones_first else {s.span: s.same for clone in own for s in clone.sites}
        variants: list[tuple[Clone | None, str, bytes]] = [
            (clone, name := _random_name(rng), _variant(data, test, clone, name, same))
            for clone in (None, *own)
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
    sound: Sequence[Clone], *, first: Collection[str], num_bits: int, rng: Random
) -> tuple[list[Clone], int]:
    """Choose clones for one grading.

    Args:
        sound: Clones with one change each that are known to fail.
        first: Ids without parameters of the tests that must turn to pass.
        num_bits: Forgery by chance shall succeed with at most 2 ** -num_bits, if that can be had.
        rng: Decides.

    Returns:
        The clones, and the bits that those of the tests in `first` are worth. Clones that give
        themselves away are worth none.
    """
    by_test: dict[str, list[Clone]] = {}
    for clone in sound:
        by_test.setdefault(f"{clone.path}::{clone.test}", []).append(clone)
    tests = rng.sample(list(by_test), len(by_test))
    decisive = [test for test in tests if test in first]
    share = bits_a_test(len(decisive), num_bits=num_bits)
    chosen: list[Clone] = []
    bits = 0
    for test in decisive:
        if bits < num_bits:
            plain = [clone for clone in by_test[test] if clone.is_plain]
            variants = _variants(plain or by_test[test], num_bits=share, rng=rng)
            chosen += variants
            bits += (len(variants) + 1).bit_length() - 1 if plain else 0
    others = [test for test in tests if test not in first]
    guards = others[: max(num_bits - bits, _FEWEST_GUARDS) if num_bits else 0]
    chosen += [rng.choice(by_test[test]) for test in guards]
    return chosen, bits


def bits_a_test(num_tests: int, *, num_bits: int) -> int:
    """Return the bits that the clones of each test should be worth."""
    return min(math.ceil(num_bits / max(num_tests, 1)), (MOST_ALTERNATIVES + 1).bit_length() - 1)


def _variants(clones: Sequence[Clone], *, num_bits: int, rng: Random) -> list[Clone]:
    """Return 1, 3 or 7 clones of one test among which it does not stand out."""
    places: dict[tuple[int, int], list[Clone]] = {}
    for clone in clones:
        places.setdefault(clone.sites[0].span, []).append(clone)
    for bits in range(num_bits, 1, -1):
        fitting = [place for place in places.values() if len(place) >= 2**bits - 1]
        if fitting:
            return rng.sample(rng.choice(fitting), 2**bits - 1)
        if bits == 2 and (square := _square(clones, rng)):
            return square
    return [rng.choice(clones)] if num_bits else []


def _square(clones: Sequence[Clone], rng: Random) -> list[Clone]:
    """Return one clone, another, and one with the changes of both; empty where none go together."""
    shuffled = rng.sample(clones, len(clones))
    for index, one in enumerate(shuffled):
        for other in shuffled[index + 1 :]:
            has_same_rows = (
                one.must_fail == one.contradicts and other.must_fail == other.contradicts
            )
            if has_same_rows and one.sites[0].assertion != other.sites[0].assertion:
                failing = tuple(dict.fromkeys((*one.must_fail, *other.must_fail)))
                both = Clone(
                    path=one.path,
                    test=one.test,
                    sites=(*one.sites, *other.sites),
                    must_fail=failing,
                    contradicts=failing,
                )
                return [one, other, both]
    return []


def _variant(
    data: bytes,
    test: TestFunction,
    clone: Clone | None,
    name: str,
    same: Mapping[tuple[int, int], str],
) -> bytes:
    """Return the text of a test under another name and with a clone's changes.

    Args:
        data: The file.
        test: The test.
        clone: Which clone of it, or None for itself.
        name: Its new name.
        same: By place, what the variants without a change there say.
    """
    start = test.name_start - test.start
    edits = dict(same)
    edits |= {site.span: site.text for site in clone.sites} if clone is not None else {}
    edits[start, start + len(test.name.encode())] = name
    text = data[test.start : test.end]
    for (first, last), new in sorted(edits.items(), reverse=True):
        text = text[:first] + new.encode() + text[last:]
    return text if text.endswith(b"\n") else text + b"\n"


def _random_name(rng: Random) -> str:
    return f"test_{rng.getrandbits(64):016x}"
