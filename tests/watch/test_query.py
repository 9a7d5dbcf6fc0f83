from pathlib import Path

import pytest

from cispo.types import RolloutKind, StopReason
from cispo.watch.index import RolloutIndex
from cispo.watch.query import Finder, Query
from tests.fakes import make_group
from tests.watch.runs import small_run, write_rollouts


@pytest.fixture
def finder(tmp_path: Path) -> Finder:
    small_run(tmp_path)
    write_rollouts(tmp_path, 2, [make_group([1.0, 1.0], index=0)], kind=RolloutKind.HELD_OUT)
    cut = make_group([0.5, 0.25], index=9, stop_reason=StopReason.LENGTH, lengths=[50, 60])
    write_rollouts(tmp_path, 4, [cut], recorded_tokens=0)
    index = RolloutIndex(tmp_path / "rollouts")
    index.refresh(at_most=99)
    return Finder(index)


@pytest.mark.parametrize(
    ("query", "total"),
    [
        (Query(), 3 * 5 + 2 + 2),
        (Query(kind="heldout"), 2),
        (Query(step=2), 5 + 2),
        (Query(step=2, kind="iteration"), 5),
        (Query(source="logic"), 6),
        (Query(source="nothing of that name"), 0),
        (Query(stop="length"), 2),
        (Query(verdict="right"), 3 + 2),
        (Query(verdict="wrong"), 3 * 3 + 2),
        (Query(verdict="ungraded"), 3),
        (Query(verdict="without signal"), 3 * 2),
        (Query(verdict="with tokens"), 3 * 5 + 2),
        (Query(verdict="with ratios"), 3 * 2),
        (Query(reward_min=0.25, reward_max=0.5), 2),
        (Query(reward_max=0.0, source="sums"), 3),
        (Query(text="9 + 1"), 2),
        (Query(text="TASK-5"), 2),
        (Query(text='"'), 0),
        (Query(text="task-5", verdict="right"), 0),
        (Query(text="nowhere"), 0),
    ],
)
def test_filters_and_text_find_what_they_say(finder: Finder, query: Query, total: int) -> None:
    found = finder.find(query, start=0, limit=100)
    assert found.total == len(found.places) == total
    assert found.num_searched == found.num_rollouts == 19


def test_orders_are_over_all_files_and_pages_follow_one_another(finder: Finder) -> None:
    def tokens(query: Query, start: int, limit: int) -> list[int]:
        places = finder.find(query, start=start, limit=limit).places
        return [int(file.rows["tokens"][row]) for file, row in places]

    longest = Query(order="longest")
    assert tokens(longest, 0, 4) == [60, 50, 5, 5]
    assert tokens(longest, 2, 2) == [5, 5]
    assert tokens(Query(order="shortest"), 17, 9) == [50, 60]
    newest = finder.find(Query(), start=0, limit=3).places
    assert [file.step for file, _ in newest] == [4, 4, 3]
    rewards = [
        float(file.rows["reward"][row])
        for file, row in finder.find(Query(order="highest reward"), start=0, limit=19).places
    ]
    assert rewards[:6] == [1.0] * 5 + [0.5]
    assert all(reward != reward for reward in rewards[-3:])  # the ungraded come last


def test_a_long_search_answers_with_what_it_has_and_goes_on_when_asked_again(
    tmp_path: Path,
) -> None:
    small_run(tmp_path)
    index = RolloutIndex(tmp_path / "rollouts")
    index.refresh(at_most=99)
    finder = Finder(index, clock=iter(range(1000)).__next__)
    query = Query(text="+ 1")
    answers = [finder.find(query, start=0, limit=9, seconds=0.5) for _ in range(4)]
    assert [answer.num_searched for answer in answers] == [5, 10, 15, 15]
    assert [answer.total for answer in answers] == [5, 10, 15, 15]


def test_text_with_quotes_line_breaks_and_other_alphabets_is_found(tmp_path: Path) -> None:
    group = make_group([1.0])
    object.__setattr__(group.rollouts[0], "text", 'say "Ω"\nover <b>')
    write_rollouts(tmp_path, 1, [group])
    index = RolloutIndex(tmp_path / "rollouts")
    index.refresh(at_most=1)
    for text in ('say "Ω"', '"Ω"\nover', "<B>"):
        assert Finder(index).find(Query(text=text), start=0, limit=1).total == 1
