"""The supervised cold start: imitate worked solutions before reinforcement, as M1's SFT does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cispo.config import OptimizerConfig
from cispo.data.answer_format import without_thought
from cispo.errors import ConfigError, DivergedError
from cispo.learner.optim import adamw, set_learning_rate
from cispo.policy.base import Policy
from cispo.policy.chat import render_prompt
from cispo.ports import TaskSource
from cispo.seeding import stream_seed
from cispo.types import Metrics, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt and the answer to imitate, in tokens; the answer ends with the end-of-turn token."""

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]


def demonstrations(
    tasks: TaskSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    worked_fraction: float,
    num_worked_first: int,
    seed: int,
) -> Iterator[Demonstration]:
    """Yield the solutions of a task sequence in tokens, for ever.

    Args:
        tasks: The sequence; every task has a solution.
        tokenizer: The policy's.
        worked_fraction: Share of demonstrations that work the task out. The others guess: they
            give the answer of an earlier task of the same source at once, without a thought.
        num_worked_first: Demonstrations at the beginning that all work the task out.
        seed: Decides which.

    Raises:
        ConfigError: A task has no solution.
    """
    works = Random(stream_seed(seed, "worked"))
    earlier: dict[str, str] = {}
    for index in count():
        task = tasks.task(index)
        worked = _solution(task)
        guess = without_thought(earlier.get(task.source, worked))
        earlier[task.source] = worked
        is_worked = works.random() < worked_fraction or index < num_worked_first
        text = worked if is_worked else guess
        yield Demonstration(
            prompt_ids=render_prompt(tokenizer, task.messages),
            answer_ids=[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id],
        )


def imitate(
    policy: Policy,
    data: Iterator[Demonstration],
    *,
    steps: int,
    batch_tasks: int,
    micro_batch_tokens: int,
    settings: OptimizerConfig,
    log: Callable[[int, Metrics], None],
) -> None:
    """Minimise the mean negative log-probability of the answers' tokens, in place.

    Args:
        policy: The model.
        data: Demonstrations without end.
        steps: Optimizer steps; the learning rate falls linearly to a tenth after its warm-up.
        batch_tasks: Demonstrations a step.
        micro_batch_tokens: Tokens of one forward and backward pass.
        settings: AdamW.
        log: Called with the step and its `sft/loss_nats`, `sft/grad_norm`, `sft/tokens`.

    Raises:
        DivergedError: The loss is not finite.
    """
    optimizer = adamw(
        policy.parameters(),
        lr=settings.lr,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    for step in range(steps):
        batch = [next(data) for _ in range(batch_tasks)]
        set_learning_rate(optimizer, settings.lr * _schedule(step, steps, settings.warmup_steps))
        num_tokens = sum(len(d.answer_ids) for d in batch)
        loss = 0.0
        for micro_batch in _micro_batches(batch, micro_batch_tokens):
            token_ids, cu_seqlens, action_mask = pack(micro_batch)
            scores = policy(token_ids, cu_seqlens, action_mask)
            nats = -scores.logprobs.sum() / num_tokens
            (nats + policy.aux_loss_coef * scores.aux_loss).backward()
            loss += float(nats.detach())
        if not torch.isfinite(torch.tensor(loss)):
            raise DivergedError(f"sft step {step + 1}: the loss is {loss}; lower optimizer.lr")
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        metrics = {"sft/loss_nats": loss, "sft/grad_norm": float(grad_norm)}
        log(step + 1, {**metrics, "sft/tokens": float(num_tokens)})


def pack(batch: Sequence[Demonstration]) -> tuple[Tensor, Tensor, Tensor]:
    """Lay demonstrations end to end.

    Returns:
        token_ids [T] int64, cu_seqlens [S+1] int32 and the mask [T] of answer tokens.
    """
    ids = [[*d.prompt_ids, *d.answer_ids] for d in batch]
    mask = [[False] * len(d.prompt_ids) + [True] * len(d.answer_ids) for d in batch]
    ends = torch.tensor([0, *(len(row) for row in ids)]).cumsum(0).to(torch.int32)
    return torch.tensor([*chain(*ids)]), ends, torch.tensor([*chain(*mask)])


def _micro_batches(
    batch: Sequence[Demonstration], max_tokens: int
) -> Iterator[list[Demonstration]]:
    """Cut a batch, shortest first so that little is padded, into runs below a token budget."""
    run: list[Demonstration] = []
    used = 0
    for item in sorted(batch, key=lambda d: len(d.prompt_ids) + len(d.answer_ids)):
        length = len(item.prompt_ids) + len(item.answer_ids)
        if run and used + length > max_tokens:
            yield run
            run, used = [], 0
        run.append(item)
        used += length
    yield run


def _schedule(step: int, steps: int, warmup_steps: int) -> float:
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    return warm * (1.0 - 0.9 * step / steps)


def _solution(task: Task) -> str:
    if task.solution is None:
        raise ConfigError(f"task {task.task_id} of {task.source} has no worked solution to imitate")
    return task.solution
