import math

import pytest
import torch

from cispo.policy.lightning.balance import balance_loss, balance_of
from cispo.policy.lightning.experts import Experts
from cispo.policy.lightning.feedforward import feed_forward
from cispo.policy.lightning.moe import MixtureOfExperts, Router, route

KERNELS = ["torch", "native"]


def _experts(count, *, kernels="torch", hidden=8, inner=12):
    experts = Experts(count, hidden, inner, kernels=kernels)
    generator = torch.Generator().manual_seed(count)
    for parameter in experts.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / hidden**0.5)
    return experts


def _one_by_one(experts, x, routing):
    """Token by token and expert by expert, in float64."""
    x, weights = x.double(), routing.weights.double()
    gate_up, down = experts.gate_up_proj.double(), experts.down_proj.double()
    rows = []
    for token, chosen, shares in zip(x, routing.experts.tolist(), weights, strict=True):
        out = torch.zeros_like(token)
        for expert, share in zip(chosen, shares, strict=True):
            w1, w3 = gate_up[expert].chunk(2)
            inner = torch.nn.functional.silu(w1 @ token) * (w3 @ token)
            out = out + share * (down[expert] @ inner)
        rows.append(out)
    return torch.stack(rows)


def _tokens(count, hidden=8, seed=0):
    return torch.randn(count, hidden, generator=torch.Generator().manual_seed(seed))


def _logits(count, experts, seed=1):
    logits = torch.randn(count, experts, generator=torch.Generator().manual_seed(seed))
    logits[:, 0] = -50.0  # an expert without a token
    return logits


def test_the_router_keeps_the_likeliest_experts_and_renormalises():
    logits = torch.tensor([[math.log(1.0), math.log(5.0), math.log(2.0), math.log(2.0 / 3)]])
    routing = route(logits, top_k=2)
    assert routing.experts.tolist() == [[1, 2]]
    torch.testing.assert_close(routing.weights, torch.tensor([[5 / 7, 2 / 7]]))
    total = 1 + 5 + 2 + 2 / 3
    torch.testing.assert_close(routing.probabilities, torch.tensor([[1, 5, 2, 2 / 3]]) / total)


def test_router_logits_are_float32_whatever_the_model():
    router = Router(8, 4).to(torch.bfloat16)
    torch.nn.init.ones_(router.weight)
    x = torch.full((1, 8), 1.0078125, dtype=torch.bfloat16)
    assert router(x).dtype == torch.float32
    # 8.0625 does not fit bfloat16's eight bits
    assert router(x)[0, 0] == 8.0625


def _balance_loss(routing):
    return float(balance_loss(balance_of(routing), num_tokens=len(routing.experts)))


def test_the_balance_loss_is_one_when_balanced_and_the_number_of_experts_when_not():
    even = route(torch.zeros(4, 2) + torch.tensor([[1e-6, 0.0], [0.0, 1e-6]] * 2), top_k=1)
    assert _balance_loss(even) == pytest.approx(1.0)
    one_sided = route(torch.tensor([[50.0, 0.0, 0.0]] * 5), top_k=1)
    assert _balance_loss(one_sided) == pytest.approx(3.0)
    # shares (3/4, 1/4) and mean probabilities (0.6, 0.4): 2 (0.45 + 0.1)
    probabilities = torch.tensor([[0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.3, 0.7]])
    assert _balance_loss(route(probabilities.log(), top_k=1)) == pytest.approx(1.1)


