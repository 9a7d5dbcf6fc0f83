"""Tokens a second of the rollout engine beside transformers' `generate`, and beside the limits.

    python -m benchmarks.generation                                # writes results/generation.json
    python -m benchmarks.generation --quick                        # a few steps, writes nothing
    python -m benchmarks.generation --vllm-python /path/to/python  # vLLM-CPU as well

Models have random float32 weights. All contestants of a row run in turns in this process, each on
one and on two threads. Two threads make transformers slower at few rows, so the ratio that counts
is that of both sides' best: each on the number of threads that suits it.

Sampling is included, on our side with log-probabilities too. Rates of equal lengths begin at the
first token, because the few steps that there is time for would not outweigh the prompts of 8
tokens, which are stated beside them; ragged ones include all.
"""

import argparse
import json
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import PEER, Generator, contest
from benchmarks.context_cost import context_costs
from benchmarks.generators import (
    EXPERTS,
    SMALL,
    Engine,
    Seconds,
    Shape,
    Transformers,
    lightning_model,
)
from benchmarks.machine import describe
from benchmarks.step_limits import step_limits
from benchmarks.vllm_peer import vllm_rates

RESULT = Path(__file__).parent / "results" / "generation.json"
THREADS = tuple(range(1, min(2, os.cpu_count() or 1) + 1))
ROWS = (1, 16, 64, 256)
STEPS = {"small": (192, 64, 24, 12), "experts": (48, 12, 6, 4)}
ROUNDS = 3
TARGETS = {"small": (8.0, 5.0, 3.0, 3.0), "experts": (3.0, 3.0, 3.0, 3.0)}
TORCH_TARGET = 1.5
RAGGED_REQUESTS, RAGGED_ROWS, LONGEST = 256, 64, 192


def contestants(shape: Shape, *, rows: int) -> dict[str, Generator]:
    model = lightning_model(shape)
    return {
        "native": Engine(model, "native", max_rows=rows),
        "torch": Engine(lightning_model(shape, kernels="torch"), "torch", max_rows=rows),
        PEER: Transformers(shape, max_rows=rows),
    }


def uniform(shape: Shape, *, quick: bool) -> list[dict[str, Any]]:
    """All rows start together and have one length."""
    results = []
    generators = contestants(shape, rows=max(ROWS))
    config = lightning_model(shape).config
    for rows, steps, target in zip(ROWS, STEPS[shape.name], TARGETS[shape.name], strict=True):
        count = 3 if quick else steps
        result = contest(
            generators,
            [count] * rows,
            threads=THREADS,
            rounds=1 if quick else ROUNDS,
            rate=partial(decoding_rate, rows * (count - 1)),
        )
        rates = result["tokens_per_second"]["native"]
        result |= {"rows": rows, "steps": count, "target": target, "torch_target": TORCH_TARGET}
        result["limits"] = {
            n: step_limits(config, rows=rows, seconds=rows / rates[n], threads=n) for n in THREADS
        }
        results.append(result)
        show(f"{shape.name}, {rows} rows", result)
    return results


def decoding_rate(tokens: int, seconds: Seconds) -> float:
    return tokens / seconds.decoding


def ragged(*, quick: bool) -> dict[str, Any]:
    """Lengths with a long tail: a batch of `generate` waits for its longest row."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.exp(torch.randn(RAGGED_REQUESTS, generator=generator) * 0.9 + 3.2)
    lengths = drawn.clamp(1, LONGEST if not quick else 4).long().tolist()
    result = contest(
        contestants(SMALL, rows=RAGGED_ROWS),
        lengths,
        threads=THREADS,
        rounds=1,
        rate=lambda seconds: sum(lengths) / sum(seconds),
    )
    result |= {
        "requests": RAGGED_REQUESTS, "rows": RAGGED_ROWS, "longest": max(lengths),
        "mean": statistics.mean(lengths), "median": statistics.median(lengths),
    }  # fmt: skip
    show(f"small, {RAGGED_REQUESTS} ragged requests on {RAGGED_ROWS} rows", result)
    return result


def show(title: str, result: dict[str, Any]) -> None:
    rates = "  ".join(
        f"{name} {'/'.join(f'{rate:.0f}' for rate in by_threads.values())}"
        for name, by_threads in result["tokens_per_second"].items()
    )
    native, plain = (result[f"over_{PEER}"][name] for name in ("native", "torch"))
    equal = "/".join(f"{native[n]:.1f}" for n in native if n != "best")
    target = f" (target {result['target']:.0f}x)" if "target" in result else ""
    share = ""
    if "limits" in result:
        limits = result["limits"][result["best_threads"]["native"]]
        share = f"; {limits['bound_fraction']:.0%} of the bound"
    print(f"{title:41} {rates}")
    print(
        f"{'':41} best over best: native {native['best']:.2f}x{target}, "
        f"torch {plain['best']:.2f}x; native at equal threads {equal}x{share}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of everything; writes nothing"
    )
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM for CPUs")
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)
    print(f"tokens a second on {' / '.join(map(str, THREADS))} threads")
    results: dict[str, Any] = {
        "machine": describe(),
        "uniform": {s.name: uniform(s, quick=quick) for s in (SMALL, EXPERTS)},
        "ragged": ragged(quick=quick),
        "context": context_costs(SMALL, quick=quick),
        "vllm": vllm_rates(arguments.vllm_python, (SMALL, EXPERTS), rows=ROWS, steps=STEPS),
    }
    if not quick:
        RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
