"""What the engine adds to a step of the model, and what batching rows of all lengths brings.

    python -m benchmarks.engine_overhead                 # about one minute on one core
    python -m benchmarks.engine_overhead --steps 50      # shorter

A tiny hybrid decodes N sequences; a step's time outside of the model (sampling, stopping, pages,
records) is thread-CPU time, medians, with one thread and no sampling knobs, with top-p, and with a
stop text. Then a small Llama answers ragged requests with its rows padded into one batch, and by
turns, as the engine did before. Writes results/engine_overhead.json.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.machine import describe
from cispo.policy.hf import TransformersPolicy
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from rollout.backends.base import Backend, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.backends.transformers import TransformersBackend
from rollout.token_text import TokenText

RESULT = Path(__file__).parent / "results" / "engine_overhead.json"
SEQUENCES = (1, 16, 64, 256)
KNOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "top-p 0.95": {"top_p": 0.95},
    "stop text": {"stop": ("</answer>",)},
}
WARM_UP = 20


class Clock:
    """CPU time of this thread inside of some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and counts its time."""

        def timed(*args: Any) -> Any:
            start = time.thread_time()
            result = function(*args)
            self.seconds += time.thread_time() - start
            return result

        return timed


def tiny_engine(num_sequences: int) -> LightningBackend:
    config = LightningConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        layer_types=("linear_attention", "full_attention"),
        rotary_dim=8,
    )
    model = LightningModel(config)
    model.initialise(0)
    text = TokenText(load_tokenizer(str(bundled_tokenizer("bpe1024"))))
    rules = StopRules(token_ids=frozenset(), repetition_tokens=3000, text=text)
    return LightningBackend(model, rules, max_sequences=num_sequences)


def request(index: int, *, prompt: int, members: int, tokens: int, **knobs: Any) -> Request:
    return Request(
        request_id=index,
        task_id=str(index),
        prompt=tuple(3 + (7 * index + i) % 80 for i in range(prompt)),
        seeds=tuple(range(members)),
        sampling=SamplingParams(max_new_tokens=tokens, **knobs),
    )


def overheads(num_sequences: int, knobs: dict[str, Any], steps: int) -> tuple[float, float]:
    """Milliseconds of a step outside of the model, and inside of it."""
    engine = tiny_engine(num_sequences)
    clock = Clock()
    stepper = engine._stepper
    stepper.step = clock.around(stepper.step)  # type: ignore[method-assign]
    stepper.logits = clock.around(stepper.logits)  # type: ignore[method-assign]
    tokens = WARM_UP + steps + 1
    engine.start(request(0, prompt=20, members=num_sequences, tokens=tokens, **knobs))
    for _ in range(WARM_UP):
        engine.step()
    outside, inside = [], []
    for _ in range(steps):
        clock.seconds, start = 0.0, time.thread_time()
        engine.step()
        outside.append(time.thread_time() - start - clock.seconds)
        inside.append(clock.seconds)
    return 1e3 * statistics.median(outside), 1e3 * statistics.median(inside)


def ragged_seconds(*, pads: bool, num_requests: int, tokens: int) -> float:
    """CPU time in which a small Llama answers requests of different lengths."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    policy = TransformersPolicy(AutoModelForCausalLM.from_config(config), logprob_chunk=64)
    rules = StopRules(token_ids=frozenset())
    engine: Backend = TransformersBackend(policy, rules, max_sequences=num_requests, pads=pads)
    for index in range(num_requests):
        engine.start(request(index, prompt=20 + 5 * index, members=1, tokens=tokens))
    engine.step()  # prompts
    start = time.thread_time()
    while engine.num_active:
        engine.step()
    return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    table = {}
    print(f"{'sequences':>9}  {'sampling':<11} {'engine ms':>9} {'model ms':>9}")
    for num_sequences in SEQUENCES:
        for name, knobs in KNOBS.items():
            outside, inside = overheads(num_sequences, knobs, steps)
            table[f"{num_sequences} {name}"] = {"engine_ms": outside, "tiny_model_ms": inside}
            print(f"{num_sequences:>9}  {name:<11} {outside:>9.3f} {inside:>9.3f}")
    tokens = max(10, steps // 5)
    turns, padded = (ragged_seconds(pads=p, num_requests=32, tokens=tokens) for p in (False, True))
    rates = [32 * tokens / seconds for seconds in (turns, padded)]
    print(f"32 ragged requests to a Llama: {rates[0]:.0f} tokens/s by turns, {rates[1]:.0f} padded")
    result = {
        "machine": describe(),
        "engine_overhead": table,
        "ragged_llama": {
            "tokens_per_second_by_turns": rates[0],
            "tokens_per_second_padded": rates[1],
            "ratio": rates[1] / rates[0],
        },
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
