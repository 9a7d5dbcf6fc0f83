"""65,536 tokens of one sequence: every form of the model still is the same model."""

from itertools import pairwise

import pytest
import torch

from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.state import DecodeState
from cispo.policy.lightning.stepper import make_stepper
from tests.policy.models import make_model, random_ids

TOKENS = 65536
DECODED = 384
PIECE = 8192


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return random_ids(TOKENS)


def tiny(*kinds: str, heads: int) -> LightningModel:
    return make_model(
        layer_types=kinds,
        num_hidden_layers=len(kinds),
        num_attention_heads=heads,
        num_key_value_heads=1,
        hidden_size=32,
        intermediate_size=32,
        num_local_experts=1,
        num_experts_per_tok=1,
        block_size=64,
    )


@pytest.mark.slow
def test_pieces_and_decoding_are_the_training_form_over_64k_tokens(ids: torch.Tensor) -> None:
    model = tiny(LINEAR, FULL, LINEAR, heads=1)
    with torch.no_grad():
        expected, _ = model.hidden(ids, torch.tensor([0, TOKENS], dtype=torch.int32))
    state = DecodeState.empty(model.config, 1)
    cuts = [*range(0, TOKENS - DECODED, PIECE), TOKENS - DECODED]
    for start, stop in pairwise(cuts):
        last, state = model.prefill(ids[start:stop], torch.tensor([0, stop - start]), state)
        torch.testing.assert_close(last[0], expected[stop - 1], rtol=0, atol=1e-4)
    stepper = make_stepper(model)
    rows = DecodeState.empty(model.config, 1)
    rows.write(torch.tensor([0]), state, torch.tensor([0]))
    tokens = torch.zeros(rows.num_rows, dtype=torch.long)
    for place in range(TOKENS - DECODED, TOKENS):
        rows.lengths[1:] = 0
        rows.reserve(rows.num_rows)
        tokens[0] = ids[place]
        hidden = stepper.step(tokens, rows)
        torch.testing.assert_close(hidden[0], expected[place], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_state_that_saw_64k_tokens_one_by_one_has_not_drifted(ids: torch.Tensor) -> None:
    # the last layer is left out: its decays, 1e-5 of the first one's, are below float32's precision
    model = tiny(LINEAR, LINEAR, LINEAR, heads=4)
    _, expected = model.prefill(ids, torch.tensor([0, TOKENS]))
    stepper = make_stepper(model)
    if stepper.kernels != "native":
        pytest.skip("takes minutes without the native kernels")
    state = DecodeState.empty(model.config, 1)
    for token in ids.split(1):
        stepper.step(token, state)
    assert state.lengths[0] == TOKENS
    for layer in range(2):
        found, wanted = state.linear[layer, 0], expected.linear[layer, 0]
        errors = (found - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))
        assert errors.max() < 3e-6
