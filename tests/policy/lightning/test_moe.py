import math

import pytest
import torch

from cispo.policy.lightning.feedforward import feed_forward
from cispo.policy.lightning.moe import Experts, MixtureOfExperts, Router, balance_loss, route


def _experts(count, hidden=8, inner=12, dtype=torch.float32):
    experts = Experts(count, hidden, inner).to(dtype)
    generator = torch.Generator().manual_seed(count)
    for parameter in experts.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return experts


def _one_by_one(experts, x, routing):
    rows = []
    for token, chosen, weights in zip(x, routing.experts, routing.weights, strict=True):
        out = 0
        for expert, weight in zip(chosen.tolist(), weights, strict=True):
            w1, w3 = experts.gate_up_proj[expert].chunk(2)
            inner = torch.nn.functional.silu(w1 @ token) * (w3 @ token)
            out = out + weight * (experts.down_proj[expert] @ inner)
        rows.append(out)
    return torch.stack(rows)


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


def test_the_balance_loss_is_one_when_balanced_and_the_number_of_experts_when_not():
    even = route(torch.zeros(4, 2) + torch.tensor([[1e-6, 0.0], [0.0, 1e-6]] * 2), top_k=1)
    assert float(balance_loss(even)) == pytest.approx(1.0)
    one_sided = route(torch.tensor([[50.0, 0.0, 0.0]] * 5), top_k=1)
    assert float(balance_loss(one_sided)) == pytest.approx(3.0)
    # shares (3/4, 1/4) and mean probabilities (0.6, 0.4): 2 (0.45 + 0.1)
    probabilities = torch.tensor([[0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.3, 0.7]])
    assert float(balance_loss(route(probabilities.log(), top_k=1))) == pytest.approx(1.1)


@pytest.mark.parametrize("count", [2, 3, 9])
def test_all_ways_to_run_experts_equal_the_loop_over_tokens(count):
    experts = _experts(count)
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(40, count, generator=torch.Generator().manual_seed(1))
    logits[:, 0] = -50.0  # an expert without a token
    routing = route(logits, top_k=min(2, count - 1))
    expected = _one_by_one(experts, x, routing)
    torch.testing.assert_close(experts(x, routing), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(experts(x, routing), expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_grouped_experts_equal_those_of_the_loop():
    experts = _experts(3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 8, generator=generator, requires_grad=True)
    logits = torch.randn(20, 3, generator=generator, requires_grad=True)
    weight = torch.randn(20, 8, generator=generator)
    inputs = [x, logits, *experts.parameters()]

    def grads(run):
        return torch.autograd.grad((run(route(logits, top_k=2)) * weight).sum(), inputs)

    ours = grads(lambda routing: experts(x, routing))
    theirs = grads(lambda routing: _one_by_one(experts, x, routing))
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_one_expert_is_a_plain_feed_forward_layer():
    layer = MixtureOfExperts(1, top_k=1, hidden_size=8, intermediate_size=12)
    assert [name for name, _ in layer.named_parameters()] == [
        "experts.gate_up_proj",
        "experts.down_proj",
    ]
    layer.experts = _experts(1)
    x = torch.randn(5, 8)
    y, loss = layer(x)
    w1, w3 = layer.experts.gate_up_proj[0].chunk(2)
    inner = torch.nn.functional.silu(x @ w1.T) * (x @ w3.T)
    torch.testing.assert_close(y, inner @ layer.experts.down_proj[0].T)
    assert loss is None


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
