"""DeepSpeed in bfloat16 and with offloading, with one rank in this process."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cispo.config import Offload
from cispo.policy.lightning.moe import Router
from tests.learner.curves import OPTIMIZER, VOCABULARY, exported, small_model
from tests.learner.one_rank import one_rank
from tests.learner.tables import make_rule, random_samples

pytestmark = pytest.mark.slow

GATE = "block_sparse_moe.gate.weight"


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> Iterator[None]:
    with one_rank():
        yield


def bfloat16_model() -> torch.nn.Module:
    """As it is loaded: routers stay float32."""
    model = small_model().bfloat16()
    for module in model.modules():
        if isinstance(module, Router):
            module.float()
            with torch.no_grad():
                module.weight.add_(1e-4)  # off the grid of bfloat16
    return model


def start(model: torch.nn.Module, *, stage: int, **options: Any) -> Any:
    from cispo.learner.deepspeed import DeepSpeedLearner

    rule = make_rule(micro_batch_tokens=40)
    return DeepSpeedLearner(model, rule, zero_stage=stage, **{**OPTIMIZER, **options})  # type: ignore[arg-type]


def steps(learner: Any, count: int = 3) -> list[dict[str, float]]:
    batches = [random_samples(6, seed=seed, vocabulary=VOCABULARY) for seed in range(count)]
    return [dict(learner.step(samples)) for samples in batches]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_routers_sums_of_gradients_and_the_heads_products_stay_float32(stage: int) -> None:
    model = bfloat16_model()
    given = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith(GATE)}
    learner = start(model, stage=stage, lr=1e-4)
    assert learner._engine.get_data_types() == (torch.bfloat16, torch.float32)
    before = exported(learner)
    routers = [module for module in model.modules() if isinstance(module, Router)]
    heads: list[torch.dtype] = []
    model.lm_head.register_forward_hook(  # type: ignore[union-attr]
        lambda _, __, scores: heads.append(scores[0].dtype)
    )
    steps(learner)
    after = exported(learner)
    assert set(heads) == {torch.float32}
    assert given
    for (name, weight), router in zip(given.items(), routers, strict=True):
        assert torch.equal(before[name], weight)  # nothing was rounded on the way in
        assert after[name].dtype == torch.float32
        assert not torch.equal(after[name], after[name].bfloat16().float())
        # what is exported is what the forward pass computes with
        x = torch.randn(5, weight.shape[1])
        assert router.exact is not None
        assert torch.equal(router.exact, after[name])
        with torch.no_grad():
            assert torch.equal(router(x), torch.nn.functional.linear(x, after[name]))
        # steps of 1e-4 are below bfloat16's grid of the largest weights, and are taken all the same
        moved = (after[name] - weight).abs()
        assert 1e-5 < moved.max() < 1e-3
    assert after["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("stage", "offload"),
    [
        (1, Offload.OPTIMIZER),
        (2, Offload.OPTIMIZER),
        (3, Offload.OPTIMIZER),
        (3, Offload.OPTIMIZER_AND_WEIGHTS),
    ],
)
def test_what_is_offloaded_learns_the_same_to_the_last_bit(
    stage: int, offload: Offload, dtype: torch.dtype
) -> None:
    kept = start(small_model().to(dtype), stage=stage)
    offloaded = start(small_model().to(dtype), stage=stage, offload=offload)
    if (stage, dtype) == (1, torch.bfloat16):  # where DeepSpeed has another optimizer for it
        for found, expected in zip(steps(offloaded), steps(kept), strict=True):
            assert found == pytest.approx(expected, rel=2e-2, abs=1e-3)
        return
    for found, expected in zip(steps(offloaded), steps(kept), strict=True):
        for name in ("learn/grad_norm", "learn/grad_norm/max"):  # summed in another order
            assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-6)
        assert found == expected
    weights = exported(kept)
    assert all(torch.equal(weight, weights[name]) for name, weight in exported(offloaded).items())
