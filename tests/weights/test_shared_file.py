"""Files that carry weights: none is half written, none stays, and what fails says why."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket, make_bucket
from cispo.weights.outlet import export
from cispo.weights.shared_file import BucketFile, FileOutlet


def bucket(index: int = 0, total: int = 1) -> WeightBucket:
    return make_bucket({f"layer.{index}": torch.arange(20.0) + index}, index=index, total=total)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_version_lies_there_until_the_next_one_and_its_readers_keep_what_they_mapped(
    tmp_path: Path,
) -> None:
    outlet = FileOutlet(tmp_path)
    first = export(PolicyVersion(1), iter([bucket(0, 2), bucket(1, 2)]), outlet)
    assert files(tmp_path) == [f"version-000001-bucket-0000{i}" for i in (0, 1)]
    mapped = first.tickets[1].fetch()
    export(PolicyVersion(2), iter([bucket()]), outlet)
    assert files(tmp_path) == ["version-000002-bucket-00000"]
    mapped.verify()
    assert not mapped.buffer.flags.writeable
    with pytest.raises(WeightSyncError, match=r"bucket 1 of 2 \(layer\.0 .*cannot be read.*00001"):
        first.tickets[0].fetch()
    outlet.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    outlet = FileOutlet(tmp_path)
    outlet.begin(PolicyVersion(1))
    ticket = outlet.send(bucket())
    os.truncate(ticket.path, 7)
    with pytest.raises(WeightSyncError, match=r"layer\.0 .* has 7 bytes, not 80"):
        ticket.fetch()


def test_a_full_disk_is_told_apart_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = FileOutlet(tmp_path)
    outlet.begin(PolicyVersion(1))

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WeightSyncError, match=r"80 bytes: .*No space left.*weights\.folder"):
        outlet.send(bucket())
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named_and_the_other_ranks_are_not_left_waiting(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    buckets = iter([bucket(0, 2), bucket(1, 2)])
    with pytest.raises(WeightSyncError, match=r"^weights\.folder=.*/file: "):
        export(PolicyVersion(1), buckets, FileOutlet(tmp_path / "file"))
    assert next(buckets, None) is None


def test_what_killed_learners_of_this_machine_left_is_removed_and_nothing_else(
    tmp_path: Path,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host = socket.gethostname()
    dead = tmp_path / f"cispo-weights-{host}-{child.pid}"
    kept = [
        tmp_path / f"cispo-weights-{host}-{os.getppid()}",
        tmp_path / f"cispo-weights-elsewhere-{child.pid}",
        tmp_path / f"other-{child.pid}",
    ]
    for folder in (dead, *kept):
        folder.mkdir()
        (folder / "version-000001-bucket-00000").touch()
    FileOutlet(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_tickets_remove_what_a_killed_learner_cannot(tmp_path: Path) -> None:
    made = export(PolicyVersion(1), iter([bucket(0, 2), bucket(1, 2)]), FileOutlet(tmp_path))
    for ticket in [*made.tickets, *made.tickets]:
        assert isinstance(ticket, BucketFile)
        ticket.discard()
    assert list(tmp_path.iterdir()) == []
