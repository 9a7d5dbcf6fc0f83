"""One contract for all kernels of lightning attention, against a float64 recurrence."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from cispo.errors import ConfigError
from cispo.policy.lightning.attention import lightning_attention
from cispo.policy.lightning.chunks import chunk_layout
from cispo.policy.lightning.kernels import resolve_kernels
from cispo.policy.lightning.native.build import native_library

no_compiler = pytest.mark.skipif(native_library() is None, reason="no C++ compiler is installed")
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
H, D = 3, 16
SLOPES = (0.9, 0.2, 0.001)
PACKS = [[0], [1], [5], [64], [20, 3, 0, 16, 9, 1], [33, 0], [0, 7], [130, 65, 64], [1030]]


class Kernels:
    """An implementation, and the relative error that its float32 may have."""

    def __init__(self, name, device, tolerance):
        self.name, self.device, self.tolerance = name, device, tolerance

    def __call__(self, qkv, slopes, ends, *, block=64, **options):
        layout = chunk_layout(ends.to(self.device), block=block, num_heads=len(slopes))
        return lightning_attention(qkv, slopes, layout, kernels=self.name, **options)

    def near(self, got, exact):
        assert got.shape == exact.shape
        error = (got.detach().cpu().double() - exact.detach()).norm()
        assert error <= self.tolerance * exact.norm() + 1e-30, float(error / exact.norm())


@pytest.fixture(
    params=[
        pytest.param(("torch", "cpu", 2e-6), id="torch"),
        pytest.param(("native", "cpu", 2e-6), id="native", marks=no_compiler),
        pytest.param(("torch", "cuda", 1e-5), id="cuda", marks=[pytest.mark.gpu, no_cuda]),
        # its products may run in TF32
        pytest.param(("fla", "cuda", 5e-3), id="fla", marks=[pytest.mark.gpu, no_cuda]),
    ]
)
def kernels(request):
    name, _, _ = request.param
    if name == "fla":
        pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    return Kernels(*request.param)


def make_case(lengths, *, width=D, heads=H, seed=0):
    """Packed qkv [T, H, 3, D] and states [S, H, D, D] that float32 holds exactly; boundaries."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    random = partial(torch.randn, generator=generator)
    qkv = random(int(ends[-1]), heads, 3, width).double()
    return qkv, random(len(lengths), heads, width, width).double(), ends


def recurrent(lightning, qkv, initial, ends, slopes=SLOPES):
    """Attend token by token in float64; return outputs and final states."""
    outputs, states = [qkv[:0, :, 0]], []
    for s, (start, end) in enumerate(pairwise(ends)):
        state = initial[s]
        if end > start:
            q, k, v = qkv[start:end].unbind(2)
            decays = torch.tensor(slopes, dtype=torch.float64)
            output, state = lightning.recurrence(q, k, v, decays, state)
            outputs.append(output)
        states.append(state)
    return torch.cat(outputs), torch.stack(states)


@pytest.mark.parametrize("lengths", PACKS, ids=str)
@pytest.mark.parametrize("has_initial", [False, True], ids=["zero", "initial"])
@pytest.mark.parametrize("wants_state", [False, True], ids=["", "final"])
def test_outputs_states_and_all_gradients_equal_the_recurrences(
    kernels, lightning, lengths, has_initial, wants_state
):
    qkv, initial, ends = make_case(lengths)
    exact = [qkv.requires_grad_(), (initial * has_initial).requires_grad_()]
    expected, expected_state = recurrent(lightning, *exact, ends)
    weight, state_weight = torch.randn_like(expected), torch.randn_like(expected_state)
    loss = (expected * weight).sum() + wants_state * (expected_state * state_weight).sum()
    wanted = torch.autograd.grad(loss, exact)

    ours = [x.detach().float().to(kernels.device).requires_grad_() for x in exact]
    output, state = kernels(
        ours[0], SLOPES, ends, initial_state=ours[1] if has_initial else None,
        return_state=wants_state,
    )  # fmt: skip
    loss = (output * weight.to(output)).sum()
    if wants_state:
        loss = loss + (state * state_weight.to(state)).sum()
        kernels.near(state, expected_state)
    else:
        assert state is None
    got = torch.autograd.grad(loss, ours if has_initial else ours[:1])
    kernels.near(output, expected)
    for ours_, exact_ in zip(got, wanted, strict=False):
        kernels.near(ours_, exact_)


def test_a_gradient_of_the_final_state_alone_reaches_every_token_of_its_sequence(
    kernels, lightning
):
    qkv, initial, ends = make_case([20, 90])
    exact = qkv.clone().requires_grad_()
    (want,) = torch.autograd.grad(recurrent(lightning, exact, 0 * initial, ends)[1][1].sum(), exact)
    ours = qkv.float().to(kernels.device).requires_grad_()
    _, state = kernels(ours, SLOPES, ends, return_state=True)
    (got,) = torch.autograd.grad(state[1].sum(), ours)
    kernels.near(got, want)
    assert got[:20].abs().max() == 0


@pytest.mark.parametrize("block", [1, 7, 16, 100, 256])
def test_the_size_of_a_block_changes_rounding_only(kernels, lightning, block):
    qkv, initial, ends = make_case([150, 31])
    expected, expected_state = recurrent(lightning, qkv, initial, ends)
    output, state = kernels(
        qkv.float().to(kernels.device), SLOPES, ends, block=block,
        initial_state=initial.float().to(kernels.device), return_state=True,
    )  # fmt: skip
    kernels.near(output, expected)
    kernels.near(state, expected_state)


