"""The training form gives a sequence the same bits in any row, in float32 on the CPU."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from cispo.policy.lightning.model import LightningModel
from tests.parity.cases import LENGTHS, every_architecture, every_kernel
from tests.policy.models import actions, make_model, pack, random_ids

pytestmark = pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="MKL promises equal bits; it is not there"
)
SEQUENCES = [random_ids(length, seed=length) for length in LENGTHS]


def logprobs(model: LightningModel, sequences: Sequence[Tensor]) -> list[Tensor]:
    ids, ends = pack(sequences)
    packed = model(ids, ends, actions(ends)).logprobs
    return list(packed.split([len(sequence) for sequence in sequences]))


@every_kernel
@every_architecture
def test_a_packed_sequence_is_an_unpacked_one(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    for sequence, packed in zip(SEQUENCES, logprobs(model, SEQUENCES), strict=True):
        (alone,) = logprobs(model, [sequence])
        assert torch.equal(alone, packed), len(sequence)


@every_kernel
@every_architecture
def test_neighbours_do_not_matter(kernels: str, architecture: Mapping[str, object]) -> None:
    model = make_model(kernels=kernels, **architecture)
    expected = logprobs(model, SEQUENCES)
    chosen = [5, 3, 11, 8, 0, 10, 2]
    found = logprobs(model, [random_ids(77, seed=1), *(SEQUENCES[i] for i in chosen)])[1:]
    for index, logprob in zip(chosen, found, strict=True):
        assert torch.equal(logprob, expected[index])


@every_kernel
@every_architecture
def test_gradients_threads_and_chunks_of_the_head_do_not_matter(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    expected = torch.cat(logprobs(model, SEQUENCES))
    with torch.no_grad():
        assert torch.equal(torch.cat(logprobs(model, SEQUENCES)), expected)
    model.model.recompute_layers = True
    assert torch.equal(torch.cat(logprobs(model, SEQUENCES)), expected)
    model.logprob_chunk = 7
    assert torch.equal(torch.cat(logprobs(model, SEQUENCES)), expected)
    torch.set_num_threads(2)
    try:
        assert torch.equal(torch.cat(logprobs(model, SEQUENCES)), expected)
    finally:
        torch.set_num_threads(1)


@every_kernel
@every_architecture
def test_gradients_of_a_packed_row_are_the_sum_of_its_sequences(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    sequences = SEQUENCES[3:]

    def gradients(row: Sequence[Tensor]) -> list[Tensor]:
        total = torch.cat(logprobs(model, row)).sum()
        return list(torch.autograd.grad(total, list(model.parameters())))

    packed = gradients(sequences)
    alone = [gradients([sequence]) for sequence in sequences]
    for index, gradient in enumerate(packed):
        expected = sum(each[index].double() for each in alone)
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
