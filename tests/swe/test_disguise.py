"""Tests in disguise: what is renamed, what is cloned, and that clones say the opposite."""

import ast
import asyncio
import itertools
from dataclasses import replace
from random import Random

import pytest

from rewards.swe.disguise import Clone, choose_clones, disguise
from rewards.swe.sites import Site, find_sites
from rewards.swe.test_source import find_tests

SOURCE = '''\
import pytest
from unittest import TestCase


def helper():
    return "test_known"


def test_plain():
    assert 1 + 1 == 2, "é"


@pytest.mark.parametrize("x", [1, 2])
def test_with_parameters(x):
    """Does something."""
    assert [x, "a-é", 2.5] == [
        1,
        "a-é",
        2.5,
    ]
    assert x is not None


def test_known():
    assert True


def test_twice():
    assert 1 == 1


def test_twice():
    assert 2 == 2


@pytest.fixture
def test_data():
    return 1


def test_of_data(test_data):
    with pytest.raises(ValueError):
        raise ValueError


class Base:
    def test_inherited(self):
        assert 0 == 0


class TestCases(Base, TestCase):
    def test_method(self):
        self.assertEqual({"a": 1}, {"a": 1})

    class TestInner:
        async def test_deep(self): assert not False
'''
PATH = "t.py"


def sites_of(name: str, seed: int = 0) -> list[Site]:
    test = next(test for test in find_tests(SOURCE) if test.name == name)
    return [site for place in find_sites(SOURCE, test, Random(seed)) for site in place]


def site(assertion: int, *, start: int = 0, text: str = "y") -> Site:
    return Site(assertion=assertion, start=start, end=start, text=text, same="x")


def all_clones() -> list[Clone]:
    return [
        Clone(path=PATH, test=test.qualified, sites=(site,))
        for test in find_tests(SOURCE)
        for place in find_sites(SOURCE, test, Random(1))[:1]
        for site in place[:3]
    ]


def test_tests_are_found_with_their_classes() -> None:
    assert [test.qualified for test in find_tests(SOURCE)] == [
        *("test_plain", "test_with_parameters", "test_known", "test_twice", "test_twice"),
        *("test_data", "test_of_data", "Base::test_inherited", "TestCases::test_method"),
        "TestCases::TestInner::test_deep",
    ]


def test_what_others_know_by_name_keeps_it() -> None:
    renamed = {test.name for test in find_tests(SOURCE) if test.can_be_renamed}
    assert renamed == {"test_plain", "test_with_parameters", "test_of_data", "test_method",
                       "test_deep"}  # fmt: skip
    disguised = disguise(SOURCE, PATH, all_clones(), Random(2))
    for known in ("test_known", "test_twice", "test_data", "Base::test_inherited"):
        assert disguised.names[f"{PATH}::{known}"] == f"{PATH}::{known}"
    for name in renamed:
        assert f"def {name}(" not in disguised.source
    assert {clone.test.rpartition("::")[2] for clone in disguised.clones.values()} == renamed


