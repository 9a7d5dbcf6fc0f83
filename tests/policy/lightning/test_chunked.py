import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from cispo.policy.lightning import chunks
from cispo.policy.lightning.attention import lightning_attention
from cispo.policy.lightning.chunks import chunk_layout
from cispo.policy.lightning.decay import decay_tables

attend = partial(lightning_attention, kernels="torch")
SLOPES = (0.9, 0.2, 0.001)
PACKS = [[5], [8], [20, 3, 0, 16, 9, 1], [33, 0], [0, 7]]


def _case(lengths, *, has_initial, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(lengths))
    ends = torch.tensor([0, *lengths]).cumsum(0)
    qkv = torch.randn(int(ends[-1]), 3, 3, 4, dtype=torch.float64, generator=generator)
    initial = torch.randn(len(lengths), 3, 4, 4, dtype=torch.float64, generator=generator)
    qkv = qkv.to(dtype).requires_grad_()
    return qkv, initial.to(dtype).requires_grad_() if has_initial else None, ends


def _recurrent(lightning, qkv, initial, ends):
    outputs, states = [], []
    for s, (start, end) in enumerate(pairwise(ends)):
        state = torch.zeros(3, 4, 4, dtype=qkv.dtype) if initial is None else initial[s]
        if end > start:
            q, k, v = qkv[start:end].unbind(2)
            slopes = torch.tensor(SLOPES, dtype=qkv.dtype)
            output, state = lightning.recurrence(q, k, v, slopes, state)
            outputs.append(output)
        states.append(state)
    return torch.cat(outputs), torch.stack(states)


@pytest.mark.parametrize("lengths", PACKS)
@pytest.mark.parametrize("has_initial", [False, True])
@pytest.mark.parametrize("wants_state", [False, True])
def test_chunks_and_their_hand_written_backward_equal_the_recurrence_under_autograd(
    lightning, lengths, has_initial, wants_state
):
    qkv, initial, ends = _case(lengths, has_initial=has_initial)
    layout = chunk_layout(ends, block=8, num_heads=3)
    output, state = attend(qkv, SLOPES, layout, initial_state=initial, return_state=wants_state)
    expected, expected_state = _recurrent(lightning, qkv, initial, ends)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)

    weight, state_weight = torch.randn_like(expected), torch.randn_like(expected_state)
    ours, theirs = (output * weight).sum(), (expected * weight).sum()
    if wants_state:
        torch.testing.assert_close(state, expected_state, rtol=0, atol=1e-12)
        ours = ours + (state * state_weight).sum()
        theirs = theirs + (expected_state * state_weight).sum()
    inputs = [qkv] if initial is None else [qkv, initial]
    for got, want in zip(
        torch.autograd.grad(ours, inputs, allow_unused=True),
        torch.autograd.grad(theirs, inputs, allow_unused=True),
        strict=True,
    ):
        want = torch.zeros_like(got) if want is None else want
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_packing_changes_no_bit_of_a_sequence():
    qkv, _, ends = _case([20, 30, 9], has_initial=False, dtype=torch.float32)
    packed, _ = attend(qkv, SLOPES, chunk_layout(ends, block=8, num_heads=3))
    alone, _ = attend(qkv[20:50], SLOPES, chunk_layout(torch.tensor([0, 30]), block=8, num_heads=3))
    assert torch.equal(packed[20:50], alone)


def test_decay_tables_hold_relative_powers():
    tables = decay_tables((math.log(2.0), 1e-6), 3, torch.float64, torch.device("cpu"))
    half = torch.tensor([[1, 0, 0], [0.5, 1, 0], [0.25, 0.5, 1]], dtype=torch.float64)
    torch.testing.assert_close(tables.mask[0], half)
    torch.testing.assert_close(tables.query[0, :, 0], torch.tensor([0.5, 0.25, 0.125]).double())
    torch.testing.assert_close(tables.key[0, :, 0], torch.tensor([0.25, 0.5, 1.0]).double())
    # 2^-3 - 1, and -3e-6 to second order, where exp(-3e-6) - 1 in float32 would be off by 2%
    torch.testing.assert_close(
        tables.loss[:, 0, 0], torch.tensor([-0.875, -3e-6 + 4.5e-12]).double()
    )


def _passes(qkv, initial, ends, block):
    qkv, initial = qkv.detach().requires_grad_(), initial.detach().requires_grad_()
    layout = chunk_layout(ends, block=block, num_heads=3)
    output, state = attend(qkv, SLOPES, layout, initial_state=initial, return_state=True)
    weight = torch.sin(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    grads = torch.autograd.grad((output * weight).sum() + state.square().sum(), (qkv, initial))
    return layout, (output, state, *grads)


@pytest.fixture
def five_chunks(monkeypatch):
    """Slabs of five chunks of 256 tokens, for three heads."""
    monkeypatch.setitem(chunks._MOST_SCORES, "cpu", 5 * 3 * 256**2)


@pytest.mark.usefixtures("five_chunks")
def test_a_row_that_is_computed_slab_by_slab_gives_what_it_gives_at_once():
    qkv, initial, ends = _case([0, 700, 0, 3000, 5, 1280, 900, 0], has_initial=True)
    cut, ours = _passes(qkv, initial, ends, 256)
    whole, expected = _passes(qkv, initial, ends, 16)
    assert len(whole.slabs) == 1
    assert [slab.tokens.stop for slab in cut.slabs] == [1212, 2492, 3700, 4729, 5885]
    assert [slab.is_cut for slab in cut.slabs] == [True, True, False, True, False]
    for got, want in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * want.detach().abs().max().item())


@pytest.mark.usefixtures("five_chunks")
def test_where_a_sequence_is_cut_changes_no_bit_of_its_output():
    qkv, _, ends = _case([700, 3000], has_initial=False, dtype=torch.float32)
    packed, states = attend(
        qkv, SLOPES, chunk_layout(ends, block=256, num_heads=3), return_state=True
    )
    layout = chunk_layout(torch.tensor([0, 3000]), block=256, num_heads=3)
    assert len(layout.slabs) == 3
    alone, state = attend(qkv[700:], SLOPES, layout, return_state=True)
    assert torch.equal(packed[700:], alone)
    assert torch.equal(states[1:], state)
