"""Tests of the C++ passes over rows against float64, and of what their bits depend on."""

import math

import pytest
import torch

from cispo.policy.lightning.feedforward import feed_forward
from cispo.policy.lightning.native.build import native_library
from cispo.policy.lightning.native.rowwise import (
    native_scores,
    native_scores_backward,
    native_swiglu,
    native_swiglu_backward,
)
from cispo.policy.lightning.norm import GatedRmsNorm, RmsNorm
from cispo.policy.logprobs import action_logprobs

pytestmark = pytest.mark.skipif(native_library() is None, reason="native kernels cannot be built")

ODD, EVEN = 37, 64  # the one leaves a part of a vector


@pytest.fixture
def threads():
    """Sets torch's number of threads; one again after the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _results(function, inputs, dtype, kernels):
    """What a function returns, and the gradients of its inputs."""
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    output = function(*leaves, kernels)
    output.backward(_random(*output.shape, seed=9).to(dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def _norm(x, weight, kernels):
    norm = RmsNorm(x.shape[-1], eps=1e-3, kernels=kernels)
    return torch.func.functional_call(norm, {"weight": weight}, (x,))


def _gated_norm(x, logits, weight, kernels):
    norm = GatedRmsNorm(x.shape[-1], eps=1e-3, kernels=kernels)
    return torch.func.functional_call(norm, {"weight": weight}, (x, logits))


def _feed_forward(x, gate_up, down, kernels):
    return feed_forward(x, gate_up, down, kernels=kernels)


def _logprobs(hidden, weight, kernels):
    T, V = len(hidden), len(weight)
    token_ids, mask = torch.arange(T) * 7 % V, torch.arange(T) % 3 > 0
    return action_logprobs(
        hidden, weight, token_ids, mask, chunk=5, temperature=0.7, kernels=kernels
    )[0]


def _cases(rows, width):
    x = _random(rows, width)
    return {
        "norm": (_norm, [x, _random(width, seed=1)]),
        "gated norm": (_gated_norm, [x, _random(rows, width, seed=1), _random(width, seed=2)]),
        "feed-forward": (
            _feed_forward,
            [x, _random(2 * width, width, seed=1), _random(width, width, seed=2)],
        ),
        "log-probabilities": (_logprobs, [x, _random(3 * width, width, seed=1)]),
    }


@pytest.mark.parametrize("rows", [1, 3, 150])
@pytest.mark.parametrize("width", [ODD, EVEN])
@pytest.mark.parametrize("name", _cases(1, 1))
def test_results_and_gradients_are_those_of_float64(name, rows, width):
    function, inputs = _cases(rows, width)[name]
    native = _results(function, inputs, torch.float32, "native")
    exact = _results(function, inputs, torch.float64, "torch")
    for ours, theirs in zip(native, exact, strict=True):
        assert ours.dtype == torch.float32
        scale = theirs.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(ours.double(), theirs, rtol=0.0, atol=3e-6 * scale)


@pytest.mark.parametrize("name", ["norm", "gated norm"])
def test_norms_have_the_bits_of_one_thread(name, threads):
    function, inputs = _cases(600, 200)[name]
    alone = _results(function, inputs, torch.float32, "native")
    for count in (2, 3):
        threads(count)
        together = _results(function, inputs, torch.float32, "native")
        assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def test_activations_and_scores_have_the_bits_of_one_thread(threads):
    gate_up, grad = _random(300, 400), _random(300, 200, seed=1)
    targets, grad_scores = torch.arange(300), _random(300, seed=2)

    def everything():
        grad_gate_up = torch.empty_like(gate_up)
        scores = {name: torch.empty(300) for name in ("top", "total", "chosen", "entropy")}
        native_scores(gate_up, targets, **scores)
        grad_logits = gate_up.clone()
        parts = {name: scores[name] for name in ("top", "total")}
        native_scores_backward(grad_logits, targets, grad=grad_scores, **parts)
        again = native_swiglu_backward(grad, gate_up, grad_gate_up)
        return [native_swiglu(gate_up), again, grad_gate_up, grad_logits, *scores.values()]

    alone = everything()
    for count in (2, 3):
        threads(count)
        assert all(torch.equal(*pair) for pair in zip(alone, everything(), strict=True))


@pytest.mark.parametrize("norm", [_norm, _gated_norm])
def test_a_rows_bits_are_its_own(norm):
    x, logits, weight = _random(50, ODD), _random(50, ODD, seed=1), _random(ODD, seed=2)
    given = [x, weight] if norm is _norm else [x, logits, weight]
    rows = [part[7:8] if part.dim() == 2 else part for part in given]
    assert torch.equal(norm(*given, "native")[7:8], norm(*rows, "native"))


def test_entropy_is_that_of_the_distribution():
    hidden, weight = _random(6, EVEN), _random(2000, EVEN, seed=1)
    token_ids, mask = torch.arange(6), torch.arange(6) > 0
    logprobs, entropy = action_logprobs(hidden, weight, token_ids, mask, chunk=4, kernels="native")
    exact = torch.log_softmax(hidden.double() @ weight.double().t(), dim=-1)[:-1]
    torch.testing.assert_close(
        entropy[1:].double(), -(exact.exp() * exact).sum(-1), rtol=1e-5, atol=1e-6
    )
    of_tokens = exact.gather(1, token_ids[1:].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(logprobs[1:].double(), of_tokens, rtol=0.0, atol=1e-4)


def test_a_logit_that_is_no_number_reaches_the_log_probability():
    hidden, weight = _random(3, EVEN), _random(100, EVEN, seed=1)
    hidden[1, 5] = math.nan
    logprobs, _ = action_logprobs(
        hidden, weight, torch.arange(3), torch.arange(3) > 0, chunk=4, kernels="native"
    )
    assert logprobs.isnan().tolist() == [False, False, True]


def test_a_gradient_of_the_gradient_is_refused():
    x = _random(2, EVEN).requires_grad_()
    output = _norm(x, torch.ones(EVEN), "native").sum()
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(output, x, create_graph=True)