def test_a_disguise_is_python_and_says_the_same_but_for_clones() -> None:
    plain = disguise(SOURCE, PATH, [], Random(3))
    for ours, theirs in plain.names.items():
        back = plain.source.replace(theirs.rpartition("::")[2], ours.rpartition("::")[2])
        plain = type(plain)(source=back, names=plain.names, clones={})
    assert plain.source == SOURCE
    with_clones = disguise(SOURCE, PATH, all_clones(), Random(3))
    tree = ast.parse(with_clones.source)
    names = [
        n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for nodeid in (*with_clones.names.values(), *with_clones.clones):
        assert nodeid.rpartition("::")[2] in names
    assert not set(with_clones.clones) & set(with_clones.names.values())


def test_names_are_new_each_time_and_order_tells_nothing() -> None:
    clone = Clone(path=PATH, test="test_plain", sites=(sites_of("test_plain")[0],))
    first = 0
    seen = set()
    for seed in range(64):
        disguised = disguise(SOURCE, PATH, [clone], Random(seed))
        original = disguised.names[f"{PATH}::test_plain"].rpartition("::")[2]
        [copy] = (nodeid.rpartition("::")[2] for nodeid in disguised.clones)
        places = [disguised.source.index(f"def {name}(") for name in (original, copy)]
        first += places[0] < places[1]
        seen |= {original, copy}
    assert len(seen) == 128
    assert 16 < first < 48


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("test_plain", "test_plain()"),
        ("test_with_parameters", "test_with_parameters(1)"),
        ("test_of_data", "test_of_data(1)"),
        ("test_method", "TestCases('test_method').test_method()"),
        ("test_deep", "asyncio.run(TestCases.TestInner().test_deep())"),
    ],
)
def test_every_change_makes_a_test_that_passes_fail(name: str, call: str) -> None:
    data = SOURCE.encode()
    [test] = [test for test in find_tests(SOURCE) if test.name == name]
    sites = sites_of(name, seed=4)
    assert sites
    names: dict[str, object] = {"asyncio": asyncio}
    exec(SOURCE, names)
    eval(call, names)
    for site in sites:
        start, end = test.start + site.start, test.start + site.end
        exec((data[:start] + site.text.encode() + data[end:]).decode(), names)
        with pytest.raises((AssertionError, ValueError)):
            eval(call, names)


def test_changed_constants_come_before_negations_and_what_is_called_is_left_alone() -> None:
    source = "def test_a():\n    assert f(3, 'in') == 4\n    assert g(7) != 5\n    assert h(8)\n"
    [test] = find_tests(source)
    for seed in range(8):
        places = find_sites(source, test, Random(seed))
        assert {site.text for site in places[0]} < set(map(str, range(20))) - {"4"}
        assert sorted(site.text for place in places[1:] for site in place) == [
            "not (f(3, 'in') == 4)",
            "not (g(7) != 5)",
            "not (h(8))",
        ]


@pytest.mark.parametrize("value", ["4", "-40", "'tea: 4'", "b'ab'", "2.5", "'X'"])
def test_no_alternative_and_not_the_original_stands_out_among_the_others(value: str) -> None:
    source = f"def test_a():\n    assert f() == {value}\n"
    [test] = find_tests(source)
    ranks = []
    for seed in range(200):
        place = find_sites(source, test, Random(seed))[0]
        variants = [eval(place[0].same), *(eval(site.text) for site in place)]
        assert len(set(variants)) == len(place) + 1 == 8
        assert variants[0] == eval(value)
        if isinstance(variants[0], str | bytes):  # all differ in one place, and in the same one
            columns = [len(set(column)) for column in zip(*variants, strict=True)]
            assert sorted(columns)[:-1] == [1] * (len(columns) - 1)
        else:
            ranks.append(sorted(variants).index(variants[0]))
    if ranks:  # the original is now among the least, now among the greatest
        assert min(ranks) <= 1
        assert max(ranks) >= (6 if value != "4" else 2)


def test_all_variants_of_a_test_have_one_style() -> None:
    source = 'def test_a():\n    assert f() == "tea"\n'
    [test] = find_tests(source)
    place = find_sites(source, test, Random(0))[0]
    clones = [Clone(path=PATH, test="test_a", sites=(site,)) for site in place]
    disguised = disguise(source, PATH, clones, Random(0))
    assert '"' not in disguised.source
    assert "assert f() == 'tea'" in disguised.source
    reference = disguise(source, PATH, clones, Random(0), puts_clones_first=True)
    assert reference.source.endswith('    assert f() == "tea"\n')


def pool(tests: str, texts: str, *, starts: tuple[int, ...] = (0,)) -> list[Clone]:
    return [
        Clone(
            path=PATH,
            test=f"test_{letter}",
            sites=(site(start, start=start, text=text),),
        )
        for letter, start, text in itertools.product(tests, starts, texts)
    ]


