import pytest
import torch

from cispo.errors import ConfigError
from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.native.build import native_library
from cispo.policy.lightning.native.stepper import NativeStepper
from cispo.policy.lightning.state import DecodeState
from cispo.policy.lightning.stepper import TorchStepper, make_stepper
from tests.policy.models import make_model, random_ids
from tests.policy.reference import named_weights, reference_logits

pytestmark = pytest.mark.skipif(native_library() is None, reason="native kernels cannot be built")

ARCHITECTURES = {
    "experts": {},
    "dense": {"num_local_experts": 1, "num_experts_per_tok": 1},
    "many experts": {"num_local_experts": 17, "num_experts_per_tok": 5},
    "softmax first and last": {"layer_types": (FULL, LINEAR, LINEAR, FULL)},
    "softmax only": {"layer_types": (FULL,) * 4, "rotary_dim": 16},
    "lightning only": {"layer_types": (LINEAR,) * 4},
    "odd sizes": {
        "head_dim": 24,
        "hidden_size": 100,
        "intermediate_size": 76,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "rotary_dim": 10,
        "vocab_size": 131,
    },
    "large heads, wide experts": {
        "head_dim": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 1100,
    },
    "an inner norm narrower than a vector": {
        "head_dim": 8,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "hidden_size": 20,
    },
}


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def any_model(request):
    return make_model(**request.param)


