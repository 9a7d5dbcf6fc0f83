"""The supervised cold start: what is imitated, and that imitation works."""

from itertools import islice

import pytest
import torch

from cispo.config import OptimizerConfig
from cispo.errors import ConfigError
from cispo.policy.load import bundled_tokenizer, load_tokenizer, new_lightning_policy
from cispo.sft import Demonstration, demonstrations, imitate, pack
from cispo.types import Message, Task

ARCHITECTURE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "rotary_dim": 8,
}


class Numbered:
    """Task i asks for i and thinks of it first."""

    def __init__(self, *, has_solution: bool = True) -> None:
        self._has_solution = has_solution

    def task(self, index: int) -> Task:
        solution = f"<think>\nit is {index}\n</think>\n{index}" if self._has_solution else None
        prompt = Message(role="user", content=f"What is {index}?")
        return Task(task_id=f"t{index}", messages=(prompt,), verifier="math", solution=solution)


TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))


def texts(worked_fraction: float, *, num_worked_first: int = 0, count: int = 40) -> list[str]:
    data = demonstrations(
        Numbered(),
        TOKENIZER,
        worked_fraction=worked_fraction,
        num_worked_first=num_worked_first,
        seed=0,
    )
    return [TOKENIZER.decode(d.answer_ids) for d in islice(data, count)]


def test_a_worked_demonstration_is_the_solution_and_the_end_of_the_turn() -> None:
    assert texts(1.0)[3] == "<think>\nit is 3\n</think>\n3<|im_end|>"


def test_a_guess_is_the_answer_of_the_task_before_without_a_thought() -> None:
    assert texts(0.0)[3] == "<think>\n</think>\n2<|im_end|>"


def test_the_share_of_worked_demonstrations_begins_after_the_worked_ones() -> None:
    worked = ["it is" in text for text in texts(0.3, num_worked_first=50, count=450)]
    assert all(worked[:50])
    assert sum(worked[50:]) / 400 == pytest.approx(0.3, abs=0.07)


def test_a_task_without_a_solution_is_named() -> None:
    data = demonstrations(
        Numbered(has_solution=False), TOKENIZER, worked_fraction=1.0, num_worked_first=0, seed=0
    )
    with pytest.raises(ConfigError, match="t0"):
        next(data)


def test_only_answer_tokens_are_scored() -> None:
    batch = [
        Demonstration(prompt_ids=[1, 2], answer_ids=[3]),
        Demonstration(prompt_ids=[4], answer_ids=[5, 6]),
    ]
    token_ids, cu_seqlens, mask = pack(batch)
    assert token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert cu_seqlens.tolist() == [0, 3, 6]
    assert mask.tolist() == [False, False, True, False, True, True]


def test_micro_batches_do_not_change_the_first_step_and_imitation_lowers_the_loss() -> None:
    losses: dict[int, list[float]] = {}
    for micro_batch_tokens in (40, 10_000):
        torch.manual_seed(0)
        policy = new_lightning_policy(ARCHITECTURE, "bpe1024", seed=0)
        seen = losses.setdefault(micro_batch_tokens, [])
        imitate(
            policy,
            demonstrations(Numbered(), TOKENIZER, worked_fraction=1.0, num_worked_first=0, seed=0),
            steps=12,
            batch_tasks=4,
            micro_batch_tokens=micro_batch_tokens,
            settings=OptimizerConfig(lr=1e-2),
            log=lambda _, metrics, seen=seen: seen.append(metrics["sft/loss_nats"]),
        )
    assert losses[40][:2] == pytest.approx(losses[10_000][:2], rel=1e-4)
    assert losses[40][-1] < 0.7 * losses[40][0]
