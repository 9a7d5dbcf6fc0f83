"""Decoding and reading in pieces agree with the training form, and rows do not see each other."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.state import DecodeState
from cispo.policy.lightning.stepper import Stepper, make_stepper
from tests.parity.cases import ARCHITECTURES, every_architecture, every_kernel
from tests.policy.models import make_model, pack, random_ids


def hidden(model: LightningModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.hidden(ids, torch.tensor([0, len(ids)], dtype=torch.int32))[0]


def read(
    model: LightningModel, ids: Tensor, cuts: Sequence[int] = ()
) -> tuple[Tensor, DecodeState]:
    """Read one prompt, in pieces that end at the cuts."""
    state = DecodeState.empty(model.config, 1)
    last = torch.empty(0)
    for start, stop in zip((0, *cuts), (*cuts, len(ids)), strict=True):
        last, state = model.prefill(ids[start:stop], torch.tensor([0, stop - start]), state)
    return last, state


def rows_of(model: LightningModel, states: Sequence[DecodeState]) -> DecodeState:
    """The states as rows of one."""
    rows = DecodeState.empty(model.config, len(states))
    for row, state in enumerate(states):
        rows.write(torch.tensor([row]), state, torch.tensor([0]))
    return rows


def decode(stepper: Stepper, state: DecodeState, tokens: Tensor) -> Tensor:
    """Step all rows through tokens [N, T]; returns hidden states [N, T, d]."""
    steps = []
    for column in tokens.T:
        state.reserve(state.num_rows)
        steps.append(stepper.step(column.contiguous(), state).clone())
    return torch.stack(steps, dim=1)


@every_kernel
@every_architecture
def test_decoding_after_a_prefill_is_the_training_form(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    stepper = make_stepper(model, kernels=kernels)
    sequences = [random_ids(200 + n, seed=n) for n in range(5)]
    lengths = [1, 20, 64, 65, 130]
    starts = [read(model, ids[:n]) for ids, n in zip(sequences, lengths, strict=True)]
    state = rows_of(model, [state for _, state in starts])
    following = torch.stack([ids[n : n + 30] for ids, n in zip(sequences, lengths, strict=True)])
    decoded = decode(stepper, state, following)
    for row, (ids, n) in enumerate(zip(sequences, lengths, strict=True)):
        expected = hidden(model, ids[: n + 30])
        torch.testing.assert_close(starts[row][0][0], expected[n - 1], rtol=0, atol=2e-5)
        torch.testing.assert_close(decoded[row], expected[n:], rtol=0, atol=2e-5)


@every_kernel
@every_architecture
def test_a_rows_bits_depend_on_that_row_alone(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    stepper = make_stepper(model, kernels=kernels)
    starts = [read(model, random_ids(n, seed=n))[1] for n in (3, 64, 90, 17, 128)]
    tokens = torch.stack([random_ids(12, seed=n) for n in range(5)])
    together = decode(stepper, rows_of(model, starts), tokens)
    alone = decode(stepper, rows_of(model, starts[2:3]), tokens[2:3])
    assert torch.equal(alone[0], together[2])
    order = [4, 2, 0]
    crowd = decode(stepper, rows_of(model, [starts[i] for i in order]), tokens[order])
    assert torch.equal(crowd, together[order])
    torch.set_num_threads(2)
    try:
        assert torch.equal(decode(stepper, rows_of(model, starts), tokens), together)
    finally:
        torch.set_num_threads(1)


@every_kernel
@every_architecture
def test_a_row_that_is_used_again_is_as_good_as_new(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    stepper = make_stepper(model, kernels=kernels)
    (first, second) = (read(model, random_ids(n, seed=n))[1] for n in (150, 70))
    tokens = random_ids(20, seed=9).view(1, -1)
    state = rows_of(model, [first])
    decode(stepper, state, tokens)
    row = torch.tensor([0])
    state.reset(row)
    state.write(row, second, row)
    again = decode(stepper, state, tokens)
    assert torch.equal(again, decode(stepper, rows_of(model, [second]), tokens))


@every_kernel
@every_architecture
def test_a_prompt_read_in_pieces_is_the_whole(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    ids = random_ids(300)
    expected, whole = read(model, ids)
    for cuts in ((64,), (128, 192), (256,), (7, 100), (1, 2, 299)):
        found, state = read(model, ids, cuts)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        torch.testing.assert_close(state.linear, whole.linear, rtol=1e-4, atol=1e-4)
    assert torch.equal(expected[0], hidden(model, ids)[-1]), "a prefill is the training form"


@every_kernel
def test_pieces_of_whole_chunks_have_the_bits_of_the_whole_in_lightning_layers(
    kernels: str,
) -> None:
    model = make_model(kernels=kernels, **ARCHITECTURES["linear"])
    ids = random_ids(300)
    expected, whole = read(model, ids)
    for cuts in ((64,), (128, 192), (64, 128, 192, 256)):
        found, state = read(model, ids, cuts)
        assert torch.equal(found, expected)
        assert torch.equal(state.linear, whole.linear)


@every_kernel
@every_architecture
def test_a_prompt_has_the_same_bits_beside_other_prompts(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    model = make_model(kernels=kernels, **architecture)
    prompts = [random_ids(n, seed=n) for n in (5, 130, 64, 33)]
    together, states = model.prefill(*pack(prompts))
    for row, prompt in enumerate(prompts):
        alone, state = read(model, prompt)
        assert torch.equal(alone[0], together[row])
        assert torch.equal(state.linear[:, 0], states.linear[:, row])


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_both_kernels_compute_the_same_model(name: str) -> None:
    ids = random_ids(200)
    found = {}
    for kernels in ("torch", "native"):
        model = make_model(kernels=kernels, **ARCHITECTURES[name])
        _, state = read(model, ids[:100])
        stepper = make_stepper(model, kernels=kernels)
        found[kernels] = decode(stepper, rows_of(model, [state]), ids[None, 100:])
    torch.testing.assert_close(found["native"], found["torch"], rtol=0, atol=2e-5)
