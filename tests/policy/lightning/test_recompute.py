import gc

import pytest
import torch

from cispo.config import PolicyConfig
from cispo.learner.build import build_policy
from tests.policy.models import actions, make_model, pack, random_ids


def _gradients(model, ids, ends, *, recompute):
    model.model.recompute_layers = recompute
    model.zero_grad()
    scores = model(ids, ends, actions(ends))
    (scores.logprobs.sum() + scores.aux_loss).backward()
    return scores, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputing_layers_changes_no_bit(experts, dtype):
    model = make_model(num_local_experts=experts, num_experts_per_tok=min(experts, 2)).to(dtype)
    ids, ends = pack([random_ids(n, seed=n) for n in (5, 200, 64, 33)])
    kept, expected = _gradients(model, ids, ends, recompute=False)
    recomputed, found = _gradients(model, ids, ends, recompute=True)
    assert torch.equal(recomputed.logprobs, kept.logprobs)
    assert torch.equal(recomputed.aux_loss, kept.aux_loss)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def _bytes_kept(model, ids, ends, *, recompute):
    """Bytes that the backward pass waits for: what autograd saved, and what Python still refers to.

    Recomputation holds its inputs in Python, out of sight of the hooks.
    """

    def tensors():
        return [each for each in gc.get_objects() if type(each) is torch.Tensor]

    known = {t.untyped_storage().data_ptr() for t in (*tensors(), *model.parameters())}
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would refer to its own graph for ever

    model.model.recompute_layers = recompute
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scores = model(ids, ends, actions(ends))
    for tensor in tensors():
        note(tensor)
    del scores
    return sum(size for storage, size in sizes.items() if storage not in known)


def test_recomputing_layers_keeps_a_layers_input_and_little_more():
    model = make_model(num_hidden_layers=8, layer_types=("linear_attention",) * 8)
    ids, ends = pack([random_ids(2000)])
    whole = _bytes_kept(model, ids, ends, recompute=False)
    # of a token a layer's input is 48 of about a thousand numbers
    assert _bytes_kept(model, ids, ends, recompute=True) < whole / 8
    with torch.no_grad():
        assert model(ids, ends, actions(ends)).logprobs.grad_fn is None


def test_a_configuration_decides_whether_layers_are_recomputed():
    architecture = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rotary_dim": 4,
        "layer_types": ["full_attention"],
    }
    for wanted in (False, True):
        config = PolicyConfig(architecture=architecture, recompute_layers=wanted)
        assert build_policy(config, seed=0).model.recompute_layers is wanted
