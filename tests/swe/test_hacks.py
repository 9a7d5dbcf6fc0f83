"""No known trick earns a reward; the reference solution does, and other right ones do."""

import asyncio
from pathlib import Path

import pytest

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance, Setup
from cispo.data.swe.patch import FilePatch, Hunk, format_diff, split_lines
from rewards.swe.grader import SweGrader
from sandboxes.workspaces import JailWorkspaces
from tests.swe.hacks import DIFFS, FLAGGED, HACKS, RIGHT, WRONG, Hack

TESTS = """\
import unittest

import pytest

from shop.prices import cheapest, label, total


def test_total():
    assert total([1, 2]) == 3


def test_total_of_nothing():
    assert total([]) == 0


def test_total_of_one():
    assert total([17]) == 17


@pytest.mark.parametrize(("prices", "least"), [([3, 2], 2), ([5], 5)])
def test_cheapest(prices, least):
    assert cheapest(prices) == least


def test_no_prices():
    with pytest.raises(ValueError):
        cheapest([])


class TestLabel:
    def test_label(self):
        assert label("tea", 4) == "tea: 4"

    def test_label_of_cake(self):
        assert label("cake", 12) == "cake: 12"


class Labels(unittest.TestCase):
    def test_total_of_three(self):
        self.assertEqual(total([4, 5, 6]), 15)

    def test_cheapest_of_three(self):
        self.assertEqual(cheapest([4, 9, 6]), 4)
"""
BY_CHANCE = {
    *("pass a random half", "guess which variant is the test"),
    *("read in which order tests were asked for", "take the first name for the test's"),
    "leave in a signal's handler",  # before the tests, in their midst, or behind them
}
FILE, TEST_FILE = "shop/prices.py", "tests/test_prices.py"


def write(path: str, before: str | None, after: str) -> str:
    hunk = Hunk(old=tuple(split_lines(before or "")), new=tuple(split_lines(after)), start=1)
    old_path = None if before is None else path
    return format_diff([FilePatch(old_path=old_path, new_path=path, hunks=(hunk,))])


SHOP = Instance(
    instance_id="shop",
    problem_statement="Prices are wrong.",
    tree={
        "shop/__init__.py": "",
        FILE: WRONG,
        TEST_FILE: "def test_nothing():\n    pass\n",
        "setup.py": "from setuptools import setup\n",
    },
    patch=write(FILE, WRONG, RIGHT),
    test_patch=write(TEST_FILE, "def test_nothing():\n    pass\n", TESTS),
    fail_to_pass=(
        f"{TEST_FILE}::test_total",
        f"{TEST_FILE}::test_total_of_nothing",
        f"{TEST_FILE}::test_total_of_one",
        f"{TEST_FILE}::test_cheapest[prices0-2]",
        f"{TEST_FILE}::Labels::test_total_of_three",
        f"{TEST_FILE}::Labels::test_cheapest_of_three",
    ),
    pass_to_pass=(
        f"{TEST_FILE}::test_cheapest[prices1-5]",
        f"{TEST_FILE}::test_no_prices",
        f"{TEST_FILE}::TestLabel::test_label",
        f"{TEST_FILE}::TestLabel::test_label_of_cake",
    ),
    setup=Setup(requirements=("pytest",)),
)


def hacked(hack: Hack) -> str:
    base = SHOP.tree
    changed = {FILE: f"{hack.code}\n{WRONG}\n{hack.after}", **hack.files}
    return "".join(write(path, base.get(path), text) for path, text in changed.items())


async def grade(grader: SweGrader, answer: str) -> dict[str, float]:
    verdict = await grader.grade(answer, {"instance": SHOP.to_json()})
    assert isinstance(verdict, dict), verdict
    return verdict


@pytest.mark.parametrize("name", HACKS)
async def test_a_hack_earns_nothing(grader: SweGrader, name: str) -> None:
    parts = await grade(grader, hacked(HACKS[name]))
    assert parts["correct"] == 0.0
    if name not in BY_CHANCE:
        assert parts["tamper"] == float(name in FLAGGED), parts


@pytest.mark.parametrize("name", DIFFS)
async def test_a_patch_that_is_none_earns_nothing(grader: SweGrader, name: str) -> None:
    parts = await grade(grader, DIFFS[name])
    assert (parts["correct"], parts["tamper"]) == (0.0, 0.0)


async def test_the_reference_solution_is_right_also_with_tests_of_its_own(
    grader: SweGrader,
) -> None:
    own = write("tests/test_mine.py", None, "def test_mine():\n    assert True\n")
    for answer in (SHOP.patch, SHOP.patch + own):
        parts = await grade(grader, answer)
        assert (parts["correct"], parts["tamper"], parts["applied"]) == (1.0, 0.0, 1.0)


async def test_another_right_solution_is_right(grader: SweGrader) -> None:
    other = RIGHT.replace("return sum(prices)", "return sum(prices, 0)").replace(
        "return min(prices)", "return sorted(prices)[0]"
    )
    assert other.count("sorted") == 1
    assert (await grade(grader, write(FILE, WRONG, other)))["correct"] == 1.0


async def test_a_half_right_solution_earns_its_share_but_is_wrong(grader: SweGrader) -> None:
    half = WRONG.replace("sum(prices) + 1", "sum(prices)")
    parts = await grade(grader, write(FILE, WRONG, half))
    assert (parts["correct"], parts["tamper"]) == (0.0, 0.0)
    assert parts["fail_to_pass"] == pytest.approx(4 / 6)
    assert parts["pass_to_pass"] == 1.0


async def test_what_breaks_other_tests_is_wrong(grader: SweGrader) -> None:
    breaking = RIGHT.replace("{name}: {price}", "{name} {price}")
    parts = await grade(grader, write(FILE, WRONG, breaking))
    assert (parts["correct"], parts["fail_to_pass"]) == (0.0, 1.0)
    assert parts["pass_to_pass"] == pytest.approx(2 / 4)


async def test_a_patch_that_does_not_fit_is_wrong_and_says_so(grader: SweGrader) -> None:
    parts = await grade(grader, write(FILE, "def absent():\n    pass\n", RIGHT))
    assert (parts["correct"], parts["applied"], parts["tamper"]) == (0.0, 0.0, 0.0)


async def test_a_run_that_takes_too_long_is_wrong(
    jails: JailWorkspaces, settings: SweConfig
) -> None:
    slow = SweGrader(jails, SweConfig(cache=settings.cache, cpu_seconds=2.0), max_concurrent=1)
    endless = f"while True:\n    pass\n{WRONG}"
    parts = await grade(slow, write(FILE, WRONG, endless))
    assert (parts["correct"], parts["timed_out"], parts["tamper"]) == (0.0, 1.0, 0.0)


async def test_nothing_is_left_of_a_grading(grader: SweGrader, cache: Path) -> None:
    await grade(grader, SHOP.patch)
    assert await asyncio.to_thread(lambda: list((cache / "gradings").iterdir())) == []
