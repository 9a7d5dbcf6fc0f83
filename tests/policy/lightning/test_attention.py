import math
from itertools import pairwise

import pytest
import torch

from cispo.policy.lightning.attention import lightning_attention
from cispo.policy.lightning.decay import decay_tables
from cispo.policy.lightning.layout import chunk_layout

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
    output, state = lightning_attention(
        qkv, SLOPES, layout, initial_state=initial, return_state=wants_state
    )
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


def test_a_gradient_of_the_final_state_alone_reaches_every_token_of_its_sequence(lightning):
    qkv, _, ends = _case([20, 9], has_initial=False)
    layout = chunk_layout(ends, block=8, num_heads=3)
    _, state = lightning_attention(qkv, SLOPES, layout, return_state=True)
    (got,) = torch.autograd.grad(state[1].sum(), qkv)
    _, expected = _recurrent(lightning, qkv, None, ends)
    (want,) = torch.autograd.grad(expected[1].sum(), qkv)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert got[:20].abs().max() == 0


def test_two_halves_joined_by_the_state_equal_the_whole(lightning):
    qkv, _, ends = _case([40], has_initial=False)
    whole, state = lightning_attention(
        qkv, SLOPES, chunk_layout(ends, block=8, num_heads=3), return_state=True
    )
    middle = None
    parts = []
    for part in (qkv[:13], qkv[13:]):
        layout = chunk_layout(torch.tensor([0, len(part)]), block=8, num_heads=3)
        output, middle = lightning_attention(
            part, SLOPES, layout, initial_state=middle, return_state=True
        )
        parts.append(output)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(middle, state, rtol=0, atol=1e-12)


def test_a_sequence_ignores_its_neighbours_even_when_they_are_not_finite():
    qkv, _, ends = _case([20, 30, 9], has_initial=False, dtype=torch.float32)
    layout = chunk_layout(ends, block=8, num_heads=3)
    clean, _ = lightning_attention(qkv, SLOPES, layout)
    (clean_grad,) = torch.autograd.grad(clean[20:50].sum(), qkv)
    poisoned = qkv.detach().clone()
    poisoned[:20], poisoned[50:] = math.nan, math.inf
    poisoned.requires_grad_()
    output, _ = lightning_attention(poisoned, SLOPES, layout)
    (grad,) = torch.autograd.grad(output[20:50].sum(), poisoned)
    assert torch.equal(output[20:50], clean[20:50])
    assert torch.equal(grad[20:50], clean_grad[20:50])


def test_packing_changes_no_bit_of_a_sequence():
    qkv, _, ends = _case([20, 30, 9], has_initial=False, dtype=torch.float32)
    packed, _ = lightning_attention(qkv, SLOPES, chunk_layout(ends, block=8, num_heads=3))
    alone, _ = lightning_attention(
        qkv[20:50], SLOPES, chunk_layout(torch.tensor([0, 30]), block=8, num_heads=3)
    )
    assert torch.equal(packed[20:50], alone)


@pytest.mark.parametrize("block", [16, 64, 128])
def test_float32_stays_close_to_float64_over_two_thousand_tokens(lightning, block):
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(2048, 3, 3, 16, dtype=torch.float64, generator=generator)
    layout = chunk_layout(torch.tensor([0, 2048]), block=block, num_heads=3)
    output, state = lightning_attention(qkv.float(), SLOPES, layout, return_state=True)
    expected, expected_state = lightning.recurrence(
        *qkv.unbind(2), torch.tensor(SLOPES, dtype=torch.float64), torch.zeros(3, 16, 16)
    )
    assert (output - expected).norm() / expected.norm() < 1e-6
    assert (state[0] - expected_state).norm() / expected_state.norm() < 1e-6


def test_bfloat16_inputs_are_accumulated_in_float32():
    qkv, _, ends = _case([40], has_initial=False, dtype=torch.float32)
    rounded = qkv.detach().bfloat16()
    layout = chunk_layout(ends, block=8, num_heads=3)
    output, state = lightning_attention(rounded, SLOPES, layout, return_state=True)
    exact, exact_state = lightning_attention(rounded.float(), SLOPES, layout, return_state=True)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, exact.bfloat16())
    assert state.dtype == torch.float32
    assert torch.equal(state, exact_state)


def test_a_second_derivative_is_refused():
    qkv, _, ends = _case([9], has_initial=False)
    output, _ = lightning_attention(qkv, SLOPES, chunk_layout(ends, block=8, num_heads=3))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(output.square().sum(), qkv, create_graph=True)


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


def test_no_decay_overflows_however_fast_it_is():
    qkv, _, ends = _case([200], has_initial=False, dtype=torch.float32)
    layout = chunk_layout(ends, block=64, num_heads=3)
    output, state = lightning_attention(qkv, (50.0, 5.0, 1e-9), layout, return_state=True)
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(state).all()
    assert torch.isfinite(qkv.grad).all()
