import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cispo.policy.logprobs import action_logprobs


def _case(tokens=20, vocabulary=13, width=6):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    bias = torch.randn(vocabulary, generator=generator, requires_grad=True)
    ids = torch.randint(0, vocabulary, (tokens,), generator=generator)
    mask = torch.rand(tokens, generator=generator) < 0.5
    mask[0] = False
    return hidden, weight, bias, ids, mask


def _plain(hidden, weight, bias, ids, mask, temperature):
    logits = (hidden[:-1] @ weight.T + (0 if bias is None else bias)) / temperature
    log_p = torch.log_softmax(logits, -1)
    chosen = log_p.gather(1, ids[1:].unsqueeze(1)).squeeze(1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    zero = torch.zeros(1)
    return torch.cat((zero, chosen)) * mask, torch.cat((zero, entropy)) * mask


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("has_bias", [False, True])
def test_values_and_gradients_are_those_of_log_softmax(chunk, temperature, has_bias):
    hidden, weight, bias, ids, mask = _case()
    bias = bias if has_bias else None
    ours, entropy = action_logprobs(
        hidden, weight, ids, mask, chunk=chunk, temperature=temperature, bias=bias
    )
    plain, plain_entropy = _plain(hidden, weight, bias, ids, mask, temperature)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(entropy, plain_entropy)
    assert not entropy.requires_grad
    inputs = [t for t in (hidden, weight, bias) if t is not None]
    token_weights = torch.randn(len(ids))
    for got, want in zip(
        torch.autograd.grad((ours * token_weights).sum(), inputs),
        torch.autograd.grad((plain * token_weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


class _LargestLogits(TorchDispatchMode):
    """Records how many rows of [*, 13] tensors exist at once and in total."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.mm.out) and out.shape[-1] == 13:
            self.rows.append(len(out))
        return out


def test_prompt_tokens_never_reach_the_head_and_logits_come_in_chunks():
    hidden, weight, _, ids, mask = _case()
    with _LargestLogits() as seen:
        logprobs, _ = action_logprobs(hidden, weight, ids, mask, chunk=4)
        logprobs.sum().backward()
    forward_and_backward = 2 * int(mask.sum())
    assert sum(seen.rows) == forward_and_backward
    assert max(seen.rows) == 4


def test_positions_that_predict_no_action_get_no_gradient():
    hidden, weight, _, ids, mask = _case()
    action_logprobs(hidden, weight, ids, mask, chunk=4)[0].sum().backward()
    predicts = torch.cat((mask[1:], torch.tensor([False])))
    assert (hidden.grad[~predicts] == 0).all()
    assert (hidden.grad[predicts] != 0).any(-1).all()


def test_bfloat16_hidden_states_meet_the_head_in_float32():
    hidden, weight, _, ids, mask = _case()
    hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    ours, _ = action_logprobs(hidden, weight, ids, mask, chunk=4)
    exact, _ = action_logprobs(hidden.float(), weight.float(), ids, mask, chunk=4)
    assert torch.equal(ours, exact)


def test_a_row_without_actions_scores_zero_and_trains_nothing():
    hidden, weight, _, ids, mask = _case()
    logprobs, entropy = action_logprobs(hidden, weight, ids, torch.zeros_like(mask), chunk=4)
    assert logprobs.tolist() == entropy.tolist() == [0.0] * 20
    logprobs.sum().backward()
    assert weight.grad.abs().max() == 0


def test_an_action_without_a_predecessor_is_refused():
    hidden, weight, _, ids, mask = _case()
    mask[0] = True
    with pytest.raises(ValueError, match="first token"):
        action_logprobs(hidden, weight, ids, mask, chunk=4)