SIZES = [
    # experts, kept, tokens, hidden, inner: vectors filled and not, blocks of tokens full and not
    (2, 1, 1, 8, 12),
    (3, 2, 40, 8, 12),
    (9, 2, 300, 24, 40),
    (4, 3, 131, 64, 32),
]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("sizes", SIZES)
def test_experts_and_their_gradients_equal_the_float64_loop_over_tokens(kernels, sizes):
    count, kept, tokens, hidden, inner = sizes
    experts = _experts(count, kernels=kernels, hidden=hidden, inner=inner)
    x = _tokens(tokens, hidden).requires_grad_()
    logits = _logits(tokens, count).requires_grad_()
    inputs = [x, logits, *experts.parameters()]
    weight = _tokens(tokens, hidden, seed=2)
    ours = experts(x, route(logits, top_k=kept))
    expected = _one_by_one(experts, x, route(logits, top_k=kept))
    assert (ours - expected).abs().max() <= 1e-5
    found = torch.autograd.grad((ours * weight).sum(), inputs)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for got, want in zip(found, wanted, strict=True):
        assert (got - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))
    assert found[2][0].abs().max() == 0, "the empty expert has no gradient"
    with torch.no_grad():
        assert torch.equal(experts(x, route(logits, top_k=kept)), ours)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_token_gets_the_same_bits_in_any_company_and_with_any_number_of_threads(kernels):
    experts = _experts(5, kernels=kernels, hidden=40, inner=24)
    x, logits = _tokens(200, 40), _logits(200, 5)
    with torch.no_grad():
        whole = experts(x, route(logits, top_k=2))
        for first, last in ((0, 1), (3, 5), (7, 24), (100, 200)):
            part = experts(x[first:last], route(logits[first:last], top_k=2))
            assert torch.equal(part, whole[first:last])
        torch.set_num_threads(2)
        try:
            assert torch.equal(experts(x, route(logits, top_k=2)), whole)
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_experts_have_no_second_derivative(kernels):
    experts = _experts(3, kernels=kernels)
    x = _tokens(6).requires_grad_()
    y = experts(x, route(_logits(6, 3), top_k=2))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(torch.autograd.grad(y.sum(), x, create_graph=True)[0].sum(), x)


def test_the_balance_tells_how_the_experts_are_used():
    layer = MixtureOfExperts(4, top_k=2, hidden_size=4, intermediate_size=4)
    for parameter in layer.parameters():
        torch.nn.init.ones_(parameter)
    layer.gate.weight.data.copy_(torch.eye(4))
    # softmax of a token is its own exponentials: experts 0 and 1, 0 and 1, 0 and 2
    x = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1], [0.4, 0.1, 0.2, 0.1]]).log()
    _, routing = layer(x)
    balance = balance_of(routing)
    assert balance.counts.tolist() == [3, 2, 1, 0]
    p = [[0.4, 0.3, 0.2, 0.1]] * 2 + [[0.5, 0.125, 0.25, 0.125]]
    expected = -sum(q * math.log(q) for row in p for q in row)
    assert balance.entropy.item() == pytest.approx(expected)
    means = [sum(column) / 3 for column in zip(*p, strict=True)]
    loss = 4 * sum(share * m for share, m in zip((3 / 6, 2 / 6, 1 / 6, 0), means, strict=True))
    assert balance_loss(balance, num_tokens=3).item() == pytest.approx(loss)


def test_one_expert_is_a_plain_feed_forward_layer():
    layer = MixtureOfExperts(1, top_k=1, hidden_size=8, intermediate_size=12)
    assert [name for name, _ in layer.named_parameters()] == [
        "experts.gate_up_proj",
        "experts.down_proj",
    ]
    layer.experts = _experts(1)
    x = torch.randn(5, 8)
    y, routing = layer(x)
    w1, w3 = layer.experts.gate_up_proj[0].chunk(2)
    inner = torch.nn.functional.silu(x @ w1.T) * (x @ w3.T)
    torch.testing.assert_close(y, inner @ layer.experts.down_proj[0].T)
    assert routing is None


@pytest.mark.parametrize("tokens", [1, 63, 3000])
def test_slabs_of_the_feed_forward_layer_change_nothing(tokens):
    generator = torch.Generator().manual_seed(tokens)
    sizes = ((tokens, 6), (2 * 40, 6), (6, 40))
    x, gate_up, down = (
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in sizes
    )
    weight = torch.randn(tokens, 6, generator=generator, dtype=torch.float64)
    w1, w3 = gate_up.chunk(2)
    plain = (torch.nn.functional.silu(x @ w1.T) * (x @ w3.T)) @ down.T
    ours = feed_forward(x, gate_up, down)
    torch.testing.assert_close(ours, plain)
    for got, want in zip(
        torch.autograd.grad((ours * weight).sum(), (x, gate_up, down)),
        torch.autograd.grad((plain * weight).sum(), (x, gate_up, down)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)
