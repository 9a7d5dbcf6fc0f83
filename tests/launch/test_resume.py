"""What a user is told about where a run goes on."""

import json
from pathlib import Path

from cispo.config import LearnerConfig
from launch.resume import Resume, read_resume
from tests.checkpoint.saved import CONFIG, save
from tests.fakes import make_group


def resume_of(folder: Path, **shape: object) -> Resume:
    """Two checkpoints of two ranks, the newer one broken, with a group in flight in the older."""
    save(folder, 1, in_flight=[make_group([0.0, 1.0], index=32)])
    save(folder, 2)
    for checkpoint in folder.iterdir():
        note = {"num_steps": 3, "shape": {"dtype": "float32", **shape}}
        (checkpoint / "learner.json").write_text(json.dumps(note))
    (folder / "iteration-00000002" / "weights").unlink()
    return read_resume(str(folder), CONFIG)


def test_the_checkpoint_and_what_was_passed_over_are_named(tmp_path: Path) -> None:
    resume = resume_of(tmp_path, backend="deepspeed", num_ranks=2, zero_stage=3)
    assert resume.notices(LearnerConfig(num_ranks=2, zero_stage=3)) == [
        f"passed over: {tmp_path}/iteration-00000002 is broken: weights is missing",
        f"resuming after iteration 1 from {tmp_path}/iteration-00000001 with 1 groups in flight",
    ]
    assert [group.index for group in resume.in_flight] == [32]
    assert (resume.tracker_run_id, resume.num_bytes > 5) == ("abc123", True)


def test_a_conversion_is_told_with_both_learners(tmp_path: Path) -> None:
    resume = resume_of(tmp_path, backend="deepspeed", num_ranks=2, zero_stage=1)
    told = resume.notices(LearnerConfig(num_ranks=1, zero_stage=3))[-1]
    assert told.startswith(
        "learner.backend=deepspeed learner.num_ranks=2 learner.zero_stage=1 saved this checkpoint: "
        f"it is converted once, into {tmp_path}/iteration-00000001-universal, for "
        "learner.backend=deepspeed learner.num_ranks=1 learner.zero_stage=3; "
    )


def test_the_local_learner_has_one_rank_whatever_is_configured(tmp_path: Path) -> None:
    resume = resume_of(tmp_path, backend="local")
    assert len(resume.notices(LearnerConfig(backend="local", zero_stage=2))) == 2
    assert "saved this checkpoint" in resume.notices(LearnerConfig())[-1]


def test_a_fresh_run_has_nothing_to_tell() -> None:
    assert Resume().notices(LearnerConfig()) == []
