"""ZeRO 3 hands its weights out without ever holding more than one bucket beyond the shard."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from cispo.weights.buckets import fresh_buffer
from tests.learner.one_rank import one_rank
from tests.learner.tables import ADAMW, TablePolicy, make_rule, tensors

LAYERS = 6
LAYER_BYTES = 400 * 400 * 4
"""Each above DeepSpeed's persistence threshold, below which parameters are never partitioned."""


class DeepPolicy(TablePolicy):
    """A policy with layers that make up nearly all of its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ParameterList([torch.randn(400, 400) for _ in range(LAYERS)])


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> Iterator[None]:
    with one_rank():
        yield


@pytest.mark.parametrize("layers_per_bucket", [1, 2])
def test_no_more_than_one_bucket_is_gathered_at_a_time(layers_per_bucket: int) -> None:
    from cispo.learner.deepspeed import DeepSpeedLearner

    policy = DeepPolicy()
    weights = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    learner = DeepSpeedLearner(policy, make_rule(), zero_stage=3, **ADAMW)
    layers = list(policy.layers)

    def gathered_bytes() -> int:
        return sum(layer.numel() * layer.element_size() for layer in layers)

    assert gathered_bytes() == 0
    during: list[int] = []

    def allocate(num_bytes: int) -> Tensor:
        during.append(gathered_bytes())  # the bucket's tensors are whole now
        return fresh_buffer(num_bytes)

    max_bytes = layers_per_bucket * LAYER_BYTES
    found: dict[str, Tensor] = {}
    for bucket in learner.buckets(version=1, max_bytes=max_bytes, allocate=allocate):
        assert gathered_bytes() == 0
        assert bucket.num_bytes <= max_bytes
        found.update(tensors([bucket]))
    assert max(during) == max_bytes
    assert sum(during) == LAYERS * LAYER_BYTES
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
