import torch

from cispo.policy.lightning.norm import GatedRmsNorm, RmsNorm


def test_a_norm_by_hand():
    norm = RmsNorm(2, eps=3.5)
    norm.weight.data = torch.tensor([2.0, 10.0])
    # mean square (9 + 16) / 2 = 12.5, with epsilon 16, so rms 4
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[1.5, 10.0]]))


def test_hand_written_gradients_of_the_norms_equal_finite_differences():
    norm = RmsNorm(5, eps=1e-3).double()
    gated = GatedRmsNorm(5, eps=1e-3).double()
    generator = torch.Generator().manual_seed(0)
    x, logits, weight = (
        torch.randn(s, 5, generator=generator, dtype=torch.float64) for s in (3, 3, 1)
    )
    x.requires_grad_()
    logits.requires_grad_()
    for module in (norm, gated):
        module.weight.data.copy_(weight[0])
    assert torch.autograd.gradcheck(
        lambda a, w: torch.func.functional_call(norm, {"weight": w}, (a,)), (x, norm.weight)
    )
    assert torch.autograd.gradcheck(
        lambda a, g, w: torch.func.functional_call(gated, {"weight": w}, (a, g)),
        (x, logits, gated.weight),
    )


def test_the_gate_is_a_sigmoid_after_the_norm():
    gated = GatedRmsNorm(2, eps=3.5)
    logits = torch.tensor([[0.0, torch.log(torch.tensor(3.0))]])
    y = gated(torch.tensor([[3.0, 4.0]]), logits)
    torch.testing.assert_close(y, torch.tensor([[0.5 * 0.75, 0.75 * 1.0]]))
