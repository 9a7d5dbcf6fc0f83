import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cispo.diagnostics import describe, speeds
from cispo.evaluate import describe_heldout
from cispo.learner.statistics import Statistics, metrics
from cispo.length_window import Criteria, LengthWindow, Window
from cispo.phases import Phases
from cispo.tracking.summary import summarise
from cispo.types import PolicyVersion, Sample
from tests.fakes import FakeProgress, make_group

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


@pytest.fixture(scope="module")
def documented() -> list[re.Pattern[str]]:
    """The names in the first columns, where `<x>` stands for any name."""
    cells = [row.split("|")[1] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(names) == len(set(names))
    return [re.compile(re.sub(r"<\w+>", r"[^/]+", re.escape(name))) for name in names]


def undocumented(names: object, documented: list[re.Pattern[str]]) -> list[str]:
    return [n for n in names if not any(p.fullmatch(n) for p in documented)]  # type: ignore[attr-defined]


def test_every_number_of_an_iteration_is_documented(documented: list[re.Pattern[str]]) -> None:
    group = make_group([1.0, 0.0, None])
    samples = [tuple(Sample(rollout=r, advantage=0.0, group_index=0) for r, _ in group.graded)]
    described = describe([group], samples, [], version=PolicyVersion(1), dropped={})
    speed = speeds(described, {"time/learn_seconds": 1.0}, sampling_seconds=1.0)
    assert undocumented([*described, *speed], documented) == []


def test_every_number_of_the_learner_is_documented(documented: list[re.Pattern[str]]) -> None:
    statistics = Statistics.empty(torch.device("cpu"), routers=(2, 4))
    for part in (statistics.sums, statistics.histogram, statistics.expert_counts):
        part.fill_(1.0)
    numbers = metrics(statistics)
    assert "moe/load_max_ratio/1" in numbers
    assert undocumented(numbers, documented) == []


def test_every_number_of_an_evaluation_is_documented(documented: list[re.Pattern[str]]) -> None:
    assert undocumented(describe_heldout([make_group([1.0, 0.0, None])]), documented) == []


def test_every_number_of_the_length_window_is_documented(
    documented: list[re.Pattern[str]],
) -> None:
    criteria = Criteria(iterations=1, perplexity_tolerance=1.0, near_fraction=0.5)
    window = LengthWindow([Window(max_new_tokens=9)], criteria, announce=print)
    group = make_group([1.0])
    long = replace(group, rollouts=tuple(replace(r, token_budget=9) for r in group.rollouts))
    window.observe([long])
    numbers = window.observe([long])
    assert len(numbers) == 5
    assert undocumented(numbers, documented) == []


def test_every_phase_is_documented(documented: list[re.Pattern[str]]) -> None:
    phase = Phases(FakeProgress())
    for name in ("restore", "sample", "learn", "publish", "evaluate", "checkpoint"):
        with phase(name):
            pass
    assert undocumented(phase.lap(), documented) == []


def test_every_number_of_the_summary_is_documented(documented: list[re.Pattern[str]]) -> None:
    assert undocumented(summarise([]), documented) == []
