"""The length window: both criteria by hand, what counts, and what a checkpoint brings back."""

import json
import math
from dataclasses import replace

import pytest

from cispo.counter_measures import NO_MEASURES, CounterMeasures
from cispo.length_window import Criteria, LengthWindow, Window
from cispo.types import Group
from tests.fakes import make_group

CRITERIA = Criteria(iterations=2, perplexity_tolerance=0.05, near_fraction=0.8)
HELD_BACK = CounterMeasures(ratio_max=3.0, max_grad_norm=0.5)
WINDOWS = (
    Window(max_new_tokens=10),
    Window(max_new_tokens=20),
    Window(max_new_tokens=40, measures=HELD_BACK),
)


def group(*lengths: int, perplexity: float, budget: int | None = 10) -> Group:
    """A group whose rollouts have these lengths, and the same perplexity each."""
    made = make_group([0.0] * len(lengths), lengths=lengths)
    rollouts = [
        replace(
            rollout,
            behaviour_logprobs=[-math.log(perplexity) * acts for acts in rollout.action_mask],
            token_budget=budget,
        )
        for rollout in made.rollouts
    ]
    return replace(made, rollouts=tuple(rollouts))


def window() -> tuple[LengthWindow, list[str]]:
    said: list[str] = []
    return LengthWindow(WINDOWS, CRITERIA, announce=said.append), said


def test_it_moves_on_when_perplexity_has_converged_and_rollouts_are_long() -> None:
    moving, said = window()
    seen = [moving.observe([group(4, 8, perplexity=p)]) for p in (2.0, 2.2, 2.1, 2.1)]
    # (2.1 + 2.1) / (2.0 + 2.2) is 1; 8 of 10 tokens are the near fraction itself
    assert [line["window/transitions"] for line in seen] == [0.0, 0.0, 0.0, 1.0]
    assert seen[-1]["window/perplexity_change"] == pytest.approx(0.0, abs=1e-12)
    assert seen[-1]["window/length_fraction"] == pytest.approx(0.8)
    assert [line["window/max_new_tokens"] for line in seen] == [10.0] * 4
    assert moving.max_new_tokens == 20
    assert said == [
        "length window 10 -> 20 tokens, after 4 iterations in it: perplexity moved by 0.00%, the "
        "99th percentile of length takes 80% of the window"
    ]


@pytest.mark.parametrize(
    ("perplexities", "length"),
    [
        ((2.0, 2.0, 2.2, 2.3), 9),  # 4.5 / 4.0 - 1 = 12.5%
        ((2.0, 2.0, 2.0, 2.0), 7),  # 7 of 10 tokens
        ((2.0, 2.0, 2.0), 9),  # no 2 + 2 iterations yet
    ],
)
def test_one_criterion_alone_does_not_move_it(perplexities: tuple[float, ...], length: int) -> None:
    staying, said = window()
    for value in perplexities:
        staying.observe([group(length, perplexity=value)])
    assert (staying.max_new_tokens, said) == (10, [])


def test_only_the_last_iterations_count() -> None:
    moving, _ = window()
    for value in (9.0, 5.0, 2.0, 2.0, 2.0):
        moving.observe([group(9, perplexity=value)])
        assert moving.max_new_tokens == 10
    moving.observe([group(9, perplexity=2.0)])
    assert moving.max_new_tokens == 20


def test_rollouts_of_another_budget_do_not_count() -> None:
    # those that were asked for before a transition, and an agent's, which have no one budget
    staying, _ = window()
    for budget in (20, None):
        for _ in range(6):
            logged = staying.observe([group(10, perplexity=2.0, budget=budget)])
    assert logged.keys() == {"window/stage", "window/max_new_tokens", "window/transitions"}
    assert staying.max_new_tokens == 10


def test_perplexity_weighs_tokens_and_not_rollouts() -> None:
    mixed, _ = window()
    for _ in range(2):
        mixed.observe([group(1, perplexity=4.0), group(3, perplexity=1.0)])
    for _ in range(2):
        logged = mixed.observe([group(4, perplexity=1.0)])
    # exp(log(4) / 4) = sqrt(2) before, 1 after
    assert logged["window/perplexity_change"] == pytest.approx(1 - 1 / math.sqrt(2))


def test_late_windows_hold_updates_back_and_the_last_one_stays() -> None:
    moving, said = window()
    found = []
    for budget in (10, 20, 40):
        found.append(moving.measures)
        for _ in range(8):
            moving.observe([group(budget, perplexity=2.0, budget=budget)])
    assert found == [NO_MEASURES, NO_MEASURES, HELD_BACK]
    assert moving.max_new_tokens == 40
    assert len(said) == 2
    assert said[1].endswith("; from now on ratio_max=3.0, max_grad_norm=0.5")


def test_a_restored_window_goes_on_as_the_whole_run_did() -> None:
    lines = [[group(9, perplexity=p)] for p in (2.0, 2.3, 2.2, 2.1, 2.2)]
    lines += [[group(18, perplexity=p, budget=20)] for p in (3.0, 3.1, 3.0, 3.0)]
    whole, _ = window()
    expected = [whole.observe(line) for line in lines]
    for cut in range(len(lines)):
        first, _ = window()
        for line in lines[:cut]:
            first.observe(line)
        second, _ = window()
        second.restore(json.loads(json.dumps(first.state())))
        assert [second.observe(line) for line in lines[cut:]] == expected[cut:]
    assert sum(line["window/transitions"] for line in expected) == 2


def test_an_empty_state_is_the_beginning() -> None:
    moved, _ = window()
    for _ in range(4):
        moved.observe([group(9, perplexity=2.0)])
    moved.restore({})
    assert (moved.max_new_tokens, moved.state()) == (10, window()[0].state())
