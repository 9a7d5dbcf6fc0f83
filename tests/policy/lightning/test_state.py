import pickle

import pytest
import torch

from cispo.policy.lightning.linear import LightningAttention
from cispo.policy.lightning.pages import gather
from cispo.policy.lightning.recurrent_attention import LightningRows
from cispo.policy.lightning.state import DecodeState
from cispo.policy.lightning.stepper import TorchStepper


def _prefilled(lightning, model, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 90, (count,), generator=generator).tolist()
    prompts = [torch.randint(0, 96, (n,), generator=generator) for n in lengths]
    return model.prefill(*lightning.pack(prompts))[1]


def _keys_and_values(state, row):
    """Keys and values [L_full, 2, KVH, length, D] of what a row has seen."""
    read = [torch.stack(gather(layer, state.page_table[row : row + 1])) for layer in state.pages]
    return torch.stack(read)[:, :, 0, :, : int(state.lengths[row])]


def _bits(state):
    rows = [_keys_and_values(state, row) for row in range(state.num_rows)]
    return state.linear.clone(), rows, state.lengths.clone()


@pytest.mark.parametrize("experts", [1, 3])
def test_a_row_decodes_to_the_same_bits_in_any_company(lightning, experts):
    model = lightning.model(num_local_experts=experts, num_experts_per_tok=min(2, experts))
    decode = TorchStepper(model).step
    source = _prefilled(lightning, model, 40)
    tokens = torch.randint(0, 96, (30, 40), generator=torch.Generator().manual_seed(1))

    def run(rows):
        state = source.take(rows)
        hidden = [decode(step[rows], state) for step in tokens]
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
        assert torch.equal(_keys_and_values(own, 0), _keys_and_values(state, row))
        assert own.lengths[0] == len(prompt)


