import pytest
import torch

from cispo.policy.lightning.native.build import native_library
from cispo.policy.lightning.native.stepper import NativeStepper
from cispo.policy.lightning.state import DecodeState
from tests.policy.models import make_model

pytestmark = pytest.mark.skipif(native_library() is None, reason="native kernels cannot be built")


def test_chosen_experts_are_told_to_the_tensor_that_is_there_at_a_step():
    model = make_model()
    native, state = NativeStepper(model), DecodeState.empty(model.config, 2)
    tokens = torch.tensor([3, 7])
    native.step(tokens, state)
    first, second = torch.full((2, 2, model.config.num_routes), 255, dtype=torch.uint8)
    native.routes = first
    native.step(tokens, state)
    assert (first < model.config.num_local_experts).all()
    seen = first.clone()
    native.routes = second
    native.step(tokens, state)
    assert (second < model.config.num_local_experts).all()
    assert torch.equal(first, seen)
