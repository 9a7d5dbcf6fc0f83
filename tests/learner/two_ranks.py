"""Two ranks over gloo, started once: `python -m tests.learner.two_ranks RANK PORT FILE`.

Each rank builds learners of all ZeRO stages one after another, and rank 0 stores what came out.
"""

import sys
from itertools import product
from typing import Any

import torch
from torch import Tensor

from cispo.errors import DivergedError
from cispo.learner.rule import UpdateRule
from cispo.policy.lightning.model import LightningModel
from cispo.types import Sample
from tests.learner.curves import OPTIMIZER, PACKINGS, VOCABULARY, exported, small_model, train
from tests.learner.tables import make_rule, random_samples, with_behaviour

STAGES = (0, 1, 2, 3)
FAULTS = ("nan", "inf", "overflow")


def main(rank: int, port: int, file: str) -> None:
    torch.set_num_threads(1)
    from cispo.learner.engine import join_process_group

    join_process_group(rank=rank, num_ranks=2, host="127.0.0.1", port=port)
    results = {
        "curves": {
            (stage, packing): train(lambda p, r, s=stage: learner(p, r, s), budget=budget)  # type: ignore[misc]
            for stage, (packing, budget) in product(STAGES, PACKINGS.items())
        },
        "faults": {
            (stage, dtype): refused(stage, getattr(torch, dtype))
            for stage, dtype in product(STAGES, ("float32", "bfloat16"))
            if (stage, dtype) != (0, "bfloat16")
        },
        "scores": {stage: scores(stage) for stage in STAGES},
    }
    if rank == 0:
        torch.save(results, file)
    torch.distributed.destroy_process_group()


def learner(policy: LightningModel, rule: UpdateRule, stage: int) -> Any:
    from cispo.learner.deepspeed import DeepSpeedLearner

    return DeepSpeedLearner(policy, rule, zero_stage=stage, **OPTIMIZER)


def scores(stage: int) -> list[Tensor]:
    """Log-probabilities of samples that ranks share, before and after a step."""
    samples = random_samples(7, vocabulary=VOCABULARY)
    scorer = learner(small_model(), make_rule(micro_batch_tokens=40), stage)
    found = []
    for _ in range(2):
        shares: list[dict[int, Any]] = [{}, {}]
        torch.distributed.all_gather_object(shares, scorer.logprobs(samples))
        assert not shares[0].keys() & shares[1].keys()
        together = shares[0] | shares[1]
        found.append(torch.cat([torch.tensor(together[i]) for i in range(len(samples))]))
        scorer.step(samples)
    return found


def refused(stage: int, dtype: torch.dtype) -> dict[str, Any]:
    """Take a step, be refused some whose fault only one rank can see, and take another step."""
    samples = random_samples(6, vocabulary=VOCABULARY)
    rule = make_rule(micro_batch_tokens=40)
    troubled, untroubled = (learner(small_model().to(dtype), rule, stage) for _ in range(2))
    for each in (troubled, untroubled):
        each.step(samples)
    before = state(troubled)
    messages, changed = [], []
    for fault in FAULTS:
        try:
            with_fault(troubled, samples, fault)
        except DivergedError as error:
            messages.append(str(error))
        changed += changes(before, state(troubled))
    steps = [dict(each.step(samples)) for each in (troubled, untroubled)]
    return {
        "messages": messages,
        "changed": changed,
        "next_norms": [step["learn/grad_norm"] for step in steps],
        "next_changes": changes(before, state(troubled)),
        "next_differences": changes(state(untroubled), state(troubled)),
    }


def changes(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Names of what differs on any rank."""
    found: list[list[str]] = [[], []]
    here = [name for name, old in before.items() if not torch.equal(old, after[name])]
    torch.distributed.all_gather_object(found, here)
    return sorted({*found[0], *found[1]})


def with_fault(troubled: Any, samples: list[Sample], fault: str) -> None:
    """Step with a number that is not finite on one rank only."""
    if fault != "overflow":
        troubled.step([*samples[:2], with_behaviour(samples[2], float(fault)), *samples[3:]])
        return
    if torch.distributed.get_rank() == 0:
        troubled.step(samples)
        return
    # a finite loss whose gradient is not: only the norm can tell
    norm = troubled._engine.module.model.norm
    hook = norm.register_forward_hook(lambda _, __, output: Spoilt.apply(output))
    try:
        troubled.step(samples)
    finally:
        hook.remove()


class Spoilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("inf")


def state(of: Any) -> dict[str, Tensor]:
    """Weights, float32 masters and all that the optimizer keeps, on this rank."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found = {f"weight {name}": tensor for name, tensor in exported(of).items()}
    for name, parameter in of._engine.module.named_parameters():
        if of._zero_stage == 0:
            moments = of._optimizer.state[parameter]
            found |= {f"{key} {name}": value.clone() for key, value in moments.items()}
        else:
            found[f"master {name}"] = safe_get_full_fp32_param(parameter)
            for key in ("exp_avg", "exp_avg_sq"):
                found[f"{key} {name}"] = safe_get_full_optimizer_state(parameter, key)
    for index, entry in enumerate(of._engine.basic_optimizer.state.values()):
        found[f"step {index}"] = torch.as_tensor(entry["step"]).clone()
    found["num_steps"] = torch.tensor(of._num_steps)
    return {name: tensor.clone() for name, tensor in found.items()}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
