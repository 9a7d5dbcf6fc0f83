"""Tokens a second of the rollout engine beside transformers' `generate`, and beside the limits.

    python -m benchmarks.generation                                # writes results/generation.json
    python -m benchmarks.generation --quick                        # a few steps, writes nothing
    python -m benchmarks.generation --vllm-python /path/to/python  # vLLM-CPU as well

Models have random float32 weights. All contestants of a row run in turns in this process, with the
same number of threads and of steps. Sampling is included, on our side with log-probabilities too.
Rates of equal lengths begin at the first token, because the few steps that there is time for would
not outweigh the prompts of 8 tokens, which are stated beside them; ragged ones include all.
"""

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.context_cost import context_costs
from benchmarks.generators import EXPERTS, SMALL, Engine, Shape, Transformers, lightning_model
from benchmarks.machine import describe
from benchmarks.step_limits import step_limits
from benchmarks.vllm_peer import vllm_rates

RESULT = Path(__file__).parent / "results" / "generation.json"
ROWS = (1, 16, 64, 256)
STEPS = {"small": (128, 64, 32, 24), "experts": (24, 16, 8, 6)}
ROUNDS = {"small": 3, "experts": 2}
TARGETS = {"small": (8.0, 5.0, 3.0, 3.0), "experts": (3.0, 3.0, 3.0, 3.0)}
RAGGED_REQUESTS, RAGGED_ROWS, LONGEST = 256, 64, 192

Generator = Engine | Transformers


def contestants(shape: Shape, *, rows: int) -> dict[str, Generator]:
    model = lightning_model(shape)
    return {
        "native": Engine(model, "native", max_rows=rows),
        "torch": Engine(lightning_model(shape, kernels="torch"), "torch", max_rows=rows),
        "transformers": Transformers(shape, max_rows=rows),
    }


def compare(
    generators: dict[str, Generator], lengths: Sequence[int], *, rounds: int, with_prompts: bool
) -> dict[str, Any]:
    """Let generators take turns; medians of tokens a second, and of ratios within a turn."""
    for generator in generators.values():
        generator.generate([2] * min(len(lengths), 4))
    rates: list[dict[str, float]] = []
    prompts: list[dict[str, float]] = []
    for _ in range(rounds):
        turn = {name: generator.generate(lengths) for name, generator in generators.items()}
        prompts.append({name: seconds.prompts for name, seconds in turn.items()})
        if with_prompts:
            rates.append({name: sum(lengths) / sum(seconds) for name, seconds in turn.items()})
        else:
            tokens = sum(lengths) - len(lengths)
            rates.append({name: tokens / seconds.decoding for name, seconds in turn.items()})
    ratios = {
        f"{name}_over_transformers": statistics.median(r[name] / r["transformers"] for r in rates)
        for name in ("native", "torch")
    }
    return {"tokens_per_second": medians(rates), "prompt_seconds": medians(prompts), **ratios}


def medians(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def uniform(shape: Shape, *, quick: bool, rounds: int | None = None) -> list[dict[str, Any]]:
    """All rows start together and have one length."""
    results = []
    generators = contestants(shape, rows=max(ROWS))
    model = lightning_model(shape)
    for rows, steps, target in zip(ROWS, STEPS[shape.name], TARGETS[shape.name], strict=True):
        count = 3 if quick else steps
        turns = 1 if quick else rounds or ROUNDS[shape.name]
        result = compare(generators, [count] * rows, rounds=turns, with_prompts=False)
        seconds = rows / result["tokens_per_second"]["native"]
        result |= {"rows": rows, "steps": count, "target": target}
        result |= {"limits": step_limits(model.config, rows=rows, seconds=seconds)}
        results.append(result)
        show(f"{shape.name}, {rows} rows", result)
    return results


def ragged(*, quick: bool) -> dict[str, Any]:
    """Lengths with a long tail: a batch of `generate` waits for its longest row."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.exp(torch.randn(RAGGED_REQUESTS, generator=generator) * 0.9 + 3.2)
    lengths = drawn.clamp(1, LONGEST if not quick else 4).long().tolist()
    result = compare(contestants(SMALL, rows=RAGGED_ROWS), lengths, rounds=1, with_prompts=True)
    result |= {
        "requests": RAGGED_REQUESTS, "rows": RAGGED_ROWS, "longest": max(lengths),
        "mean": statistics.mean(lengths), "median": statistics.median(lengths),
    }  # fmt: skip
    show(f"small, {RAGGED_REQUESTS} ragged requests on {RAGGED_ROWS} rows", result)
    return result


def show(title: str, result: dict[str, Any]) -> None:
    rates = " ".join(f"{k} {v:8.1f}" for k, v in result["tokens_per_second"].items())
    ratio, plain = result["native_over_transformers"], result["torch_over_transformers"]
    target = f" (target {result['target']:.0f}x)" if "target" in result else ""
    limits = result.get("limits", {})
    share = f"; {limits['bound_fraction']:.0%} of the bound" if limits else ""
    print(f"{title:42} {rates} | native {ratio:5.2f}x{target}, torch {plain:5.2f}x{share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of everything; writes nothing"
    )
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM for CPUs")
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "machine": describe(),
        "one_thread": {s.name: uniform(s, quick=quick) for s in (SMALL, EXPERTS)},
        "ragged": ragged(quick=quick),
        "context": context_costs(SMALL, quick=quick),
        "vllm": vllm_rates(arguments.vllm_python, (SMALL, EXPERTS), rows=ROWS, steps=STEPS),
    }
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    print(f"{torch.get_num_threads()} threads on both sides:")
    results["two_threads"] = {"small": uniform(SMALL, quick=quick, rounds=1)}
    if not quick:
        RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