@pytest.fixture
def threads():
    """Sets torch's number of threads; one again after the test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def _decoded(stepper, state, tokens):
    """Hidden states [steps, N, d] of tokens [steps, N]."""
    return torch.stack([stepper.step(ids, state) for ids in tokens])


def _tokens(model, steps, rows, seed=0):
    ids = random_ids(steps * rows, seed=seed, vocabulary=model.config.vocab_size)
    return ids.view(steps, rows)


def test_the_native_step_computes_what_the_torch_step_computes(any_model):
    tokens = _tokens(any_model, 140, 16)
    states = [DecodeState.empty(any_model.config, 16) for _ in range(2)]
    torch_stepper, native = TorchStepper(any_model), NativeStepper(any_model)
    expected = _decoded(torch_stepper, states[0], tokens)
    actual = _decoded(native, states[1], tokens)
    error = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < 1e-5
    assert torch.equal(states[0].lengths, states[1].lengths)
    logits = native.logits(actual[-1])
    torch.testing.assert_close(logits, torch_stepper.logits(actual[-1]), rtol=1e-5, atol=1e-6)


def test_the_native_step_computes_what_float64_recurrences_compute(any_model):
    native = NativeStepper(any_model)
    ids = random_ids(150, vocabulary=any_model.config.vocab_size)
    expected = reference_logits(named_weights(any_model.state_dict()), any_model.config, ids)
    state = DecodeState.empty(any_model.config, 1)
    actual = native.logits(_decoded(native, state, ids.view(-1, 1))[:, 0])
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_native_step_goes_on_from_a_prefilled_prompt(any_model):
    ids = random_ids(100, vocabulary=any_model.config.vocab_size)
    _, state = any_model.prefill(ids[:-1], torch.tensor([0, 99], dtype=torch.int32))
    with torch.no_grad():
        expected, _ = any_model.hidden(ids, torch.tensor([0, 100], dtype=torch.int32))
    actual = NativeStepper(any_model).step(ids[-1:], state)
    assert (actual - expected[-1:]).norm() < 1e-5 * expected[-1:].norm()


def test_the_native_step_rotates_as_torch_does_far_into_a_sequence():
    model = make_model()
    states = [DecodeState.empty(model.config, 1) for _ in range(2)]
    for state in states:
        state.reserve(1, 100_000)
        state.pages.copy_(
            torch.randn(state.pages.shape, generator=torch.Generator().manual_seed(0))
        )
        state.lengths[0] = 99_990
    tokens = _tokens(model, 5, 1)
    expected = _decoded(TorchStepper(model), states[0], tokens)
    actual = _decoded(NativeStepper(model), states[1], tokens)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(states[1].pages, states[0].pages, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [NativeStepper, TorchStepper])
def test_what_a_bfloat16_model_gives_is_float32(make):
    model = make_model().bfloat16()
    stepper = make(model)
    hidden = stepper.step(torch.arange(5), DecodeState.empty(model.config, 5))
    assert hidden.dtype == stepper.logits(hidden).dtype == torch.float32


def test_a_row_has_the_same_bits_in_any_company_in_the_native_step(any_model):
    _hold_rows_in_company(NativeStepper(any_model), any_model.config)


@pytest.mark.parametrize("name", ["experts", "dense", "many experts", "softmax first and last"])
def test_a_row_has_the_same_bits_in_any_company_in_the_torch_step(name):
    model = make_model(**ARCHITECTURES[name])
    _hold_rows_in_company(TorchStepper(model), model.config)


def _hold_rows_in_company(stepper, config):
    tokens = random_ids(70 * 100, vocabulary=config.vocab_size).view(70, 100)
    everyone = _decoded(stepper, DecodeState.empty(config, 100), tokens)
    logits = stepper.logits(everyone[-1])
    some = torch.tensor([41, 7, 99])
    for rows in (torch.arange(1), some, torch.arange(16), torch.arange(20, 84)):
        fewer = _decoded(
            stepper, DecodeState.empty(config, len(rows)), tokens[:, rows].contiguous()
        )
        assert torch.equal(fewer, everyone[:, rows])
        assert torch.equal(stepper.logits(fewer[-1]), logits[rows])


def test_a_row_has_the_same_bits_with_any_number_of_threads(any_model, threads):
    native = NativeStepper(any_model)
    tokens = _tokens(any_model, 10, 41)
    alone = _decoded(native, DecodeState.empty(any_model.config, 41), tokens)
    logits = native.logits(alone[-1])
    for count in (2, 3, 8):
        threads(count)
        assert torch.equal(_decoded(native, DecodeState.empty(any_model.config, 41), tokens), alone)
        assert torch.equal(native.logits(alone[-1]), logits)


def test_a_sequence_keeps_its_bits_when_it_moves_to_another_row(any_model):
    native = NativeStepper(any_model)
    tokens = _tokens(any_model, 140, 4)
    stays = DecodeState.empty(any_model.config, 4)
    moves = DecodeState.empty(any_model.config, 4)
    _decoded(native, stays, tokens[:70])
    _decoded(native, moves, tokens[:70])
    moves.move(torch.tensor([1]), torch.tensor([3]))
    after = _decoded(native, moves, tokens[70:, [0, 3]].contiguous())
    assert torch.equal(after, _decoded(native, stays, tokens[70:])[:, [0, 3]])


def test_only_the_first_rows_are_stepped_and_the_others_stay():
    model = make_model()
    state = DecodeState.empty(model.config, 5)
    native = NativeStepper(model)
    _decoded(native, state, _tokens(model, 3, 5))
    before = state.linear.clone()
    native.step(torch.tensor([1, 2]), state)
    assert state.lengths.tolist() == [4, 4, 3, 3, 3]
    assert torch.equal(state.linear[:, 2:], before[:, 2:])
    assert (state.linear[:, :2] != before[:, :2]).any(dim=-1).any(dim=-1).any(dim=-1).all()


@pytest.mark.parametrize("tied", [False, True])
def test_new_weights_count_from_the_next_refresh_on(tied):
    model = make_model(tie_word_embeddings=tied)
    native = NativeStepper(model)
    other = make_model(seed=5, tie_word_embeddings=tied)
    model.load_state_dict(other.state_dict())
    native.refresh()
    tokens = _tokens(model, 5, 2)
    expected = _decoded(TorchStepper(other), DecodeState.empty(model.config, 2), tokens)
    actual = _decoded(native, DecodeState.empty(model.config, 2), tokens)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        native.logits(actual[-1]), other.logits(expected[-1]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", ["experts", "dense"])
def test_new_weights_count_from_the_next_refresh_on_in_torch(name):
    model, other = (make_model(seed, **ARCHITECTURES[name]) for seed in (0, 5))
    stepper, tokens = TorchStepper(model), _tokens(model, 5, 2)
    model.load_state_dict(other.state_dict())
    stepper.refresh()
    actual = _decoded(stepper, DecodeState.empty(model.config, 2), tokens)
    expected = _decoded(TorchStepper(other), DecodeState.empty(model.config, 2), tokens)
    assert torch.equal(actual, expected)
    assert torch.equal(stepper.logits(actual[-1]), TorchStepper(other).logits(expected[-1]))


@pytest.mark.parametrize("make", [NativeStepper, TorchStepper])
@pytest.mark.parametrize("name", ["experts", "dense"])
def test_a_step_rounds_where_the_training_form_of_a_bfloat16_model_does(name, make):
    model = make_model(initializer_range=0.3, **ARCHITECTURES[name]).bfloat16()
    ids = torch.arange(50)
    with torch.no_grad():  # 50 sequences of one token, for which both forms sum the same few terms
        expected, _ = model.hidden(ids, torch.arange(51, dtype=torch.int32))
    dtype = torch.bfloat16 if make is TorchStepper else torch.float32
    state = DecodeState.empty(model.config, 50, dtype=dtype)
    actual = make(model).step(ids, state)
    error = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.median() < 1e-6  # 4e-3 for a step that does not round


def test_states_do_not_drift_from_float64_over_many_steps():
    model = make_model(layer_types=(LINEAR,) * 4)
    for layer in model.model.layers:  # nothing is written, so the states only decay
        torch.nn.init.zeros_(layer.self_attn.qkv_proj.weight)
    native = NativeStepper(model)
    state = DecodeState.empty(model.config, 1)
    state.linear.fill_(1.0)
    for _ in range(10_000):
        native.step(torch.tensor([1]), state)
    slope = 2.0**-8 * (1 / 3 + 1e-5)  # of the last head of the third of four layers
    expected = torch.exp(torch.tensor(-slope * 10_000, dtype=torch.float64))
    assert (state.linear[2, 0, 3].double() / expected - 1).abs().max() < 2e-5


def test_an_infinite_weight_gives_no_number_rather_than_a_crash():
    model = make_model()
    with torch.no_grad():
        model.model.layers[0].self_attn.out_proj.weight[0, 0] = torch.inf
    state = DecodeState.empty(model.config, 16)
    hidden = NativeStepper(model).step(torch.arange(16), state)
    assert hidden.isnan().any()


def _break_tokens(state):
    return torch.tensor([0, 96])


def _break_sign(state):
    return torch.tensor([0, -1])


def _break_dtype(state):
    return torch.tensor([0, 1], dtype=torch.int32)


def _break_count(state):
    return torch.arange(4)


def _break_layout(state):
    state.linear = state.linear.transpose(-1, -2)
    return torch.tensor([0, 1])


def _break_state_dtype(state):
    state.linear = state.linear.double()
    return torch.tensor([0, 1])


def _break_lengths(state):
    state.lengths[1] = -70
    return torch.tensor([0, 1])


def _break_table(state):
    state.page_table[1] = 1000
    return torch.tensor([0, 1])


def _break_table_sign(state):
    state.page_table[1] = -3
    return torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (_break_tokens, "row 1 cannot be stepped: token 96 is not among 96"),
        (_break_sign, "row 1 cannot be stepped: token -1"),
        (_break_dtype, "token_ids is contiguous torch.int32"),
        (_break_count, "4 tokens for a state of 3 rows"),
        (_break_layout, "state.linear is strided torch.float32"),
        (_break_state_dtype, "state.linear is contiguous torch.float64"),
        (_break_lengths, "row 1 cannot be stepped: length -70 lies outside"),
        (_break_table, "row 1 cannot be stepped: its 1 pages are not all in 1.."),
        (_break_table_sign, "row 1 cannot be stepped: its 1 pages are not all in 1.."),
    ],
)
def test_what_would_write_outside_of_the_state_is_refused_and_changes_nothing(breakage, message):
    model = make_model()
    native = NativeStepper(model)
    state = DecodeState.empty(model.config, 3)
    native.step(torch.arange(3), state)
    tokens = breakage(state)
    before = state.linear.clone(), state.lengths.clone(), state.pages.clone()
    with pytest.raises(ValueError, match=message):
        native.step(tokens, state)
    for old, new in zip(before, (state.linear, state.lengths, state.pages), strict=True):
        assert torch.equal(old, new)


def test_hidden_states_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"hidden is contiguous torch.float32 \[2, 40\]"):
        NativeStepper(make_model()).logits(torch.zeros(2, 40))


def test_the_kernels_that_a_config_names_are_taken():
    model = make_model()
    assert isinstance(make_stepper(model), NativeStepper)
    assert isinstance(make_stepper(model, kernels="native"), NativeStepper)
    assert isinstance(make_stepper(model, kernels="torch"), TorchStepper)
    with pytest.raises(ConfigError, match=r"policy\.kernels=fast: choose one of"):
        make_stepper(model, kernels="fast")


def test_heads_that_the_native_step_cannot_read_are_left_to_torch_or_refused():
    model = make_model(head_dim=12, rotary_dim=12)
    assert isinstance(make_stepper(model), TorchStepper)
    with pytest.raises(ConfigError, match="head_dim=12 is not a multiple of 8; choose torch"):
        make_stepper(model, kernels="native")