def test_two_parts_joined_by_the_state_equal_the_whole_with_its_gradient(kernels):
    qkv, _, ends = make_case([140])
    qkv = qkv.float().to(kernels.device).requires_grad_()
    whole, final = kernels(qkv, SLOPES, ends, return_state=True)
    first, middle = kernels(qkv[:53], SLOPES, torch.tensor([0, 53]), return_state=True)
    second, joined = kernels(
        qkv[53:], SLOPES, torch.tensor([0, 87]), initial_state=middle, return_state=True
    )
    parts = torch.cat((first, second))
    kernels.near(parts, whole.cpu().double())
    kernels.near(joined, final.cpu().double())
    weight = torch.randn_like(whole)
    (got,) = torch.autograd.grad((parts * weight).sum() + joined.sum(), qkv)
    (want,) = torch.autograd.grad((whole * weight).sum() + final.sum(), qkv)
    kernels.near(got, want.cpu().double())


def test_a_sequence_ignores_its_neighbours_even_when_they_are_not_finite(kernels):
    qkv, _, ends = make_case([20, 90, 9])
    clean = qkv.float().to(kernels.device).requires_grad_()
    output, _ = kernels(clean, SLOPES, ends)
    (grad,) = torch.autograd.grad(output[20:110].sum(), clean)
    poisoned = clean.detach().clone()
    poisoned[:20], poisoned[110:] = math.nan, math.inf
    poisoned.requires_grad_()
    beside, _ = kernels(poisoned, SLOPES, ends)
    (grad_beside,) = torch.autograd.grad(beside[20:110].sum(), poisoned)
    assert torch.equal(beside[20:110], output[20:110])
    assert torch.equal(grad_beside[20:110], grad[20:110])


def test_bfloat16_is_a_storage_format_only(kernels, lightning):
    qkv, initial, ends = make_case([150])
    rounded = qkv.bfloat16()
    exact = rounded.double().requires_grad_()
    expected, expected_state = recurrent(lightning, exact, 0 * initial, ends)
    weight = torch.randn_like(expected).bfloat16()
    (want,) = torch.autograd.grad((expected * weight.double()).sum(), exact)
    ours = rounded.to(kernels.device).requires_grad_()
    output, state = kernels(ours, SLOPES, ends, return_state=True)
    (got,) = torch.autograd.grad((output * weight.to(output)).sum(), ours)
    assert (output.dtype, state.dtype, got.dtype) == (
        torch.bfloat16, torch.float32, torch.bfloat16,
    )  # fmt: skip
    if kernels.name != "fla":  # whose products are in bfloat16
        kernels.near(state, expected_state)
        # nothing but the last rounding, half a unit of 8 bits
        torch.testing.assert_close(output.cpu().double(), expected, rtol=2**-8, atol=1e-4)
        torch.testing.assert_close(got.cpu().double(), want, rtol=2**-8, atol=1e-4)


def test_fast_and_slow_heads_stay_exact_over_eight_thousand_tokens(kernels, lightning):
    """From M1's fastest head (a half-life of 0.76 tokens) to its slowest (14,000 tokens)."""
    slopes = tuple(math.log(2.0) / half_life for half_life in (0.76, 10, 300, 4000, 14000))
    qkv, initial, ends = make_case([8192], heads=5)
    expected, expected_state = recurrent(lightning, qkv, 0 * initial, ends, slopes)
    output, state = kernels(qkv.float().to(kernels.device), slopes, ends, return_state=True)
    for head in range(5):
        kernels.near(output[-1024:, head], expected[-1024:, head])
        kernels.near(state[:, head], expected_state[:, head])


def test_no_decay_overflows_however_fast_it_is(kernels):
    qkv, _, ends = make_case([200])
    qkv = qkv.float().to(kernels.device).requires_grad_()
    output, state = kernels(qkv, (50.0, 5.0, 1e-9), ends, return_state=True)
    (output.sum() + state.sum()).backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(state).all()
    assert torch.isfinite(qkv.grad).all()


def test_a_second_derivative_is_refused(kernels):
    qkv, _, ends = make_case([9])
    qkv = qkv.float().to(kernels.device).requires_grad_()
    output, _ = kernels(qkv, SLOPES, ends)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(output.square().sum(), qkv, create_graph=True)


def test_half_precision_and_strided_inputs_are_read_as_they_are_meant(kernels):
    qkv, _, ends = make_case([70])
    wide = qkv.float().to(kernels.device).repeat_interleave(2, 0)[::2]
    assert not wide.is_contiguous()
    plain, _ = kernels(wide.contiguous(), SLOPES, ends)
    assert torch.equal(kernels(wide, SLOPES, ends)[0], plain)
    half, _ = kernels(wide.half(), SLOPES, ends)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), plain, rtol=1e-2, atol=5e-2)


@no_compiler
def test_float64_stays_float64_whatever_the_kernels(lightning):
    qkv, initial, ends = make_case([40])
    output, state = Kernels("native", "cpu", 1e-13)(qkv, SLOPES, ends, return_state=True)
    expected, expected_state = recurrent(lightning, qkv, 0 * initial, ends)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, expected_state, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kernels", "device", "message"),
    [
        ("triton", "cpu", "policy.kernels=triton: choose one of auto, torch, native, fla"),
        ("native", "cuda", "policy.kernels=native: runs on cpu, not cuda"),
        ("fla", "cpu", "policy.kernels=fla: runs on cuda, not cpu"),
    ],
)
def test_kernels_that_cannot_run_are_refused(kernels, device, message):
    with pytest.raises(ConfigError, match=message):
        resolve_kernels(kernels, device)


@no_compiler
def test_auto_takes_the_compiled_kernels_on_a_cpu():
    assert resolve_kernels("auto", "cpu") == "native"
    assert resolve_kernels("auto", "meta") == "torch"
