import pytest

from benchmarks.objectives.alarm import measure
from benchmarks.objectives.cell import slices
from benchmarks.objectives.summary import batches_to, collapse, early_accuracy, interval, summarise
from cispo.tracking.alarms import DEPARTURE
from cispo.types import Sample
from tests.learner.tables import random_samples


def result(*accuracy: float, seed: int = 0, objective: str = "cispo") -> dict[str, object]:
    return {
        "task": "c4",
        "objective": objective,
        "lr": 1e-4,
        "seed": seed,
        "diverged": None,
        "curves": {"accuracy/mean": list(accuracy)},
    }


def test_the_first_accuracy_is_that_of_no_batch() -> None:
    assert batches_to(result(0.3, 0.5, 0.8, 0.7, 0.9)) == 2
    assert batches_to(result(0.3, 0.5)) is None
    assert early_accuracy(result(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9)) == pytest.approx(0.3)


def test_a_run_has_collapsed_where_it_lost_half_of_its_best() -> None:
    assert collapse(result(0.3, 0.8, 0.9, 0.4, 0.1, 0.1)) == 3
    assert collapse(result(0.3, 0.8, 0.5, 0.41, 0.8, 0.9)) is None
    assert collapse(result(0.3, 0.1, 0.0, 0.0)) == 1
    assert collapse({**result(0.3, 0.5, 0.6), "diverged": {"batch": 3}}) == 3


def test_intervals_are_students() -> None:
    # mean 2, standard deviation 1, t(0.975; 2) = 4.303, over the root of 3
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.4843, 2 + 2.4843), abs=1e-3)
    assert interval([0.5]) == (0.5, 0.5, 0.5)


def test_differences_to_dapo_are_paired_by_seed() -> None:
    runs = [result(0.0, *[value] * 5, seed=seed) for seed, value in ((1, 0.9), (2, 0.7))]
    runs += [
        result(0.0, *[value] * 5, seed=seed, objective="dapo")
        for seed, value in ((2, 0.6), (1, 0.8))
    ]
    ours = next(row for row in summarise(runs) if row["objective"] == "cispo")
    assert ours["early_over_dapo"] == pytest.approx([0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("num_groups", "depth", "expected"),
    [
        (32, 16, [2] * 16),
        (5, 16, [2, 3]),
        (2, 16, [2]),
        (1, 16, []),
        (0, 16, []),
        (31, 1, [31]),
        (20, 4, [10, 10]),
    ],
)
def test_updates_keep_their_size_when_groups_lose_their_signal(
    num_groups: int, depth: int, expected: list[int]
) -> None:
    (sample,) = random_samples(1)
    groups: list[tuple[Sample, ...]] = [(sample, sample)] * num_groups
    assert [len(update) // 2 for update in slices(groups, depth)] == expected


def test_an_alarm_is_judged_by_its_lead_and_its_false_alarms() -> None:
    def run(nats: list[float | None], *accuracy: float) -> dict[str, object]:
        made = result(*accuracy)
        made["curves"] = {"accuracy/mean": list(accuracy), DEPARTURE: nats}
        return made

    found = measure(
        [
            run([0.9, 0.1, 0.1, None], 0.3, 0.8, 0.7, 0.2),
            run([0.1, 0.1, 0.1, None], 0.3, 0.8, 0.7, 0.2),
            run([0.1, 0.1, 0.9, None], 0.3, 0.2, 0.1, 0.1),
            run([0.1, 0.6, 0.1, None], 0.3, 0.8, 0.9, 0.9),
            run([0.1, 0.3, 0.1, None], 0.3, 0.8, 0.9, 0.9),
        ]
    )
    assert (found["collapsed"], found["sound"]) == (3, 2)
    judged = found[DEPARTURE]
    assert judged["leads_in_batches"] == [3, None, 0]
    assert (judged["foretold"], judged["median_lead"], judged["false_alarms"]) == (1, 3, 1)
