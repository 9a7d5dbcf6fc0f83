"""Lightning attention, forward and backward: ours against what else runs on this machine.

    python -m benchmarks.lightning_attention                   # about five minutes on two cores
    python -m benchmarks.lightning_attention --longest 4096    # shorter

Float32, 8 heads, one sequence, the same inputs for all, no projections; variants interleaved in one
process with the same number of threads; wall time, the best of some rounds; a ratio is a peer's
time over ours. `transformers` is the loop inside MiniMaxLightningAttention, `fla` the plain-torch
form of flash-linear-attention (where fla-core is installed), `sdpa` torch's softmax attention.

It runs twice: in the environment as it is, and (without fla and sdpa) with an allocator that keeps
freed memory, where glibc otherwise hands large tensors back and every pass faults their pages in
again; that helps the peer as well. Peak memory is that of fresh processes. Writes
results/lightning_attention.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_peers import HEADS, LINEAR, Attend, make
from benchmarks.machine import describe
from benchmarks.machine_limits import gemm_flops
from cispo.policy.lightning.decay import layer_slopes

RESULT = Path(__file__).parent / "results" / "lightning_attention.json"
LENGTHS = (1024, 4096, 16384, 65536)
LONGEST_OF_PEERS = 16384
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "keeping": {
        "THP_MEM_ALLOC_ENABLE": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    },
}
OTHERS = ("fla", "sdpa")  # beside whom nothing is promised: one round is enough, and one allocator
SECONDS = 4.0  # for one implementation at one length
MOST_ROUNDS = 20
TARGETS = {"torch": {4096: 2.5, 16384: 8.0}, "native": {4096: 6.0, 16384: 20.0}}
Row = dict[str, Any]


def inputs(T: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.nn.functional.silu(torch.randn(T, HEADS, 3, D, generator=generator))
    return qkv.to(dtype), torch.randn(T, HEADS, D, generator=generator).to(dtype)


def implementations(T: int, qkv: Tensor, *, has_others: bool = True) -> dict[str, Attend]:
    slopes = layer_slopes(HEADS, layer=1, num_layers=4)
    peers = () if T > LONGEST_OF_PEERS else ("transformers", *(OTHERS if has_others else ()))
    made = {name: make(name, qkv, slopes) for name in ("native", "torch", *peers)}
    return {name: attend for name, attend in made.items() if attend is not None}


def once(attend: Attend, qkv: Tensor, grad: Tensor) -> tuple[float, float]:
    """Seconds of a forward pass alone, and of one with its backward pass."""
    with torch.no_grad():
        start = time.perf_counter()
        attend(qkv)
        forward = time.perf_counter() - start
    leaf = qkv.detach().requires_grad_()
    start = time.perf_counter()
    attend(leaf).backward(grad)
    return forward, time.perf_counter() - start


def check(runs: dict[str, Attend], D: int) -> None:
    """Refuse to time implementations that do not compute the same."""
    qkv, grad = inputs(1024, D)
    results = {}
    for name, attend in runs.items():
        leaf = qkv.detach().requires_grad_()
        output = attend(leaf)
        results[name] = (output.detach(), *torch.autograd.grad(output, leaf, grad))
    for name in results.keys() & set(LINEAR):
        for got, want in zip(results[name], results["torch"], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


def operations(T: int, D: int, chunk: int = 32) -> tuple[int, int]:
    """Least multiplications and additions of the chunked form: forward, and with the backward."""
    chunk_products, state_products = 2 * chunk * D, 4 * D * D
    a_token = chunk_products + state_products
    return T * HEADS * a_token, T * HEADS * (7 * chunk_products + 7 * state_products) // 2


def measure(
    T: int, D: int, dtype: torch.dtype = torch.float32, *, has_others: bool = True
) -> list[Row]:
    qkv, grad = inputs(T, D, dtype)
    runs = implementations(T, qkv, has_others=has_others)
    if LENGTHS[0] == T and dtype == torch.float32:
        check(runs, D)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(MOST_ROUNDS):
        for name, attend in runs.items():
            least = 1 if name in OTHERS else 3
            if len(taken[name]) < least or sum(map(sum, taken[name])) < SECONDS:
                taken[name].append(once(attend, qkv, grad))
    best = {name: [min(times) for times in zip(*taken[name], strict=True)] for name in runs}
    forward, both = operations(T, D)
    return [
        {
            "implementation": name,
            "head_size": D,
            "tokens": T,
            "dtype": str(dtype).removeprefix("torch."),
            "rounds": len(taken[name]),
            "forward_ms": 1e3 * best[name][0],
            "forward_backward_ms": 1e3 * best[name][1],
            "us_per_token": 1e6 * best[name][1] / T,
            "forward_gflops": forward / best[name][0] / 1e9,
            "forward_backward_gflops": both / best[name][1] / 1e9,
            "over_native": [a / b for a, b in zip(best[name], best["native"], strict=True)],
            "over_torch": [a / b for a, b in zip(best[name], best["torch"], strict=True)],
        }
        for name in runs
    ]


def child_times(longest: int, threads: int, *, has_others: bool) -> Row:
    torch.set_num_threads(threads)
    rows = []
    peak = gemm_flops(2048)
    for D in (64, 128):
        for T in (T for T in LENGTHS if longest >= T):
            rows += measure(T, D, has_others=has_others)
            peak = max(peak, gemm_flops(2048))
            _print(rows, D, T)
    if longest >= 4096:
        rows += measure(4096, 64, torch.bfloat16, has_others=False)
    return {"gemm_gflops": peak / 1e9, "rows": rows}


def _print(rows: list[Row], D: int, T: int) -> None:
    for row in rows:
        if (row["head_size"], row["tokens"]) == (D, T):
            print(
                f"D={D:<4} T={T:<6} {row['implementation']:13}"
                f" forward {row['forward_ms']:9.1f} ms, with backward"
                f" {row['forward_backward_ms']:9.1f} ms, {row['us_per_token']:7.2f} us a token,"
                f" {row['over_native'][1]:6.1f}x native, {row['over_torch'][1]:6.1f}x torch",
                file=sys.stderr,
            )


def child_memory(name: str, T: int) -> Row:
    """Peak resident bytes beyond the inputs of one forward and backward pass, D=64."""
    small, small_grad = inputs(256, 64)
    qkv, grad = inputs(T, 64)
    attend = implementations(256, small)[name]
    once(attend, small, small_grad)
    if name in ("native", "torch"):
        attend = implementations(T, qkv)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
    before = _kilobytes("VmRSS")
    leaf = qkv.requires_grad_()
    attend(leaf).backward(grad)
    extra = 1024 * (_kilobytes("VmHWM") - before)
    return {"implementation": name, "tokens": T, "bytes": extra, "bytes_per_token": extra / T}


def _kilobytes(field: str) -> int:
    """A number of this process's memory, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def in_a_process(*arguments: str, environment: dict[str, str]) -> Row:
    command = [sys.executable, "-m", "benchmarks.lightning_attention", *arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: Row = json.loads(done.stdout.splitlines()[-1])
    return result


def summary(times: Row) -> Row:
    """The ratios that are promised, how flat our time per token is, and its share of the peak."""
    rows = [row for row in times["rows"] if row["dtype"] == "float32"]
    at = {(row["implementation"], row["head_size"], row["tokens"]): row for row in rows}
    ratios, flatness, share = {}, {}, {}
    for D in (64, 128):
        for ours, targets in TARGETS.items():
            for T, target in targets.items():
                if peer := at.get(("transformers", D, T)):
                    ratio = peer[f"over_{ours}"][1]
                    ratios[f"{ours} D={D} T={T}"] = {"ratio": ratio, "target": target}
            tokens = [row["us_per_token"] for row in rows
                      if row["implementation"] == ours and row["head_size"] == D
                      and row["tokens"] >= 4096]  # fmt: skip
            if tokens:
                flatness[f"{ours} D={D}"] = max(tokens) / min(tokens)
        for row in rows:
            if row["implementation"] == "native" and row["head_size"] == D:
                share[f"D={D} T={row['tokens']}"] = [
                    row[f"{part}_gflops"] / times["gemm_gflops"]
                    for part in ("forward", "forward_backward")
                ]
    return {"over_transformers": ratios, "slowest_over_fastest_from_4k": flatness,
            "share_of_gemm_peak": share}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", choices=["times", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--implementation", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "times":
        has_others = options.implementation is None
        print(json.dumps(child_times(options.longest, options.threads, has_others=has_others)))
        return
    if options.child == "memory":
        print(json.dumps(child_memory(options.implementation, options.longest)))
        return
    common = ("--longest", str(options.longest), "--threads", str(options.threads))
    report: Row = {"machine": describe(), "threads": options.threads, "heads": HEADS}
    for allocator, environment in ALLOCATORS.items():
        print(f"allocator: {allocator}", file=sys.stderr)
        only = ("--implementation", "ours") if environment else ()
        times = in_a_process("--child", "times", *common, *only, environment=environment)
        report[allocator] = {"environment": environment, **summary(times), **times}
        for name, ratio in report[allocator]["over_transformers"].items():
            print(f"{name}: {ratio['ratio']:.1f}x (target {ratio['target']}x)")
    report["memory"] = [
        in_a_process(
            *("--child", "memory", "--implementation", name, "--longest", str(T)), environment={}
        )
        for name in ("native", "torch", "transformers", "sdpa")
        for T in LENGTHS[1:]
        if min(options.longest, LENGTHS[-1] if name in TARGETS else LONGEST_OF_PEERS) >= T
    ]
    for row in report["memory"]:
        mib = row["bytes"] / 2**20
        print(f"memory {row['implementation']:13} T={row['tokens']:<6} {mib:8.0f} MiB")
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
