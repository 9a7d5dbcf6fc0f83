"""Rows shared by ranks, which are threads here, against the same rows on one rank."""

import copy

import pytest
import torch

from cispo.errors import ConfigError
from cispo.policy.lightning.attention import lightning_attention
from cispo.policy.lightning.chunks import chunk_layout
from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.passed_state import with_passed_state
from cispo.policy.lightning.shared_row import share_row
from cispo.policy.lightning.ulysses import heads_of_a_rank
from tests.policy.lightning.thread_ranks import on_ranks
from tests.policy.models import actions, make_model, pack, random_ids

ROWS = {
    "one sequence": (83,),
    "many sequences in a piece": (5, 1, 50, 2, 13, 24, 7, 1, 1, 20),
    "a sequence over all pieces": (3, 90, 4),
    "cuts between sequences": (20, 20, 20, 20),
    "cuts beside boundaries": (21, 20, 19, 1, 19),
    "fewer tokens than ranks": (2,),
    "as many tokens as ranks": (1, 2),
}


def _row(lengths):
    ids, ends = pack([random_ids(n, seed=n) for n in lengths])
    mask = actions(ends) & (torch.arange(len(ids)) % 7 != 3)
    return ids, ends, mask


def _pass(model, row, routed_experts=None):
    """Scores, and gradients of a loss that mixes all tokens of the row."""
    ids, ends, mask = row
    scores = model(ids, ends, mask, temperature=0.9, routed_experts=routed_experts)
    weights = torch.linspace(-1.0, 1.0, len(ids)).to(scores.logprobs)
    mixed = (weights * scores.logprobs).sum().square() / len(ids) ** 2
    (scores.logprobs.mean() + mixed + 0.1 * scores.aux_loss).backward()
    return scores, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _shared_pass(model, row, size, **options):
    """Every rank's scores, and the sum of all ranks' gradients."""
    copies = [copy.deepcopy(model) for _ in range(size)]

    def run(ranks):
        own = copies[ranks.rank]
        own.share_rows(ranks)
        return (*_pass(own, row, **options), ranks.num_calls)

    scores, gradients, calls = zip(*on_ranks(size, run), strict=True)
    assert len(set(calls)) == 1, "the ranks took part in different numbers of collectives"
    names = {name for rank in gradients for name in rank}
    summed = {name: sum(rank[name] for rank in gradients if name in rank) for name in names}
    return scores, summed


def _assert_equal(model, row, size, *, tolerance, **options):
    expected, gradients = _pass(copy.deepcopy(model), row, **options)
    shared, summed = _shared_pass(model, row, size, **options)
    for scores in shared:
        for name in ("logprobs", "entropy", "aux_loss"):
            torch.testing.assert_close(
                getattr(scores, name), getattr(expected, name), rtol=tolerance, atol=tolerance
            )
        assert torch.equal(scores.logprobs, shared[0].logprobs), "ranks would take other losses"
        assert torch.equal(scores.aux_loss, shared[0].aux_loss)
        if expected.router_load is not None:
            assert torch.equal(scores.router_load.counts, expected.router_load.counts)
            torch.testing.assert_close(
                scores.router_load.entropy, expected.router_load.entropy, rtol=1e-5, atol=1e-6
            )
    assert summed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = max(1.0, gradient.abs().max().item())
        error = (summed[name] - gradient).abs().max().item()
        assert error <= tolerance * scale, f"{name}: {error}"


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS.keys())
def test_scores_and_gradients_in_float64_are_those_of_one_rank(lengths, size):
    model = make_model(initializer_range=0.3).double()
    _assert_equal(model, _row(lengths), size, tolerance=1e-10)


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("lengths", [(5, 1, 90, 2, 33, 64, 7), (2,)])
def test_scores_and_gradients_in_float32_are_those_of_one_rank(lengths, kernels):
    model = make_model(kernels=kernels)
    _assert_equal(model, _row(lengths), 4, tolerance=1e-5)


def test_in_bfloat16_ranks_differ_from_one_rank_by_rounding():
    model = make_model(num_local_experts=1, num_experts_per_tok=1).to(torch.bfloat16)
    row = _row((40, 130, 60))
    _assert_equal(model, row, 2, tolerance=3e-2)
    exact = _pass(copy.deepcopy(model).double(), row)[0].logprobs
    rounded = (_pass(copy.deepcopy(model), row)[0].logprobs - exact).abs().mean()
    shared = (_shared_pass(model, row, 2)[0][0].logprobs - exact).abs().mean()
    assert shared < 1.2 * rounded, "sharing a row adds no rounding of its own"


