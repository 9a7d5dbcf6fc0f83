import pytest
import torch

from cispo.policy.lightning.linear import LightningAttention
from cispo.policy.lightning.state import DecodeState


def _prefilled(lightning, model, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 90, (count,), generator=generator).tolist()
    prompts = [torch.randint(0, 96, (n,), generator=generator) for n in lengths]
    return model.prefill(*lightning.pack(prompts))[1]


def _bits(state):
    return [t.clone() for t in (state.linear, state.keys, state.values, state.lengths)]


@pytest.mark.parametrize("experts", [1, 3])
def test_a_row_decodes_to_the_same_bits_in_any_company(lightning, experts):
    model = lightning.model(num_local_experts=experts, num_experts_per_tok=min(2, experts))
    source = _prefilled(lightning, model, 40)
    tokens = torch.randint(0, 96, (30, 40), generator=torch.Generator().manual_seed(1))

    def run(rows):
        state = source.take(rows)
        hidden = [model.decode(step[rows], state) for step in tokens]
        return torch.stack(hidden), model.logits(torch.cat(hidden))

    everyone, _ = run(torch.arange(40))
    for rows in (torch.arange(16), torch.arange(5, 37), torch.arange(39, 20, -1)):
        fewer, _ = run(rows)
        assert torch.equal(fewer, everyone[:, rows])


def test_prefill_gives_a_prompt_the_same_bits_in_any_company(lightning):
    model = lightning.model()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 96, (n,), generator=generator) for n in (3, 70, 20, 129, 64)]
    together, state = model.prefill(*lightning.pack(prompts))
    for row, prompt in enumerate(prompts):
        alone, own = model.prefill(*lightning.pack([prompt]))
        assert torch.equal(alone[0], together[row])
        assert torch.equal(own.linear[:, 0], state.linear[:, row])
        n = len(prompt)
        assert torch.equal(own.keys[:, 0, :, :n], state.keys[:, row, :, :n])


def test_only_the_first_rows_are_decoded_and_the_others_stay(lightning):
    model = lightning.model()
    state = _prefilled(lightning, model, 5)
    before = _bits(state)
    model.decode(torch.tensor([1, 2]), state)
    for old, new in zip(before[:3], (state.linear, state.keys, state.values), strict=True):
        assert torch.equal(new[:, 2:, ..., : old.shape[3], :], old[:, 2:])
    assert (state.lengths - before[3]).tolist() == [1, 1, 0, 0, 0]
    assert not torch.equal(state.linear[:, :2], before[0][:, :2])


def test_a_prompt_written_to_many_rows_decodes_as_if_each_had_read_it(lightning):
    model = lightning.model()
    prompt = _prefilled(lightning, model, 1)
    state = _prefilled(lightning, model, 20, seed=3)
    for _ in range(70):
        model.decode(torch.arange(20), state)
    rows = torch.tensor([4, 0, 19])
    state.write(rows, prompt, torch.zeros(3, dtype=torch.long))
    tokens = torch.arange(20)
    reused = model.decode(tokens, state)
    fresh = DecodeState.empty(model.config, 20)
    fresh.write(torch.arange(20), prompt, torch.zeros(20, dtype=torch.long))
    assert torch.equal(reused[rows], model.decode(tokens, fresh)[rows])


def test_a_reset_row_has_seen_nothing(lightning):
    model = lightning.model()
    state = _prefilled(lightning, model, 16)
    state.reset(torch.tensor([3]))
    fresh = DecodeState.empty(model.config, 16)
    tokens = torch.arange(16)
    assert torch.equal(model.decode(tokens, state)[3], model.decode(tokens, fresh)[3])


def test_buffers_grow_when_a_row_outgrows_them(lightning):
    model = lightning.model()
    state = DecodeState.empty(model.config, 2, capacity=64)
    ids = torch.randint(0, 96, (200,), generator=torch.Generator().manual_seed(0))
    for token in ids:
        hidden = model.decode(token.repeat(2), state)
    assert state.capacity >= 200
    assert state.capacity % 64 == 0
    with torch.no_grad():
        expected, _ = model.hidden(ids, torch.tensor([0, 200]))
    torch.testing.assert_close(hidden[1], expected[-1], rtol=0, atol=1e-5)


def test_lightning_layers_cost_constant_memory_and_softmax_layers_linear(lightning):
    config = lightning.config()
    # lightning: 3 layers x 4 heads x 16 x 16; softmax: 1 layer x 2 heads x 16 x 2 a token; length
    short, long = (DecodeState.empty(config, 2, capacity=c) for c in (64, 640))
    assert short.nbytes == 2 * (3 * 4 * 16 * 16 * 4 + 2 * 16 * 2 * 4 * 64 + 8)
    assert long.nbytes - short.nbytes == 2 * 2 * 16 * 2 * 4 * 576


def test_decoding_states_do_not_drift_from_float64_over_many_steps(lightning):
    layer = LightningAttention(lightning.config(), 2)
    torch.nn.init.zeros_(layer.qkv_proj.weight)  # nothing is written, so the state only decays
    state = torch.ones(1, 4, 16, 16)
    with torch.no_grad():
        for _ in range(10_000):
            layer.step(torch.ones(1, 48), state)
    slope = torch.tensor([2 ** (-2 * (h + 1)) * (1 / 3 + 1e-5) for h in range(4)]).double()
    expected = torch.exp(-slope[3] * 10_000)
    # the decay rounded to float32 and multiplied 10,000 times would be off by up to 3e-4
    assert (state[0, 3].double() / expected - 1).abs().max() < 2e-5
