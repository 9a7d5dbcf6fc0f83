import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.native.build import native_library
from cispo.policy.lightning.native.stepper import NativeStepper
from cispo.policy.lightning.state import DecodeState
from tests.policy.models import make_model, random_ids

pytestmark = pytest.mark.skipif(native_library() is None, reason="native kernels cannot be built")


@pytest.fixture
def threads():
    """Sets torch's number of threads; one again after the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def _steps(native, config, tokens):
    """Hidden states [steps, N, d] of tokens [steps, N]."""
    state = DecodeState.empty(config, tokens.shape[1])
    return torch.stack([native.step(ids, state) for ids in tokens])


def _wide(**changes):
    """A model so wide that threads share the work on a single row."""
    sizes = {"hidden_size": 320, "intermediate_size": 520, "num_hidden_layers": 2}
    return make_model(layer_types=(LINEAR, FULL), **sizes, **changes)


@pytest.mark.parametrize(("experts", "chosen"), [(1, 1), (8, 2)])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_threads_that_share_the_work_leave_the_bits_of_one(rows, experts, chosen, threads):
    model = _wide(num_local_experts=experts, num_experts_per_tok=chosen)
    native, tokens = NativeStepper(model), random_ids(3 * rows).view(3, rows)
    alone = _steps(native, model.config, tokens)
    logits = native.logits(alone[-1])
    for count in (2, 3):
        threads(count)
        assert torch.equal(_steps(native, model.config, tokens), alone)
        assert torch.equal(native.logits(alone[-1]), logits)


def test_steppers_that_work_at_once_do_not_disturb_each_other(threads):
    threads(2)
    model, tokens = _wide(), random_ids(60).view(30, 2)
    expected = _steps(NativeStepper(model), model.config, tokens)
    with ThreadPoolExecutor(3) as pool:
        steppers = [NativeStepper(model) for _ in range(3)]
        runs = [pool.submit(_steps, native, model.config, tokens) for native in steppers]
    assert all(torch.equal(run.result(), expected) for run in runs)


def test_a_forked_process_which_has_no_threads_steps_alone(threads):
    threads(2)
    model, tokens = _wide(), random_ids(6).view(3, 2)
    native = NativeStepper(model)
    expected = _steps(native, model.config, tokens)
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # kills a child that waits for threads which it has not got
        actual = _steps(native, model.config, tokens)
        os._exit(0 if torch.equal(actual, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