def test_one_decisive_test_gets_many_values_in_one_place() -> None:
    chosen, bits = choose_clones(
        pool("a", "1234567", starts=(0, 9)), first={"t.py::test_a"}, num_bits=8, rng=Random(0)
    )
    assert (len(chosen), bits) == (7, 3)
    assert len({clone.sites[0].span for clone in chosen}) == 1
    assert len({clone.sites[0].text for clone in chosen}) == 7


def test_two_places_make_three_clones_that_no_majority_betrays() -> None:
    decisive = {f"t.py::test_{letter}" for letter in "abc"}
    chosen, bits = choose_clones(
        pool("abc", "1", starts=(1, 2)), first=decisive, num_bits=6, rng=Random(0)
    )
    assert bits == 6
    for letter in "abc":
        changes = [
            {site.assertion for site in clone.sites}
            for clone in chosen
            if clone.test == f"test_{letter}"
        ]
        assert sorted(map(sorted, changes)) == [[1], [1, 2], [2]]


def test_many_tests_get_one_clone_each_and_only_decisive_ones_count() -> None:
    letters = "abcdefghij"
    decisive = {f"t.py::test_{letter}" for letter in "abcdefgh"}
    chosen, bits = choose_clones(pool(letters, "123"), first=decisive, num_bits=8, rng=Random(0))
    assert bits == 8
    assert {f"t.py::{clone.test}" for clone in chosen[:8]} == decisive
    assert sorted(clone.test for clone in chosen[8:]) == ["test_i", "test_j"]
    chosen, bits = choose_clones(
        pool(letters, "123"), first={"t.py::test_a"}, num_bits=8, rng=Random(0)
    )
    assert bits == 2
    assert len(chosen) == 3 + 6  # and guards against those who pass tests at random
    assert choose_clones(pool("a", "1"), first=set(), num_bits=0, rng=Random(0)) == ([], 0)


def test_clones_that_give_themselves_away_are_worth_nothing() -> None:
    [clone] = pool("a", "1")
    shows = [replace(clone, sites=(replace(clone.sites[0], is_plain=False),))]
    chosen, bits = choose_clones(shows, first={"t.py::test_a"}, num_bits=8, rng=Random(0))
    assert (chosen, bits) == (shows, 0)
    chosen, bits = choose_clones(
        [*shows, *pool("a", "2")], first={"t.py::test_a"}, num_bits=8, rng=Random(0)
    )
    assert (chosen, bits) == (pool("a", "2"), 1)


TABLE = """\
import kinds
import pytest


@pytest.mark.parametrize("given, least", [
    ([3, 2], 2),
    pytest.param([5], 5, id="one"),
])
def test_table(given, least):
    assert cheapest(given) == least


@pytest.mark.parametrize("name", ["a", "b"])
def test_used(name):
    assert shout(name) == name


def test_kind():
    assert isinstance(parse("x"), kinds.Word)
    assert parse("y") is kinds.Other


def test_made():
    assert parse("z") == kinds.Decimal("1") and parse("w") != 5
"""


def changed(name: str) -> set[tuple[str, bool]]:
    """What stands in the places of a test that may be changed, and whether that shows."""
    test = next(test for test in find_tests(TABLE) if test.name == name)
    places = find_sites(TABLE, test, Random(0))
    text = TABLE.encode()[test.start : test.end]
    return {(text[p[0].start : p[0].end].decode(), p[0].is_plain) for p in places}


def test_the_column_that_is_only_compared_is_changed_and_what_is_handed_on_is_not() -> None:
    assert changed("test_table") == {("2", True), ("5", True), ("cheapest(given) == least", False)}
    assert changed("test_used") == {("shout(name) == name", False)}


def test_a_kind_becomes_another_of_the_same_file() -> None:
    test = next(test for test in find_tests(TABLE) if test.name == "test_kind")
    texts = {site.text for place in find_sites(TABLE, test, Random(0)) for site in place}
    assert {"kinds.Word", "kinds.Other"} <= texts
    assert ("kinds.Word", True) in changed("test_kind")
    assert ('"1"', True) in changed("test_made")
    assert not {'"z"', "5"} & {text for text, _ in changed("test_made")}
