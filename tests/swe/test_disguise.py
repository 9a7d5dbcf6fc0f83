"""Tests in disguise: what is renamed, what is cloned, and that clones say the opposite."""

import ast
import asyncio
import itertools
from random import Random

import pytest

from rewards.swe.disguise import Clone, choose_clones, disguise
from rewards.swe.test_source import Site, find_sites, find_tests

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
    return find_sites(SOURCE, test, Random(seed))


def site(assertion: int) -> Site:
    return Site(assertion=assertion, start=0, end=0, text="x")


def all_clones() -> list[Clone]:
    return [
        Clone(path=PATH, test=test.qualified, sites=(site,))
        for test in find_tests(SOURCE)
        for site in find_sites(SOURCE, test, Random(1))
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
    sites = find_sites(SOURCE, test, Random(4))
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
        texts = [site.text for site in find_sites(source, test, Random(seed))]
        assert texts[0] in {"2", "3", "5", "6", "7"}
        assert sorted(texts[1:]) == [
            "not (f(3, 'in') == 4)",
            "not (g(7) != 5)",
            "not (h(8))",
        ]


def test_few_tests_get_three_clones_that_no_majority_betrays() -> None:
    clones = [
        Clone(
            path=PATH, test=f"test_{letter}", sites=(Site(assertion=i, start=i, end=i, text="x"),)
        )
        for letter, i in itertools.product("abc", (1, 2))
    ]
    chosen, bits = choose_clones(clones, first=[], num_bits=8, rng=Random(0))
    assert bits == 6
    for letter in "abc":
        changes = [
            {site.assertion for site in clone.sites}
            for clone in chosen
            if clone.test == f"test_{letter}"
        ]
        assert sorted(map(sorted, changes)) == [[1], [1, 2], [2]]


def test_many_tests_get_one_clone_each_and_the_important_ones_come_first() -> None:
    clones = [Clone(path=PATH, test=f"test_{i}", sites=(site(1),)) for i in range(20)]
    chosen, bits = choose_clones(clones, first=["t.py::test_7"], num_bits=8, rng=Random(0))
    assert bits == 8
    assert chosen[0].test == "test_7"
    assert len({clone.test for clone in chosen}) == 8
