import pytest
import torch

from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.decay import head_slopes, layer_slopes
from cispo.policy.lightning.stepper import TorchStepper
from tests.policy.models import actions, random_ids
from tests.policy.reference import named_weights, reference_logits


def _reference_logprobs(model, ids):
    with torch.no_grad():
        logits = reference_logits(named_weights(model.state_dict()), model.config, ids)
    logprobs = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:].unsqueeze(1)).squeeze(1)
    return torch.cat((torch.zeros(1), logprobs))


def _decoded_logprobs(model, ids):
    decode = TorchStepper(model).step
    first, state = model.prefill(ids[:1], torch.tensor([0, 1]))
    hidden = [first, *(decode(ids[t : t + 1], state) for t in range(1, len(ids) - 1))]
    logprobs = torch.log_softmax(model.logits(torch.cat(hidden)), -1)
    return torch.cat((torch.zeros(1), logprobs.gather(1, ids[1:].unsqueeze(1)).squeeze(1)))


@pytest.mark.parametrize("experts", [1, 3])
def test_chunked_and_recurrent_forms_equal_float64_over_two_thousand_tokens(lightning, experts):
    model = lightning.model(num_local_experts=experts, num_experts_per_tok=min(experts, 2))
    ids = random_ids(2048)
    ends = torch.tensor([0, 2048], dtype=torch.int32)
    expected = _reference_logprobs(model, ids)
    with torch.no_grad():
        chunked = model(ids, ends, actions(ends)).logprobs
        recurrent = _decoded_logprobs(model, ids)
    assert (chunked - expected).abs().max() <= 1e-4
    assert (recurrent - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(
    "architecture",
    [
        {"num_local_experts": 1, "num_experts_per_tok": 1},
        {"num_local_experts": 3},
        {"num_local_experts": 12, "num_experts_per_tok": 3},
        {"num_attention_heads": 6, "head_dim": 10, "rotary_dim": 4},
    ],
    ids=["dense", "three experts", "twelve experts", "six heads"],
)
@pytest.mark.parametrize("learns", [True, False])
def test_logits_of_packed_ragged_sequences_equal_float64(lightning, architecture, learns):
    model = lightning.model(seed=7, initializer_range=0.3, **architecture)
    sequences = [random_ids(n, seed=n) for n in (1, 15, 16, 17, 2, 230, 64, 65, 128)]
    ids, ends = lightning.pack(sequences)
    with torch.set_grad_enabled(learns):
        logits = model.logits(model.hidden(ids, ends)[0])
    tensors = named_weights(model.state_dict())
    expected = torch.cat([reference_logits(tensors, model.config, s) for s in sequences])
    assert expected.std() > 1.0, "logits too small to show an error"
    assert (logits - expected).abs().max() <= 1e-4


def test_packed_sequences_equal_float64_one_by_one(lightning):
    model = lightning.model()
    sequences = [random_ids(n, seed=n) for n in (1, 16, 17, 2, 150, 64, 65, 700)]
    ids, ends = lightning.pack(sequences)
    logprobs = model(ids, ends, actions(ends)).logprobs
    expected = torch.cat([_reference_logprobs(model, s) for s in sequences])
    assert (logprobs - expected).abs().max() <= 1e-4


def test_an_inference_forward_with_many_experts_equals_the_training_forward(lightning):
    for experts in (3, 10):
        model = lightning.model(num_local_experts=experts)
        ids, ends = lightning.pack([random_ids(40), random_ids(30, seed=1)])
        trained = model(ids, ends, actions(ends)).logprobs
        with torch.no_grad():
            inferred = model(ids, ends, actions(ends)).logprobs
        torch.testing.assert_close(inferred, trained, rtol=0, atol=1e-5)


def test_no_gradient_and_no_value_leaks_between_packed_sequences(lightning):
    model = lightning.model(num_local_experts=1, num_experts_per_tok=1)
    first, second, third = random_ids(40), random_ids(90, seed=1), random_ids(33, seed=2)
    ids, ends = lightning.pack([first, second, third])
    embedded = model.model.embed_tokens.weight
    scores = model(ids, ends, actions(ends))
    (grad,) = torch.autograd.grad(scores.logprobs[40:130].sum(), embedded)
    untouched = sorted(set(range(96)) - set(second.tolist()))
    assert grad[untouched].abs().max() == 0
    other, other_ends = lightning.pack([random_ids(7, seed=8), second, random_ids(80, seed=9)])
    again = model(other, other_ends, actions(other_ends)).logprobs[7:97]
    torch.testing.assert_close(again, scores.logprobs[40:130], rtol=0, atol=1e-5)


def test_gradients_of_all_parameters_equal_finite_differences_of_the_float64_model(lightning):
    config = {"layer_types": (LINEAR, FULL), "num_hidden_layers": 2, "block_size": 4}
    model = lightning.model(seed=3, **config)
    sequences = [random_ids(11, seed=5), random_ids(6, seed=6)]
    ids, ends = lightning.pack(sequences)
    model(ids, ends, actions(ends)).logprobs.sum().backward()

    def loss():
        return sum(_reference_logprobs(model, s).sum() for s in sequences)

    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        step = torch.randn(parameter.shape, generator=generator)
        step = step * (1e-3 / step.norm())
        with torch.no_grad():
            parameter.add_(step)
            above = loss()
            parameter.sub_(2 * step)
            slope = (above - loss()) / 2
            parameter.add_(step)
        directional = (parameter.grad.double() * step.double()).sum()
        tolerance = 0.02 * parameter.grad.norm() * 1e-3 + 1e-6
        assert abs(directional - slope) < tolerance, name


def test_prefill_hands_decoding_the_state_of_each_prompt(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    prompts = [random_ids(5), random_ids(64, seed=1), random_ids(40, seed=2)]
    ids, ends = lightning.pack(prompts)
    hidden, state = model.prefill(ids, ends)
    with torch.no_grad():
        expected, _ = model.hidden(ids, ends)
    torch.testing.assert_close(hidden, expected[ends[1:].long() - 1], rtol=0, atol=1e-5)
    assert state.lengths.tolist() == [5, 64, 40]
    following = torch.tensor([3, 4, 5])
    decoded = decode(following, state)
    assert state.lengths.tolist() == [6, 65, 41]
    for row, prompt in enumerate(prompts):
        longer = torch.cat((prompt, following[row : row + 1]))
        with torch.no_grad():
            whole, _ = model.hidden(longer, torch.tensor([0, len(longer)]))
        torch.testing.assert_close(decoded[row], whole[-1], rtol=0, atol=1e-5)


def test_a_prompt_of_one_token_can_be_prefilled_alone(lightning):
    model = lightning.model()
    hidden, state = model.prefill(torch.tensor([7]), torch.tensor([0, 1]))
    assert hidden.shape == (1, 48)
    assert state.num_rows == 1
    assert state.lengths.tolist() == [1]


@pytest.mark.parametrize("kinds", [(LINEAR, LINEAR), (FULL, FULL)])
def test_models_of_one_kind_of_layer_work(lightning, kinds):
    model = lightning.model(layer_types=kinds, num_hidden_layers=2)
    ids = random_ids(80)
    ends = torch.tensor([0, 80])
    scores = model(ids, ends, actions(ends))
    expected = _reference_logprobs(model, ids)
    assert (scores.logprobs - expected).abs().max() <= 1e-4
    assert (_decoded_logprobs(model, ids) - expected).abs().max() <= 1e-4


def test_bfloat16_weights_train_and_stay_near_float32(lightning):
    exact = lightning.model(initializer_range=0.3).to(torch.bfloat16).float()
    rounded = lightning.model(initializer_range=0.3).to(torch.bfloat16)
    ids, ends = lightning.pack([random_ids(70), random_ids(30, seed=1)])
    expected = exact(ids, ends, actions(ends)).logprobs
    scores = rounded(ids, ends, actions(ends))
    (scores.logprobs.sum() + scores.aux_loss).backward()
    assert scores.logprobs.dtype == torch.float32
    # 0.015 with a stream between the layers that is bfloat16 as well
    assert (scores.logprobs - expected).abs().mean() < 0.011
    assert all(p.grad.dtype == torch.bfloat16 for p in rounded.parameters())
    assert all(torch.isfinite(p.grad).all() for p in rounded.parameters())


@pytest.mark.parametrize("experts", [1, 3])
def test_in_bfloat16_only_operands_of_products_are_bfloat16(lightning, experts):
    model = lightning.model(num_local_experts=experts, num_experts_per_tok=min(experts, 2))
    model = model.to(torch.bfloat16)
    found = {}

    def note(name):
        return lambda module, inputs, output: found.__setitem__(name, (inputs[0], output))

    for name, module in model.named_modules():
        module.register_forward_hook(note(name))
    model(random_ids(20), torch.tensor([0, 20], dtype=torch.int32), torch.arange(20) > 0)
    for layer in ("model.layers.0", "model.layers.1"):
        for norm in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"):
            assert [tensor.dtype for tensor in found[norm]] == [torch.float32] * 2
    assert found["model.norm"][1].dtype == torch.float32
    assert found["model.layers.0.self_attn.qkv_proj"][1].dtype == torch.float32
    gated, output = found["model.layers.0.self_attn.out_proj"]
    assert (gated.dtype, output.dtype) == (torch.bfloat16, torch.float32)
    if experts > 1:
        gate = found["model.layers.0.block_sparse_moe.gate"]
        assert [tensor.dtype for tensor in gate] == [torch.float32] * 2


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(lightning):
    same, again, other = (lightning.model(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["lm_head.weight"], other["lm_head.weight"])


def test_slopes_are_those_of_the_released_checkpoint():
    # paper's checkpoint: 64 heads, 80 layers; slopes from 0.917 to 0.0039 at layer 0
    first = layer_slopes(64, layer=0, num_layers=80)
    assert first[0] == pytest.approx(2**-0.125 * 1.00001)
    assert first[63] == pytest.approx(2**-8 * 1.00001)
    last = layer_slopes(64, layer=78, num_layers=80)
    assert last[63] / first[63] == pytest.approx((1 / 79 + 1e-5) / 1.00001)
    # six heads: four of the power of two below, then every other one of the power above
    assert head_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
