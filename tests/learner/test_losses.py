"""Which of several failures explains best why a learner cannot go on."""

from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from cispo.errors import DivergedError, LearnerError, LearnerLostError
from cispo.learner.losses import hung, raise_worst
from cispo.stacks import Dump


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("step", "traceback", error)


def test_the_dead_are_named_and_not_those_who_lost_their_connection_to_them() -> None:
    errors = {0: raised(RuntimeError("connection reset")), 2: ActorDiedError()}
    with pytest.raises(LearnerLostError, match=r"^learner rank 2 of 3 died during step: "):
        raise_worst(errors, 3, "step")


def test_a_rank_that_ran_out_of_memory_is_lost() -> None:
    with pytest.raises(LearnerLostError, match=r"learner ranks 0, 1 of 2 died during save: "):
        raise_worst({0: OutOfMemoryError("no memory"), 1: OutOfMemoryError("none")}, 2, "save")


def test_a_verdict_of_our_own_explains_best_and_is_raised_as_itself() -> None:
    errors = {0: ActorDiedError(), 1: raised(DivergedError("task-1, token 3 is nan"))}
    with pytest.raises(DivergedError, match="task-1, token 3"):
        raise_worst(errors, 2, "step")


@pytest.mark.parametrize(
    "outside", [torch.distributed.DistNetworkError("unreachable"), torch.AcceleratorError("ecc")]
)
def test_what_a_device_or_the_network_did_may_pass(outside: Exception) -> None:
    with pytest.raises(LearnerLostError, match="rank 1 of 2 failed in export_weights"):
        raise_worst({1: raised(outside)}, 2, "export_weights")


def test_a_defect_of_a_program_is_no_loss() -> None:
    with pytest.raises(LearnerError, match="rank 0 of 1 failed in step") as error:
        raise_worst({0: raised(TypeError("a defect"))}, 1, "step")
    assert not isinstance(error.value, LearnerLostError)


def test_of_ranks_that_wait_for_each_other_the_one_that_shows_no_stack_hangs(
    tmp_path: Path,
) -> None:
    dump = Dump(path=tmp_path / "stacks-1.txt", silent={"learner rank 1": "stopped"})
    assert str(hung([0, 1], 2, "step", seconds=60.0, dump=dump)) == (
        "learner rank 1 of 2 gave no answer to step in learner.step_seconds=60 s (stopped); "
        f"stacks: {tmp_path / 'stacks-1.txt'}"
    )


def test_ranks_that_all_show_their_stacks_are_all_named(tmp_path: Path) -> None:
    dump = Dump(path=tmp_path / "stacks-1.txt", silent={"rollout-0": ""})
    text = str(hung([0, 2], 3, "save", seconds=0.5, dump=dump))
    assert text.startswith("learner ranks 0, 2 of 3 gave no answer to save in learner.step_seconds")
    assert str(hung([0], 1, "step", seconds=1.0, dump=None)).endswith("=1 s")
