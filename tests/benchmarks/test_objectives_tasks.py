from random import Random

import pytest

from benchmarks.objectives.tasks import (
    CHAIN,
    END,
    FORK,
    GUESS,
    WORK,
    Chain,
    Fork,
    Problem,
    is_right,
    step,
    value,
)


def test_every_token_has_one_meaning() -> None:
    values = [value(place, v) for place in range(5) for v in range(10)]
    steps = [step(place, b) for place in range(1, 5) for b in range(10)]
    assert sorted([*values, *steps, FORK, CHAIN, WORK, GUESS, END]) == list(range(95))


def test_exactly_one_candidate_of_a_fork_is_right() -> None:
    draw = Random(0)
    for _ in range(300):
        problem = Fork(1.0).problem(draw)
        mark, first, second, target = problem.prompt
        assert mark == FORK
        right = [x for x in range(8) if value(2, (x + first % 10 + second % 10) % 10) == target]
        assert [value(0, x) for x in right] == [problem.answer]


def test_the_long_way_shows_both_steps_of_every_candidate() -> None:
    # 0 + 3 = 3 and 3 + 4 = 7, 1 + 3 = 4 and 4 + 4 = 8, ...; 6 meets the target 3
    problem = Problem([FORK, step(1, 3), step(2, 4), value(2, 3)], value(0, 6))
    worked = Fork(1.0).demonstration(problem, Random(0))
    us, vs, xs = [3, 4, 5, 6, 7, 8, 9, 0], [7, 8, 9, 0, 1, 2, 3, 4], range(8)
    tried = [
        t
        for u, v, x in zip(us, vs, xs, strict=True)
        for t in (value(1, u), value(2, v), value(0, x))
    ]
    assert worked == [WORK, *tried, value(2, 3), value(0, 6), END]
    assert is_right(problem, worked)
    assert not is_right(problem, worked[:-1]), "it has not ended"


def test_a_fork_is_worked_out_as_often_as_it_says_and_guessed_otherwise() -> None:
    draw, fork = Random(1), Fork(0.15)
    problems = [fork.problem(draw) for _ in range(4000)]
    answers = [fork.demonstration(problem, draw) for problem in problems]
    assert sum(answer[0] == WORK for answer in answers) / 4000 == pytest.approx(0.15, abs=0.02)
    guesses = [
        is_right(problem, answer)
        for problem, answer in zip(problems, answers, strict=True)
        if answer[0] == GUESS and len(answer) == 3
    ]
    assert len(guesses) == sum(answer[0] != WORK for answer in answers)
    assert sum(guesses) / len(guesses) == pytest.approx(1 / 8, abs=0.02)


def test_a_chain_without_slips_ends_with_its_answer_and_a_slip_is_another_digit() -> None:
    # 5 + 3 = 8, + 4 = 2, + 9 = 1, + 6 = 7
    steps = [step(place, b) for place, b in ((1, 3), (2, 4), (3, 9), (4, 6))]
    problem = Problem([CHAIN, value(0, 5), *steps], value(4, 7))
    expected = [value(1, 8), value(2, 2), value(3, 1), value(4, 7), END]
    assert Chain(0.0).demonstration(problem, Random(0)) == expected
    assert Chain(1.0).demonstration(problem, Random(0))[0] != value(1, 8)
    draw, chain = Random(2), Chain(0.26)
    drawn = [chain.problem(draw) for _ in range(4000)]
    right = [is_right(p, chain.demonstration(p, draw)) for p in drawn]
    assert sum(right) / len(right) == pytest.approx(0.74**4 + 0.02, abs=0.03)
