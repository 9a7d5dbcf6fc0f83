"""The policies from which reinforcement begins: one a task, imitating its demonstrator."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch

from benchmarks.objectives.tasks import FAMILIES, SOLVED, VOCABULARY, Family
from cispo.config import OptimizerConfig
from cispo.policy.lightning.checkpoint import empty_model
from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.seeding import stream_seed
from cispo.sft import Demonstration, imitate
from cispo.types import Metrics

ARCHITECTURE = LightningConfig(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    layer_types=(LINEAR, FULL),
    rotary_dim=8,
    rope_theta=10_000.0,
    initializer_range=0.1,
)
_SEED = 0
_BATCH = 48
ARITHMETIC = OptimizerConfig(lr=4e-3, warmup_steps=20)
ARITHMETIC_STEPS = 300
MANNER = {
    "t15": (100, OptimizerConfig(lr=5e-4, warmup_steps=10)),
    "t04": (100, OptimizerConfig(lr=5e-4, warmup_steps=10)),
    "c4": (400, OptimizerConfig(lr=2e-3, warmup_steps=10)),
}
"""Steps and settings; the chain's last places need more of its own demonstrations."""


def new_model() -> LightningModel:
    """A model with random weights."""
    model = empty_model(ARCHITECTURE, dtype=torch.float32, logprob_chunk=4096)
    model.initialise(_SEED)
    return model


def cold_start(task: str, folder: Path) -> LightningModel:
    """Read the policy of a task, after making it where that was not done yet.

    It learns the arithmetic from demonstrators without fault, once for all tasks, and then the
    manner of the task's own: how often it goes the long way, or slips.
    """
    model = new_model()
    path = folder / f"{task}.pt"
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    folder.mkdir(parents=True, exist_ok=True)
    arithmetic = folder / "arithmetic.pt"
    if arithmetic.is_file():
        model.load_state_dict(torch.load(arithmetic, weights_only=True))
    else:
        _imitate(model, SOLVED, steps=ARITHMETIC_STEPS, settings=ARITHMETIC, name="arithmetic")
        torch.save(model.state_dict(), arithmetic)
    steps, settings = MANNER[task]
    _imitate(model, [FAMILIES[task]], steps=steps, settings=settings, name=task)
    torch.save(model.state_dict(), path)
    return model


def _imitate(
    model: LightningModel,
    families: Sequence[Family],
    *,
    steps: int,
    settings: OptimizerConfig,
    name: str,
) -> None:
    def log(step: int, metrics: Metrics) -> None:
        if step % 25 == 0:
            print(f"cold start {name}: step {step}, loss {metrics['sft/loss_nats']:.3f} nats")

    imitate(
        model,
        _demonstrations(families, name),
        steps=steps,
        batch_tasks=_BATCH,
        micro_batch_tokens=4096,
        settings=settings,
        log=log,
    )


def _demonstrations(families: Sequence[Family], name: str) -> Iterator[Demonstration]:
    draw = Random(stream_seed(_SEED, "demonstrations", name))
    while True:
        for family in families:
            problem = family.problem(draw)
            answer = family.demonstration(problem, draw)
            yield Demonstration(prompt_ids=problem.prompt, answer_ids=answer)
