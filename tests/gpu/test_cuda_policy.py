"""The policy on a GPU gives what it gives on a CPU; skipped where there is none."""

import pytest
import torch

from cispo.policy.load import new_lightning_policy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ARCHITECTURE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
    "rotary_dim": 16,
}


def test_log_probabilities_agree_with_the_cpu() -> None:
    policy = new_lightning_policy(ARCHITECTURE, "bpe1024", seed=0)
    token_ids = torch.randint(8, 1024, (300,), generator=torch.Generator().manual_seed(1))
    cu_seqlens = torch.tensor([0, 120, 300], dtype=torch.int32)
    mask = torch.ones(300, dtype=torch.bool)
    mask[[0, 120]] = False
    with torch.no_grad():
        expected = policy(token_ids, cu_seqlens, mask).logprobs
        found = policy.cuda()(token_ids.cuda(), cu_seqlens.cuda(), mask.cuda()).logprobs.cpu()
    assert float((found - expected).abs().max()) <= 1e-4
