import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cispo.tracking.conclude import conclude
from cispo.tracking.figure import draw
from cispo.tracking.history import History
from cispo.tracking.jsonl import JsonlTracker
from cispo.tracking.report import choose
from cispo.tracking.rollouts import RolloutFiles, entries
from cispo.tracking.summary import summarise
from tests.fakes import make_group

HISTORY: History = [
    (0, {"heldout/avg@4": 0.25, "heldout/avg@4/sums": 0.5, "time/iteration_seconds": 4.0}),
    (
        1,
        {
            "reward/mean": 0.25,
            "reward/part/format": 1.0,
            "rollout/sampled_tokens": 100.0,
            "rollout/learned_tokens": 300.0,
            "verdict/rollouts": 8.0,
            "verdict/invalid_rollouts": 1.0,
            "drops/all_right_groups": 2.0,
            "staleness/max": 0.0,
            "overlap/wall_seconds": 4.0,
            "overlap/engine_seconds": 2.0,
            "overlap/learner_seconds": 1.0,
            "overlap/both_seconds": 0.0,
            "ratio/max": float("inf"),
            "mismatch/max_nats": 1e-5,
            "time/sample_seconds": 2.0,
            "time/learn_seconds": 1.0,
            "time/rollout_busy_seconds": 2.0,
            "time/iteration_seconds": 3.5,
        },
    ),
    (
        2,
        {
            "heldout/avg@4": 0.75,
            "heldout/avg@4/sums": 1.0,
            "reward/mean": 0.5,
            "rollout/sampled_tokens": 200.0,
            "rollout/learned_tokens": 300.0,
            "verdict/rollouts": 8.0,
            "verdict/invalid_rollouts": 3.0,
            "drops/all_right_groups": 1.0,
            "staleness/max": 1.0,
            "overlap/wall_seconds": 6.0,
            "overlap/engine_seconds": 3.0,
            "overlap/learner_seconds": 3.0,
            "overlap/both_seconds": 2.0,
            "mismatch/max_nats": 3e-5,
            "groups/pass_0_fraction": 0.5,
            "groups/pass_0_to_25_fraction": 0.1,
            "groups/pass_25_to_50_fraction": 0.1,
            "groups/pass_50_to_75_fraction": 0.1,
            "groups/pass_75_to_100_fraction": 0.1,
            "groups/pass_100_fraction": 0.1,
            "time/sample_seconds": 3.0,
            "time/learn_seconds": 2.0,
            "time/rollout_busy_seconds": 3.0,
            "time/iteration_seconds": 6.5,
        },
    ),
]


def test_the_summary_is_worked_out_from_the_metrics() -> None:
    summary = summarise(HISTORY)
    assert summary["iterations"] == 2
    assert (summary["heldout_before"], summary["heldout_after"]) == (0.25, 0.75)
    assert summary["heldout_metric"] == "heldout/avg@4"
    assert summary["heldout_before_by_source"] == {"sums": 0.5}
    assert summary["heldout_after_by_source"] == {"sums": 1.0}
    assert summary["rollout_tokens_per_second"] == 300 / 5
    assert summary["learner_tokens_per_second"] == 600 / 3
    assert summary["overlap_fraction"] == 2.0 / 4.0
    assert summary["staleness_max"] == 1.0
    assert summary["invalid_fraction"] == 4 / 16
    assert summary["dropped_groups"] == 3
    assert summary["mismatch_max_nats"] == 3e-5
    assert summary["wall_seconds"] == 14.0
    assert summary["phase_seconds"] == {"sample": 5.0, "learn": 3.0}


def test_a_number_without_data_is_none_and_never_made_up() -> None:
    summary = summarise([(1, {"time/iteration_seconds": 1.0})])
    for name in (
        "heldout_before",
        "heldout_after",
        "rollout_tokens_per_second",
        "learner_tokens_per_second",
        "overlap_fraction",
        "staleness_max",
        "invalid_fraction",
    ):
        assert summary[name] is None


def test_faults_are_added_up_and_what_never_happened_is_left_out() -> None:
    lines = [
        (1, {"faults/learner_restarts": 0.0, "faults/engine_deaths": 0.0}),
        (2, {"faults/learner_restarts": 1.0, "faults/engine_deaths": 0.0}),
        (3, {"faults/learner_restarts": 2.0, "faults/engine_deaths": 0.0}),
    ]
    failures = {"wandb_failures": 4, "rollout_file_failures": 0}
    assert summarise(lines, failures=failures)["faults"] == {
        "learner_restarts": 3.0,
        "wandb_failures": 4,
    }
    assert summarise(HISTORY)["faults"] == {}


def test_an_evaluation_before_the_run_alone_is_not_one_after_it() -> None:
    summary = summarise(HISTORY[:2])
    assert (summary["heldout_before"], summary["heldout_after"]) == (0.25, None)


class Page(HTMLParser):
    """Checks that tags nest, and collects text and the addresses of what the page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    for step, metrics in HISTORY:
        tracker.log(step, metrics)
    tracker.finish({})
    groups = [make_group([1.0, 0.0, None]), make_group([0.0, 1.0], index=1, source="logic")]
    RolloutFiles(tmp_path / "rollouts", every=1).record(2, groups)
    (tmp_path / "config.yaml").write_text("name: <smoke>\n")
    return tmp_path


def test_a_run_ends_with_a_summary_a_picture_and_a_page_of_its_own(folder: Path) -> None:
    summary = conclude(folder, name="<smoke>")
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    page = Page()
    page.feed((folder / "report.html").read_text())
    assert page.open == []
    assert all(address.startswith("data:image/png;base64,") for address in page.loads)
    assert len(page.loads) == 1
    for text in (
        "name: <smoke>",
        "held-out avg@4 25.0% → 75.0%",
        "0 + 1 = ?",
        "ungraded: sandbox lost",
        "right, reward 1.00",
        "Time by phase",
    ):
        assert text in page.text


def test_a_run_without_rollouts_or_config_has_a_report_too(tmp_path: Path) -> None:
    JsonlTracker(tmp_path / "metrics.jsonl").log(0, {"heldout/avg@1": 0.5})
    conclude(tmp_path, name="short")
    assert (tmp_path / "report.html").exists()


def test_the_picture_bears_empty_short_and_infinite_histories(tmp_path: Path) -> None:
    for number, history in enumerate(([], HISTORY[:1], HISTORY[:2], HISTORY)):
        path = tmp_path / f"{number}.png"
        draw(history, path, title="run")
        assert path.stat().st_size > 10_000


def test_the_rollouts_shown_are_of_all_sources_and_outcomes() -> None:
    groups = [
        make_group([1.0, 1.0, 1.0, 0.0]),
        make_group([0.0, 0.0, 0.0, 1.0], index=1, source="logic"),
    ]
    chosen = choose(list(entries(groups)), 4)
    assert {(entry["source"], entry["reward"]) for entry in chosen} == {
        ("sums", 1.0),
        ("sums", 0.0),
        ("logic", 1.0),
        ("logic", 0.0),
    }