def test_only_the_first_rows_are_decoded_and_the_others_stay(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    state = _prefilled(lightning, model, 5)
    linear, rows, lengths = _bits(state)
    decode(torch.tensor([1, 2]), state)
    after = _bits(state)
    assert torch.equal(after[0][:, 2:], linear[:, 2:])
    assert all(torch.equal(a, b) for a, b in zip(after[1][2:], rows[2:], strict=True))
    assert all(torch.equal(a[..., :-1, :], b) for a, b in zip(after[1][:2], rows[:2], strict=True))
    assert (after[2] - lengths).tolist() == [1, 1, 0, 0, 0]
    assert not torch.equal(after[0][:, :2], linear[:, :2])


def test_a_prompt_written_to_many_rows_decodes_as_if_each_had_read_it(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    prompt = _prefilled(lightning, model, 1)
    state = _prefilled(lightning, model, 20, seed=3)
    for _ in range(70):
        decode(torch.arange(20), state)
    rows = torch.tensor([4, 0, 19])
    state.write(rows, prompt, torch.zeros(3, dtype=torch.long))
    tokens = torch.arange(20)
    reused = decode(tokens, state)
    fresh = DecodeState.empty(model.config, 20)
    fresh.write(torch.arange(20), prompt, torch.zeros(20, dtype=torch.long))
    assert torch.equal(reused[rows], decode(tokens, fresh)[rows])


def test_a_reset_row_has_seen_nothing(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    state = _prefilled(lightning, model, 16)
    state.reset(torch.tensor([3]))
    fresh = DecodeState.empty(model.config, 16)
    tokens = torch.arange(16)
    assert torch.equal(decode(tokens, state)[3], decode(tokens, fresh)[3])


def test_pages_are_added_when_a_row_outgrows_them(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    state = DecodeState.empty(model.config, 2)
    ids = torch.randint(0, 96, (200,), generator=torch.Generator().manual_seed(0))
    for token in ids:
        hidden = decode(token.repeat(2), state)
    assert (state.page_table != 0).sum(1).tolist() == [4, 4]  # 200 tokens in pages of 64
    with torch.no_grad():
        expected, _ = model.hidden(ids, torch.tensor([0, 200]))
    torch.testing.assert_close(hidden[1], expected[-1], rtol=0, atol=1e-5)


def test_lightning_layers_cost_constant_memory_and_softmax_layers_linear(lightning):
    model = lightning.model()
    ids = torch.arange(640) % 96
    # lightning: 3 layers x 4 heads x 16 x 16; softmax: 1 layer x 2 heads x 16 x 2 a token; length
    short, long = (model.prefill(ids[:n], torch.tensor([0, n]))[1] for n in (64, 640))
    constant = 3 * 4 * 16 * 16 * 4 + 8
    assert short.nbytes == constant + 4 + 2 * 16 * 2 * 4 * 64
    assert long.nbytes - short.nbytes == 9 * (4 + 2 * 16 * 2 * 4 * 64)


def test_members_of_a_group_share_full_pages_and_own_the_last_one(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    ids = torch.randint(0, 96, (150,), generator=torch.Generator().manual_seed(0))
    _, prompt = model.prefill(ids, torch.tensor([0, 150]))
    state = DecodeState.empty(model.config, 16, allocator=prompt.allocator)
    state.write(torch.arange(16), prompt, torch.zeros(16, dtype=torch.long))
    table = state.page_table
    assert (table[:, :2] == prompt.page_table[0, :2]).all()
    assert len(table[:, 2].unique()) == 16
    assert prompt.allocator.num_used == 3 + 16
    before = _bits(prompt)
    hidden = decode(torch.arange(16), state)
    longer = torch.cat((ids, torch.tensor([9])))
    with torch.no_grad():
        expected, _ = model.hidden(longer, torch.tensor([0, 151]))
    torch.testing.assert_close(hidden[9], expected[-1], rtol=0, atol=1e-5)
    assert torch.equal(_bits(prompt)[1][0], before[1][0])


def test_pages_return_when_their_last_owner_ends(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    _, prompt = model.prefill(torch.arange(96).repeat(2), torch.tensor([0, 192]))
    allocator = prompt.allocator
    state = DecodeState.empty(model.config, 4, allocator=allocator)
    state.write(torch.arange(4), prompt, torch.zeros(4, dtype=torch.long))
    assert allocator.num_used == 3  # three full pages and nothing else
    prompt.reset(torch.tensor([0]))
    state.reset(torch.tensor([0, 2]))
    assert allocator.num_used == 3
    decode(torch.arange(4), state)
    assert allocator.num_used == 3 + 4
    state.reset(torch.arange(4))
    assert allocator.num_used == 0
    size = len(allocator.pages[0])
    for _ in range(5):
        _, again = model.prefill(
            torch.arange(96).repeat(2),
            torch.tensor([0, 192]),
            DecodeState.empty(model.config, 1, allocator=allocator),
        )
        again.reset(torch.tensor([0]))
    assert len(allocator.pages[0]) == size


def test_a_snapshot_stays_as_it_was_while_its_row_goes_on(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    state = _prefilled(lightning, model, 3)
    snapshot = state.share(torch.tensor([1]))
    before = _bits(snapshot)
    tokens = torch.randint(0, 96, (80, 3), generator=torch.Generator().manual_seed(1))
    hidden = [decode(step, state)[1] for step in tokens]
    after = _bits(snapshot)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1][0], before[1][0])
    state.write(torch.tensor([0, 1, 2]), snapshot, torch.tensor([0, 0, 0]))
    again = [decode(step[1].repeat(3), state)[1] for step in tokens]
    assert torch.equal(torch.stack(again), torch.stack(hidden))


def test_a_row_that_moves_goes_on_with_the_same_bits(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    state, other = (_prefilled(lightning, model, 20) for _ in range(2))
    used = state.allocator.num_used
    gone = int((state.page_table[2] != 0).sum())
    state.move(torch.tensor([2]), torch.tensor([19]))
    assert state.allocator.num_used == used - gone
    tokens = torch.arange(19)
    tokens[2] = 19
    assert torch.equal(decode(tokens, state)[2], decode(torch.arange(20), other)[19])


def test_rows_taken_out_decode_alike_also_in_another_process(lightning):
    model = lightning.model()
    decode = TorchStepper(model).step
    state = _prefilled(lightning, model, 20)
    rows = torch.arange(19, 1, -1)
    taken = pickle.loads(pickle.dumps(state.take(rows)))
    assert taken.allocator.num_used == taken.num_pages
    tokens = torch.arange(20)
    decoded = decode(tokens, state)
    assert torch.equal(decode(tokens[rows], taken), decoded[rows])


def test_decoding_states_do_not_drift_from_float64_over_many_steps(lightning):
    attention = LightningAttention(lightning.config(), 2)
    torch.nn.init.zeros_(attention.qkv_proj.weight)  # nothing is written, so the state only decays
    state = torch.ones(1, 4, 16, 16)
    with torch.no_grad():
        layer = LightningRows(attention)
        for _ in range(10_000):
            layer(torch.ones(2, 48), state)
    slope = torch.tensor([2 ** (-2 * (h + 1)) * (1 / 3 + 1e-5) for h in range(4)]).double()
    expected = torch.exp(-slope[3] * 10_000)
    # the decay rounded to float32 and multiplied 10,000 times would be off by up to 3e-4
    assert (state[0, 3].double() / expected - 1).abs().max() < 2e-5
