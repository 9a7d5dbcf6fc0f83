"""What the compiled attention promises beyond the contract of all kernels: equal bits."""

import pytest
import torch

from cispo.policy.lightning.attention import lightning_attention
from cispo.policy.lightning.chunks import chunk_layout
from cispo.policy.lightning.native.build import native_library

pytestmark = pytest.mark.skipif(native_library() is None, reason="no C++ compiler is installed")
SLOPES = (0.9, 0.2, 0.03, 0.01, 0.001)


def attend(qkv, lengths, *, kernels="native", initial=None):
    """Output, final state, and the gradients of qkv and of the initial state."""
    ends = torch.tensor([0, *lengths]).cumsum(0)
    layout = chunk_layout(ends, block=64, num_heads=qkv.shape[1])
    qkv = qkv.detach().requires_grad_()
    H, D = qkv.shape[1], qkv.shape[3]
    initial = torch.zeros(len(lengths), H, D, D) if initial is None else initial
    initial = initial.detach().to(torch.promote_types(qkv.dtype, torch.float32)).requires_grad_()
    output, state = lightning_attention(
        qkv, SLOPES[:H], layout, initial_state=initial, return_state=True, kernels=kernels
    )
    weight = torch.sin(torch.arange(output.numel(), dtype=output.dtype)).view_as(output)
    weight = weight[:1].expand_as(output)  # the same for a token wherever it is packed
    grads = torch.autograd.grad((output * weight).sum() + state.sum(), (qkv, initial))
    return output, state, *grads


def random(T, D, *, dtype=torch.float32):
    generator = torch.Generator().manual_seed(D)
    return torch.randn(T, len(SLOPES), 3, D, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("D", [16, 40, 128])
def test_packing_changes_no_bit(D, dtype):
    lengths = [70, 0, 1, 129, 64, 31]
    qkv = random(sum(lengths), D, dtype=dtype)
    output, state, grad, grad_initial = attend(qkv, lengths)
    start = 0
    for s, length in enumerate(lengths):
        rows = slice(start, start + length)
        alone = attend(qkv[rows], [length])
        for packed, single in zip(
            (output[rows], state[s : s + 1], grad[rows], grad_initial[s : s + 1]),
            alone,
            strict=True,
        ):
            assert torch.equal(packed, single)
        start += length


@pytest.mark.parametrize("D", [40, 128])
def test_tensors_that_are_too_large_for_the_caches_hold_the_same_bits(D):
    """They are written on another way, whether their rows are aligned or not."""
    lengths = [4, 2**23 // (len(SLOPES) * D * 4) + 1]
    qkv = random(sum(lengths), D)
    large = attend(qkv, lengths)
    parts, middle = [], None
    for rows in (slice(0, 1280), slice(1280, lengths[1])):
        here = qkv[lengths[0] :][rows]
        part, middle, _, _ = attend(here, [len(here)], initial=middle)
        parts.append(part)
    assert torch.equal(torch.cat(parts), large[0][lengths[0] :])
    _, _, grad, _ = attend(qkv[: lengths[0]], [lengths[0]])
    assert torch.equal(grad, large[2][: lengths[0]])
    exact = attend(qkv.double(), lengths, kernels="torch")
    for got, want in zip(large, exact, strict=True):
        assert (got.double() - want).norm() <= 2e-6 * want.norm()


@pytest.mark.parametrize("lengths", [[300], [300, 20], [90, 90, 90], [70, 0, 1, 129, 64, 31]])
def test_the_number_of_threads_changes_no_bit(lengths):
    qkv = random(sum(lengths), 32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            results.append(attend(qkv, lengths))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_a_sequence_cut_between_chunks_and_continued_from_its_state_keeps_its_bits():
    qkv = random(200, 32)
    output, state, _, _ = attend(qkv, [200])
    parts, middle = [], None
    for rows in (slice(0, 64), slice(64, 192), slice(192, 200)):
        part, middle, _, _ = attend(qkv[rows], [rows.stop - rows.start], initial=middle)
        parts.append(part)
    assert torch.equal(torch.cat(parts), output)
    assert torch.equal(middle, state)


@pytest.mark.parametrize("D", [4, 5, 8, 24, 72, 80, 136, 256])
def test_every_head_size_gives_what_float64_gives(D):
    lengths = [45, 130]
    qkv = random(sum(lengths), D)
    initial = torch.randn(2, len(SLOPES), D, D, generator=torch.Generator().manual_seed(1))
    ours = attend(qkv, lengths, initial=initial)
    exact = attend(qkv.double(), lengths, kernels="torch", initial=initial)
    for got, want in zip(ours, exact, strict=True):
        assert (got.double() - want).norm() <= 2e-6 * want.norm()


def test_many_heads_on_few_threads_are_done_in_groups():
    """More heads than one job takes, and a number that the groups do not divide."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(50, 19, 3, 8, generator=generator)
    slopes = tuple(0.05 * (h + 1) for h in range(19))
    layout = chunk_layout(torch.tensor([0, 50]), block=64, num_heads=19)
    ours, _ = lightning_attention(qkv, slopes, layout, kernels="native")
    for h in range(19):
        one = chunk_layout(torch.tensor([0, 50]), block=64, num_heads=1)
        alone, _ = lightning_attention(qkv[:, h : h + 1], slopes[h : h + 1], one, kernels="native")
        assert torch.equal(ours[:, h : h + 1], alone)


def test_a_bfloat16_nan_stays_one():
    qkv = random(10, 16, dtype=torch.bfloat16)
    qkv[3, 0, 2, 0] = torch.nan
    output, _, _, _ = attend(qkv, [10])
    assert output[3:, 0, 0].isnan().all()
    assert not output[:, 1:].isnan().any()


@pytest.mark.parametrize("ends", [[0, 9], [0, 11], [1, 10], [0, 7, 5, 10], []])
def test_boundaries_that_do_not_fill_the_row_are_refused(ends):
    layout = chunk_layout(torch.tensor(ends, dtype=torch.long), block=64, num_heads=5)
    with pytest.raises(ValueError, match="do not fill qkv"):
        lightning_attention(random(10, 16), SLOPES, layout, kernels="native")


def test_a_state_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must be of shape \(1, 5, 16, 16\)"):
        attend(random(10, 16), [10], initial=torch.zeros(2, 5, 16, 16))
