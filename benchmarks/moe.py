"""Mixture of experts, forward and backward: ours against transformers' MiniMax sparse block.

    python -m benchmarks.moe                 # about two minutes on one core
    python -m benchmarks.moe --repeats 5     # shorter

Router included, float32, one thread, all variants interleaved in one process with the same weights,
inputs and gradients; times are thread-CPU time, medians, and ratios medians of paired ratios. The
peers are transformers' eager loop, its grouped form and, where it fits, its batched form; `dense`
is our feed-forward layer with as many products a token and no router. Writes results/moe.json.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from transformers import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxSparseMoeBlock

from benchmarks.machine import describe
from cispo.policy.lightning.moe import MixtureOfExperts

RESULT = Path(__file__).parent / "results" / "moe.json"
SHAPES = {
    # tokens, width, inner width, experts, kept
    "tiny": (16, 256, 256, 8, 2),
    "tiny 64": (64, 256, 256, 8, 2),
    "tiny, many experts": (64, 256, 256, 32, 2),
    "medium 1K": (1024, 256, 256, 8, 2),
    "medium 2K": (2048, 512, 512, 8, 2),
    "medium, many experts": (1024, 512, 256, 32, 2),
}
MOST_BATCHED = 256  # tokens; the batched form copies an expert's weights for each of them
Run = Callable[[], tuple[Tensor, Tensor]]


def ours(shape: tuple[int, ...], kernels: str) -> MixtureOfExperts:
    _, hidden, inner, experts, kept = shape
    return MixtureOfExperts(
        experts, top_k=kept, hidden_size=hidden, intermediate_size=inner, kernels=kernels
    )


def theirs(shape: tuple[int, ...], implementation: str) -> MiniMaxSparseMoeBlock:
    _, hidden, inner, experts, kept = shape
    config = MiniMaxConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_local_experts=experts,
        num_experts_per_tok=kept,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        router_jitter_noise=0.0,
    )
    config._experts_implementation = implementation
    return MiniMaxSparseMoeBlock(config)


def variants(shape: tuple[int, ...]) -> dict[str, Run]:
    """Forward and backward passes by name; each returns the output and the input's gradient."""
    tokens, hidden, inner, _, kept = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, hidden, generator=generator)
    grad = torch.randn(tokens, hidden, generator=generator)
    reference = ours(shape, "torch")
    for parameter in reference.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * hidden**-0.5)
    state = reference.state_dict()

    def of(block: torch.nn.Module) -> Run:
        is_theirs = isinstance(block, MiniMaxSparseMoeBlock)

        def run() -> tuple[Tensor, Tensor]:
            here = x.clone().requires_grad_()
            y = block(here.unsqueeze(0)).squeeze(0) if is_theirs else block(here)[0]
            y.backward(grad)
            for parameter in block.parameters():
                parameter.grad = None
            assert here.grad is not None
            return y.detach(), here.grad

        return run

    runs = {}
    for kernels in ("native", "torch"):
        block = ours(shape, kernels)
        block.load_state_dict(state)
        runs[kernels] = of(block)
    for implementation in ("eager", "grouped_mm", "batched_mm"):
        if implementation == "batched_mm" and tokens > MOST_BATCHED:
            continue
        peer = theirs(shape, implementation)
        peer.load_state_dict(state)
        runs[f"transformers {implementation}"] = of(peer)
    runs["dense"] = of(ours((tokens, hidden, kept * inner, 1, 1), "torch").apply(_initialise))
    return runs


def _initialise(module: torch.nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        torch.nn.init.normal_(parameter, std=0.05)


def measure(shape: tuple[int, ...], repeats: int) -> dict[str, dict[str, float]]:
    runs = variants(shape)
    expected = runs["transformers eager"]()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        found = run()
        if name != "dense":
            for got, want in zip(found, expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            times[name].append(time.thread_time() - start)
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(taken),
            "over_native": statistics.median(
                a / b for a, b in zip(taken, times["native"], strict=True)
            ),
        }
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name, shape in SHAPES.items():
        tokens, hidden, inner, experts, kept = shape
        measured = measure(shape, options.repeats)
        seconds = measured["native"]["milliseconds"] / 1e3
        flops = 3 * 3 * 2 * tokens * kept * hidden * inner
        results.append(
            {
                "shape": name,
                "tokens": tokens,
                "hidden": hidden,
                "inner": inner,
                "experts": experts,
                "kept": kept,
                "native_gflops": flops / seconds / 1e9,
                "variants": measured,
            }
        )
        print(f"{name}: {tokens} tokens, width {hidden}, {experts} experts of {inner}, top {kept}")
        for variant, numbers in measured.items():
            print(
                f"  {variant:24} {numbers['milliseconds']:9.2f} ms {numbers['over_native']:7.2f}x"
            )
    report = {"machine": describe(), "threads": 1, "repeats": options.repeats, "results": results}
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