@pytest.mark.parametrize("is_reentrant", [False, True])
@pytest.mark.parametrize("lengths", [(5, 1, 90, 33, 64), (2,)])
def test_recomputed_layers_meet_in_the_backward_pass_too(lengths, is_reentrant):
    model = make_model(initializer_range=0.3).double()
    row = _row(lengths)
    kept, expected = _shared_pass(model, row, 4)
    model.model.recompute_layers = True
    if is_reentrant:  # as under ZeRO 3, whose parameters carry this mark
        for parameter in model.model.layers.parameters():
            parameter.ds_id = 0
    recomputed, found = _shared_pass(model, row, 4)
    assert torch.equal(recomputed[0].logprobs, kept[0].logprobs)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"), [(4, 1, 4), (4, 2, 4), (12, 6, 4), (6, 3, 3), (6, 2, 3)]
)
def test_key_heads_are_repeated_where_they_are_fewer_than_ranks_or_do_not_divide(
    heads, kv_heads, size
):
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 8}
    model = make_model(layer_types=(FULL, FULL), num_hidden_layers=2, **sizes).double()
    _assert_equal(model, _row((7, 100, 31)), size, tolerance=1e-10)


def test_no_rank_gets_more_heads_than_it_needs():
    assert heads_of_a_rank(64, 8, 4) == (16, 2)
    assert heads_of_a_rank(64, 8, 16) == (4, 1)
    assert heads_of_a_rank(12, 6, 4) == (3, 3)


def test_experts_that_were_chosen_already_are_those_of_the_piece():
    model = make_model().double()
    row = _row((30, 50, 11))
    routes = torch.randint(0, 2, (91, 8), generator=torch.Generator().manual_seed(1))
    routes[:, 1::2] = 2  # of two experts a token no one twice
    routes = routes.to(torch.uint8)
    _assert_equal(model, row, 4, tolerance=1e-10, routed_experts=routes)
    free = _pass(copy.deepcopy(model), row)[0].router_load.counts
    given = _pass(copy.deepcopy(model), row, routed_experts=routes)[0].router_load.counts
    assert not torch.equal(free, given)


def test_a_model_of_lightning_layers_alone_needs_no_common_divisor():
    layers = {"layer_types": (LINEAR, LINEAR), "num_hidden_layers": 2}
    _assert_equal(make_model(**layers).double(), _row((20, 61)), 3, tolerance=1e-10)


def test_states_pass_over_many_slabs_of_long_pieces():
    slopes, lengths = (0.7, 0.002), (100, 2700, 50, 1500)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 2, 3, 4, dtype=torch.float64, generator=generator)
    wanted = torch.randn(sum(lengths), 2, 4, dtype=torch.float64, generator=generator)
    ends = torch.tensor([0, *lengths]).cumsum(0)

    def attend(qkv, starts, initial_state):
        layout = chunk_layout(starts, block=16, num_heads=2)
        return lightning_attention(qkv, slopes, layout, initial_state=initial_state)[0]

    def run(ranks):
        row = share_row(ends, ranks)
        own = qkv[row.tokens].clone().requires_grad_()
        passed, states = with_passed_state(own, slopes, row)
        output = attend(passed, torch.tensor(row.boundaries), states)
        return output.detach(), *torch.autograd.grad(output, own, wanted[row.tokens])

    outputs, gradients = zip(*on_ranks(2, run), strict=True)
    whole = qkv.clone().requires_grad_()
    expected = attend(whole, ends, None)
    torch.testing.assert_close(torch.cat(outputs), expected.detach(), rtol=1e-11, atol=1e-10)
    gradient = torch.autograd.grad(expected, whole, wanted)[0]
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-11, atol=1e-9)


def test_heads_that_cannot_be_shared_out_are_refused_with_the_numbers():
    def run(ranks):
        make_model().share_rows(ranks)

    with pytest.raises(
        ConfigError, match=r"sequence_parallel=3: must divide .* num_attention_heads=4"
    ):
        on_ranks(3, run)


def test_an_action_that_nothing_predicts_is_refused_on_every_rank():
    ids, ends, mask = _row((9,))
    mask[0] = True
    refused = []

    def run(ranks):
        model = make_model()
        model.share_rows(ranks)
        with pytest.raises(ValueError, match="first token of a row"):
            model(ids, ends, mask)
        refused.append(ranks.rank)

    on_ranks(2, run)
    assert sorted(refused) == [0, 1]


def test_each_rank_keeps_its_share_of_the_activations():
    model = make_model()
    row = _row((500, 300, 1248))

    def bytes_kept(of):
        sizes = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            scores = of(*row)
        weights = {p.untyped_storage().data_ptr() for p in of.parameters()}
        del scores
        return sum(size for storage, size in sizes.items() if storage not in weights)

    def run(ranks):
        own = copy.deepcopy(model)
        own.share_rows(ranks)
        return bytes_kept(own)

    whole = bytes_kept(copy.deepcopy(model))
    assert max(on_ranks(4, run)) < 0.3 * whole
