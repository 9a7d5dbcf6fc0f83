"""How far sampling and learning overlap, by hand and against a count of instants."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cispo.overlap import WorkTimes

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_times_and_shares_are_those_worked_out_by_hand() -> None:
    clock = Clock()
    work = WorkTimes(num_engines=2, clock=clock)
    with work.engine("a"):
        clock.now += 3.0  # a
        with work.engine("a"), work.learner():
            clock.now += 1.0  # a, learner
            with work.engine("b"):
                clock.now += 2.0  # a, b, learner
    with work.learner():
        clock.now += 4.0  # learner
    clock.now += 10.0
    lap = await work.lap()
    assert lap == {
        "overlap/wall_seconds": 20.0,
        "overlap/engine_seconds": (6.0 + 2.0) / 2,
        "overlap/learner_seconds": 7.0,
        "overlap/both_seconds": (3.0 + 2.0) / 2,
        "overlap/engine_fraction": 4.0 / 20.0,
        "overlap/learner_fraction": 7.0 / 20.0,
        "overlap/idle_fraction": pytest.approx(1.0 - (4.0 + 7.0 - 2.5) / 20.0),
        "overlap/fraction": 2.5 / 4.0,
    }


async def test_a_spell_over_the_end_of_a_lap_counts_in_both() -> None:
    clock = Clock()
    work = WorkTimes(clock=clock)
    with work.learner():
        clock.now += 2.0
        assert (await work.lap())["overlap/learner_seconds"] == 2.0
        clock.now += 5.0
    lap = await work.lap()
    assert lap["overlap/learner_seconds"] == lap["overlap/wall_seconds"] == 5.0


async def test_turns_without_overlap_are_zero_and_a_lap_without_work_has_no_overlap() -> None:
    clock = Clock()
    work = WorkTimes(clock=clock)
    with work.engine("a"):
        clock.now += 2.0
    with work.learner():
        clock.now += 1.0
    assert (await work.lap())["overlap/fraction"] == 0.0
    clock.now += 1.0
    idle = await work.lap()
    assert "overlap/fraction" not in idle
    assert idle["overlap/idle_fraction"] == 1.0
    assert not any("_fraction" in name for name in await work.lap())  # no time has passed


@settings(max_examples=100, deadline=None)
@given(
    spells=st.lists(
        st.tuples(st.sampled_from(["learner", "a", "b", "c"]), st.integers(0, 30), st.integers()),
        max_size=12,
    )
)
def test_sums_are_the_instants_in_which_both_had_work(
    spells: Sequence[tuple[str, int, int]],
) -> None:
    """Against counting each whole second of the union of the spells, one by one."""
    intervals = [(who, begin, begin + length % 9) for who, begin, length in spells]
    clock = Clock()
    work = WorkTimes(num_engines=3, clock=clock)
    open_spells: list[tuple[int, ExitStack]] = []
    engine = learner = both = 0
    for second in range(41):
        for end, spell in [s for s in open_spells if s[0] == second]:
            spell.close()
            open_spells.remove((end, spell))
        for who, begin, end in intervals:
            if begin == second < end:
                spell = ExitStack()
                spell.enter_context(work.learner() if who == "learner" else work.engine(who))
                open_spells.append((end, spell))
        busy = {who for who, begin, end in intervals if begin <= second < end}
        learns = "learner" in busy
        engine += len(busy) - learns
        learner += learns
        both += (len(busy) - learns) * learns
        clock.now += 1.0
    lap = asyncio.run(work.lap())
    assert lap["overlap/engine_seconds"] == pytest.approx(engine / 3)
    assert lap["overlap/learner_seconds"] == learner
    assert lap["overlap/both_seconds"] == pytest.approx(both / 3)
    assert 0.0 <= lap.get("overlap/fraction", 0.0) <= 1.0 + 1e-9


async def test_every_number_is_documented() -> None:
    clock = Clock()
    work = WorkTimes(clock=clock)
    with work.engine("a"), work.learner():
        clock.now += 1.0
    assert (await work.lap()).keys() <= set(re.findall(r"`([^`]+)`", PAGE.read_text()))
