import gzip
import json
import os
from pathlib import Path

import pytest

from cispo.tracking.rollouts import read_rollouts
from cispo.types import RolloutKind
from cispo.watch.file_index import ROW
from cispo.watch.index import RolloutIndex
from cispo.watch.members import read_member, read_members
from tests.fakes import make_group
from tests.watch.runs import small_run, write_rollouts


def indexed(folder: Path) -> RolloutIndex:
    index = RolloutIndex(folder / "rollouts")
    while index.refresh(at_most=1):
        pass
    return index


def test_members_are_found_and_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    texts = [b"first\n", b"", os.urandom(200_000), b"last\n"]
    path.write_bytes(b"".join(gzip.compress(text) for text in texts))
    found = list(read_members(path))
    assert [text for _, text in found] == texts
    assert [read_member(path, member) for member, _ in found] == texts


def test_a_member_that_is_torn_off_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"whole") + gzip.compress(os.urandom(5000))[:-9])
    assert [text for _, text in read_members(path)] == [b"whole"]


def test_groups_are_compressed_a_few_at_a_time_and_any_reader_reads_them(tmp_path: Path) -> None:
    groups = [make_group([1.0, 0.0], index=i, lengths=[900, 900]) for i in range(20)]
    write_rollouts(tmp_path, 1, groups, recorded_tokens=10**6)
    path = tmp_path / "rollouts" / "iteration_000001.jsonl.gz"
    members = [text.count(b"\n") for _, text in read_members(path)]
    assert len(members) > 3
    assert all(count % 2 == 0 for count in members)
    assert sum(members) == len(read_rollouts(path)) == 40


def test_every_rollout_is_found_again_by_its_place(tmp_path: Path) -> None:
    index = indexed(small_run(tmp_path))
    assert [file.path.name for file in index.files] == [
        f"iteration_00000{step}.jsonl.gz" for step in (1, 2, 3)
    ]
    for file in index.files:
        entries = read_rollouts(file.path)
        assert len(file.rows) == len(entries) == 5
        for row, expected in enumerate(entries):
            assert index.entry(file, row) == expected
        with pytest.raises(IndexError):
            index.entry(file, 5)
        with pytest.raises(IndexError):
            index.entry(file, -1)
    assert index.sources.texts == ["sums", "logic"]


def test_a_rollout_takes_few_bytes_in_memory() -> None:
    assert ROW.itemsize <= 48


def test_files_are_indexed_a_few_at_a_time_the_newest_first(tmp_path: Path) -> None:
    small_run(tmp_path)
    index = RolloutIndex(tmp_path / "rollouts")
    assert index.refresh(at_most=2)
    assert [file.step for file in index.files] == [2, 3]
    assert index.num_waiting == 1
    assert index.refresh(at_most=2)
    assert not index.refresh(at_most=2)
    assert index.num_waiting == 0


def test_what_a_resume_removes_or_writes_anew_is_noticed(tmp_path: Path) -> None:
    index = indexed(small_run(tmp_path))
    (tmp_path / "rollouts" / "iteration_000003.jsonl.gz").unlink()
    write_rollouts(tmp_path, 2, [make_group([0.0, 1.0], index=77)])
    write_rollouts(tmp_path, 2, [make_group([1.0])], kind=RolloutKind.HELD_OUT)
    assert index.refresh(at_most=9)
    assert [(file.kind, file.step) for file in index.files] == [
        ("iteration", 1),
        ("heldout", 2),
        ("iteration", 2),
    ]
    assert index.entry(index.file("iteration_000002.jsonl.gz"), 1)["group"] == 77


def test_a_file_that_is_none_of_rollouts_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    small_run(tmp_path)
    folder = tmp_path / "rollouts"
    (folder / "iteration_000007.jsonl.gz").write_bytes(b"no gzip")
    (folder / "iteration_000008.jsonl.gz").write_bytes(gzip.compress(b'{"group": 1}\n'))
    index = indexed(tmp_path)
    assert sorted(index.broken) == ["iteration_000007.jsonl.gz", "iteration_000008.jsonl.gz"]
    assert len(index.files) == 3
    write_rollouts(tmp_path, 7, [make_group([0.0, 1.0])])
    assert index.refresh(at_most=9)
    assert sorted(index.broken) == ["iteration_000008.jsonl.gz"]


def test_links_and_other_names_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    small_run(tmp_path / "run")
    secret = tmp_path / "secret.gz"
    secret.write_bytes(gzip.compress(json.dumps({"password": 1}).encode()))
    folder = tmp_path / "run" / "rollouts"
    (folder / "iteration_000009.jsonl.gz").symlink_to(secret)
    (folder / "other_000001.jsonl.gz").write_bytes(secret.read_bytes())
    index = indexed(tmp_path / "run")
    assert [file.step for file in index.files] == [1, 2, 3]
    assert index.broken == {}


def test_files_written_before_members_are_read_as_well(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, [make_group([1.0, 0.0])])
    path = tmp_path / "rollouts" / "iteration_000001.jsonl.gz"
    old = []
    for entry in read_rollouts(path):
        for name in ("advantage", "tokens", "kind", "version_runs"):
            del entry[name]
        old.append(json.dumps(entry))
    path.write_bytes(gzip.compress("\n".join(old).encode() + b"\n"))
    index = indexed(tmp_path)
    assert index.entry(index.files[0], 1)["reward"] == 0.0
    assert index.files[0].rows["traced"].tolist() == [0, 0]


def test_a_task_that_has_the_shape_of_tokens_is_read_as_well(tmp_path: Path) -> None:
    shape = {"a": 1, "tokens": {"pieces": ["x"], "ratios": [1.0]}}
    for step, recorded in ((1, 0), (2, 100)):
        group = make_group([1.0, 0.0])
        object.__setattr__(group.task, "truth", shape)
        write_rollouts(tmp_path, step, [group], recorded_tokens=recorded)
    untraced, traced = indexed(tmp_path).files
    assert untraced.rows["traced"].tolist() == [0, 0]
    assert traced.rows["traced"].tolist() == [1, 1]
    assert untraced.rows["reward"].tolist() == traced.rows["reward"].tolist() == [1.0, 0.0]
