from pathlib import Path

from cispo.tracking.columns import Columns
from cispo.watch.following import Following
from cispo.watch.lanes import Timeline
from cispo.watch.panels import drawn, panels, thinned
from cispo.watch.run_view import RunView
from tests.watch.runs import small_run


def test_whole_lines_are_handed_on_once_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    heard: list[object] = []
    following = Following(
        path,
        begin=lambda: heard.append("begin"),
        line=lambda values, start, length: heard.append((values, start, length)),
    )
    assert not following.advance()
    path.write_bytes(b'{"a": 1}\nnot json\n[1]\n{"b": ')
    assert following.advance()
    assert heard == ["begin", ({"a": 1}, 0, 9)]
    assert not following.advance()
    with path.open("ab") as file:
        file.write(b"2}\n")
    assert following.advance()
    assert heard[-1] == ({"b": 2}, 22, 9)


def test_a_file_that_was_replaced_or_shortened_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    heard: list[object] = []
    following = Following(
        path, begin=heard.clear, line=lambda values, start, length: heard.append(values["a"])
    )
    path.write_text('{"a": 1}\n{"a": 2}\n')
    following.advance()
    other = tmp_path / "y"
    other.write_text('{"a": 1}\n{"a": 3}\n')
    other.replace(path)
    following.advance()
    assert heard == [1, 3]
    path.write_text('{"a": 4}\n')
    following.advance()
    assert heard == [4]


def test_lines_that_no_run_writes_harm_nothing(tmp_path: Path) -> None:
    small_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": "x"}\n{"reward/mean": 1}\n{"step": 4, "reward/mean": "high"}\n')
    (tmp_path / "timeline.jsonl").write_text('{"lane": []}\n')
    view = RunView(tmp_path)
    view.refresh()
    assert view.columns.last_step == 4
    assert list(view.columns.values("reward/mean")) == [0.25, 0.5, 0.75]
    assert view.timeline.steps == []


def test_lanes_of_some_steps_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    path.write_text(
        '{"step": 1, "learner": [[0.0, 1.0]]}\n'
        '{"step": 2, "learner": [[2.0, 3.0]], "rewards": [[1.5, 2.5]]}\n'
        '{"step": 3, "learner": [[4.0, 5.0]]}\n'
    )
    timeline = Timeline(path)
    assert timeline.advance()
    assert timeline.steps == [1, 2, 3]
    assert timeline.lanes(2, 9) == {
        "learner": [(2.0, 3.0), (4.0, 5.0)],
        "rewards": [(1.5, 2.5)],
    }


def test_many_points_are_thinned_without_losing_a_peak() -> None:
    values = [float(i % 7) for i in range(10_000)]
    values[5555] = 1000.0
    values[6666] = -1000.0
    chosen = thinned(values, 100)
    assert len(chosen) <= 104
    assert {0, 5555, 6666, 9999} <= set(chosen)
    assert chosen == sorted(chosen)
    assert thinned(values[:50], 100) == list(range(50))


def test_every_panel_can_be_drawn_of_no_data() -> None:
    assert all(drawn(panel, Columns())["lines"] == [] for panel in panels(Columns()))
