"""A learner goes on where one of another number of ranks, ZeRO stage or backend was saved."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cispo.checkpoint.finding import converted_folder
from cispo.errors import CheckpointError
from cispo.learner.saved_weights import saved_weights
from cispo.learner.shards import parameter_names
from cispo.learner.universal import convert
from cispo.types import Metrics
from tests.learner.folded import (
    NUM_RANKS,
    SEEDS_AFTER,
    SEEDS_BEFORE,
    STAGES,
    ThreeTables,
    deepspeed,
    name_of,
    steps,
)
from tests.learner.one_rank import one_rank
from tests.learner.tables import local_learner, make_rule
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FOLDED = ("-m", "tests.learner.folded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What one and two ranks saved at all stages, and what two ranks did next."""
    folder = tmp_path_factory.mktemp("folded")
    with one_rank():
        learner = deepspeed(1, torch.float32)
        steps(learner, SEEDS_BEFORE)
        (saved := folder / name_of(1, 1, torch.float32)).mkdir()
        learner.save(saved)
        list(convert(saved))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ranks = [
            subprocess.Popen(
                [sys.executable, *FOLDED, str(folder), str(rank), str(NUM_RANKS), str(port)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(NUM_RANKS)
        ]
        try:
            for rank in ranks:
                output, _ = rank.communicate(timeout=3 * PATIENCE_SECONDS)
                assert rank.returncode == 0, output[-3000:]
        finally:
            for rank in ranks:
                rank.kill()
        yield folder


def went_on(folder: Path, name: str) -> list[Metrics]:
    noted: list[Metrics] = json.loads((folder / f"{name}.json").read_text())
    return noted


def restore(learner: Any, checkpoint: Path) -> None:
    list(convert(checkpoint))
    learner.restore(checkpoint)


def check_same_curve(
    found: list[Metrics], expected: list[Metrics], *, dtype: torch.dtype = torch.float32
) -> None:
    rounding = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=rounding, abs=rounding)


@pytest.mark.parametrize(("stage", "dtype"), STAGES)
def test_one_rank_goes_on_where_two_were_saved(
    folder: Path, stage: int, dtype: torch.dtype
) -> None:
    name = name_of(NUM_RANKS, stage, dtype)
    learner = deepspeed(stage, dtype, seed=9)
    restore(learner, folder / name)
    check_same_curve(steps(learner, SEEDS_AFTER), went_on(folder, name), dtype=dtype)


@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_go_on_where_one_was_saved(folder: Path, stage: int) -> None:
    learner = deepspeed(1, torch.float32, seed=9)
    restore(learner, folder / name_of(1, 1, torch.float32))
    expected = steps(learner, SEEDS_AFTER)
    check_same_curve(went_on(folder, f"to-two-ranks-{stage}"), expected)


@pytest.mark.parametrize(
    ("old", "new", "dtype"),
    [
        (1, 3, torch.float32),
        (3, 2, torch.float32),
        (2, 0, torch.float32),
        (0, 1, torch.float32),
        (1, 3, torch.bfloat16),
        (3, 1, torch.bfloat16),
    ],
)
def test_another_stage_goes_on(folder: Path, old: int, new: int, dtype: torch.dtype) -> None:
    name = name_of(NUM_RANKS, old, dtype)
    learner = deepspeed(new, dtype, seed=9)
    restore(learner, folder / name)
    check_same_curve(steps(learner, SEEDS_AFTER), went_on(folder, name), dtype=dtype)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_local_learner_goes_on_where_two_ranks_were_saved(folder: Path, stage: int) -> None:
    name = name_of(NUM_RANKS, stage, torch.float32)
    learner = local_learner(ThreeTables(seed=9), make_rule(micro_batch_tokens=20))
    restore(learner, folder / name)
    check_same_curve(steps(learner, SEEDS_AFTER), went_on(folder, name))


def test_what_was_not_converted_is_refused(tmp_path: Path) -> None:
    learner = local_learner(ThreeTables(), make_rule(micro_batch_tokens=20))
    learner.save(tmp_path)
    (note := tmp_path / "learner.json").write_text(note.read_text().replace("local", "deepspeed"))
    with pytest.raises(CheckpointError, match=r"and has not been converted for this learner: "):
        learner.restore(tmp_path)


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.usefixtures("folder")
def test_deepspeed_goes_on_where_the_local_learner_was_saved(tmp_path: Path, stage: int) -> None:
    learner = local_learner(ThreeTables(), make_rule(micro_batch_tokens=20))
    steps(learner, SEEDS_BEFORE)
    (saved := tmp_path / "local").mkdir()
    learner.save(saved)
    other = deepspeed(stage, torch.float32, seed=9)
    restore(other, saved)
    check_same_curve(steps(other, SEEDS_AFTER), steps(learner, SEEDS_AFTER))


@pytest.mark.parametrize(("stage", "dtype"), STAGES)
def test_what_two_ranks_saved_gives_up_its_weights(
    folder: Path, stage: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Going on from them with the local learner shows that they are those of the checkpoint."""
    name = name_of(NUM_RANKS, stage, dtype)
    found = saved_weights(folder / name)
    learner = deepspeed(stage, dtype, seed=9)
    restore(learner, folder / name)
    (own := tmp_path / "one").mkdir()
    learner.save(own)
    again = saved_weights(own)
    assert found.keys() == again.keys() == {"table", "slope", "scale"}
    for weight_name, weight in found.items():
        assert weight.shape == dict(ThreeTables().named_parameters())[weight_name].shape
        assert torch.equal(weight, again[weight_name])


def test_a_conversion_is_done_once_and_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    source = folder / name_of(NUM_RANKS, 3, torch.float32)
    checkpoint = tmp_path / "iteration-00000001"
    checkpoint.symlink_to(source)
    converting = convert(checkpoint)
    assert next(converting) == "table"
    converting.close()
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]
    assert list(convert(checkpoint)) == parameter_names(checkpoint) == ["table", "slope", "scale"]
    target = converted_folder(checkpoint)
    files = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    assert len(files) == 3 * 4 + 2
    assert list(convert(checkpoint)) == []
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.name, target.name]


def test_a_learner_that_cannot_be_converted_is_refused_and_leaves_nothing(
    folder: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "iteration-00000001"
    checkpoint.mkdir()
    (checkpoint / "learner.json").write_text(
        (folder / name_of(NUM_RANKS, 3, torch.float32) / "learner.json").read_text()
    )
    with pytest.raises(CheckpointError, match=r"zero_pp_rank_0_mp_rank_00_optim_states.* missing"):
        list(convert(checkpoint))
    assert not converted_folder(checkpoint).exists()
