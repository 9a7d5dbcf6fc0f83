"""Prompts that are read in several pieces."""

import pytest
import torch

from cispo.policy.lightning.state import DecodeState
from cispo.policy.lightning.stepper import TorchStepper


def _ids(count, seed=0):
    return torch.randint(0, 96, (count,), generator=torch.Generator().manual_seed(seed))


def _read(model, ids, cuts):
    """Read one prompt in pieces that end at the cuts."""
    state = DecodeState.empty(model.config, 1)
    for start, stop in zip((0, *cuts), (*cuts, len(ids)), strict=True):
        hidden, state = model.prefill(ids[start:stop], torch.tensor([0, stop - start]), state)
    return hidden, state


@pytest.mark.parametrize("cuts", [(64,), (64, 128, 192), (256,), (7, 100), (299,), (1, 2, 3)])
def test_a_prompt_read_in_pieces_equals_the_whole(lightning, cuts):
    model = lightning.model()
    decode = TorchStepper(model).step
    ids = _ids(300)
    hidden, state = _read(model, ids, cuts)
    whole, expected = _read(model, ids, ())
    torch.testing.assert_close(hidden, whole, rtol=0, atol=1e-5)
    assert state.lengths.tolist() == [300]
    assert (state.page_table != 0).sum() == 5
    torch.testing.assert_close(state.linear, expected.linear, rtol=1e-4, atol=1e-4)
    token = torch.tensor([5])
    torch.testing.assert_close(decode(token, state), decode(token, expected), rtol=0, atol=1e-5)


def test_sequences_begin_and_continue_together_with_the_bits_of_each_alone(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    prompts = [_ids(n, seed=n) for n in (70, 130, 40, 200)]
    seen = [64, 0, 0, 128]
    alone = [_read(model, ids, (n,) if n else ()) for ids, n in zip(prompts, seen, strict=True)]
    state = DecodeState.empty(model.config, 4)
    for row in (0, 3):
        begun = DecodeState.empty(model.config, 1)
        ids = prompts[row][: seen[row]]
        model.prefill(ids, torch.tensor([0, len(ids)]), begun)
        state.write(torch.tensor([row]), begun, torch.tensor([0]))
    rest = [ids[n:] for ids, n in zip(prompts, seen, strict=True)]
    hidden, state = model.prefill(*lightning.pack(rest), state)
    assert state.lengths.tolist() == [70, 130, 40, 200]
    for row, (own_hidden, own) in enumerate(alone):
        assert torch.equal(hidden[row], own_hidden[0])
        assert torch.equal(state.linear[:, row], own.linear[:, 0])
    rows = torch.arange(4).repeat(5)[:16]
    crowd = DecodeState.empty(model.config, 16, allocator=state.allocator)
    crowd.write(torch.arange(16), state, rows)
    single = DecodeState.empty(model.config, 16)
    single.write(torch.arange(16), alone[3][1], torch.zeros(16, dtype=torch.long))
    tokens = torch.arange(16)
    assert torch.equal(decode(tokens, crowd)[3], decode(tokens, single)[3])


def test_a_short_piece_is_read_as_in_a_long_row(lightning):
    # fewer than 16 tokens are padded, so that products round as they do for many
    model = lightning.model()
    ids = _ids(64 + 3)
    hidden, state = _read(model, ids, (64,))
    _, begun = _read(model, ids[:64], ())
    both = DecodeState.empty(model.config, 2)
    both.write(torch.tensor([0]), begun, torch.tensor([0]))
    together, both = model.prefill(*lightning.pack([ids[64:], _ids(90, seed=1)]), both)
    assert torch.equal(together[0], hidden[0])
    assert torch.equal(both.linear[:, 0], state.linear[:, 0])
