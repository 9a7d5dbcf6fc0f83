"""How long passes of attention take in one process, and what memory one pass takes in another.

    python -m benchmarks.attention_times --threads 1 --lengths 1024 4096 --peers transformers sdpa
    python -m benchmarks.attention_times --flat --lengths 4096 16384 65536
    python -m benchmarks.attention_times --memory-of native --lengths 4096

The last line that they print is JSON. These are parts of lightning_attention.py.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_peers import HEADS, LINEAR, Attend, make
from benchmarks.machine_limits import gemm_flops
from cispo.policy.lightning.decay import layer_slopes

OURS = ("native", "torch")
HEAD_SIZES = (64, 128)
LONGEST = {
    "transformers": dict.fromkeys(HEAD_SIZES, 16384),
    "sdpa": {64: 16384, 128: 4096},
    "fla": dict.fromkeys(HEAD_SIZES, 4096),
}
"""Tokens and head sizes beyond which a peer takes so long that it would tell nothing new."""

_LEAST_ROUNDS = {"native": 5, "torch": 2, "transformers": 1, "sdpa": 1, "fla": 1}
_MOST_ROUNDS = 20
_FLAT_TURNS = 7
_SECONDS = 2.0  # for one implementation at one length, once it has had its least rounds
Row = dict[str, Any]


def inputs(T: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return qkv [T, H, 3, D] after its activation, and the output's gradient [T, H, D]."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.nn.functional.silu(torch.randn(T, HEADS, 3, D, generator=generator))
    return qkv.to(dtype), torch.randn(T, HEADS, D, generator=generator).to(dtype)


def implementations(qkv: Tensor, peers: Sequence[str]) -> dict[str, Attend]:
    """Make ours and those peers that are installed and not too slow for inputs like these."""
    T, _, _, D = qkv.shape
    slopes = layer_slopes(HEADS, layer=1, num_layers=4)
    names = (*OURS, *(name for name in peers if LONGEST[name][D] >= T))
    made = {name: make(name, qkv, slopes) for name in names}
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


def check(D: int, peers: Sequence[str]) -> None:
    """Refuse to time implementations that do not compute the same.

    Raises:
        AssertionError: An output or a gradient differs by more than rounding.
    """
    qkv, grad = inputs(1024, D)
    results = {}
    for name, attend in implementations(qkv, peers).items():
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
    T: int, D: int, peers: Sequence[str], *, dtype: torch.dtype = torch.float32
) -> list[Row]:
    """Time ours and the peers by turns; each row is the best of its rounds."""
    qkv, grad = inputs(T, D, dtype)
    runs = implementations(qkv, peers)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(_MOST_ROUNDS):
        for name, attend in runs.items():
            rounds = taken[name]
            if len(rounds) < _LEAST_ROUNDS[name] or sum(map(sum, rounds)) < _SECONDS:
                rounds.append(once(attend, qkv, grad))
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


def times(lengths: Sequence[int], peers: Sequence[str], threads: int) -> Row:
    """Time all head sizes and lengths, and the product of large matrices beside them."""
    torch.set_num_threads(threads)
    rows = []
    peak = gemm_flops(2048)
    for D in HEAD_SIZES:
        check(D, peers)
        for T in lengths:
            rows += measure(T, D, peers)
            _tell(rows, D, T, threads)
        peak = max(peak, gemm_flops(2048))
    if "sdpa" in peers and 4096 in lengths:
        rows += measure(4096, 64, ("transformers",), dtype=torch.bfloat16)
    return {"threads": threads, "gemm_gflops": peak / 1e9, "rows": rows}


def flat_times(lengths: Sequence[int]) -> list[Row]:
    """Compare ours at all lengths: medians of ratios within a turn, as the machine's pace changes.

    A turn has as many tokens at each length, as a short pass would find a quiet moment more easily.
    """
    torch.set_num_threads(1)
    rows = []
    for D in HEAD_SIZES:
        cases = {T: inputs(T, D) for T in lengths}
        made = {T: implementations(qkv, ()) for T, (qkv, _) in cases.items()}
        for name in OURS:
            turns = [
                {T: _us_per_token(made[T][name], *cases[T], passes=max(lengths) // T)
                 for T in lengths}
                for _ in range(_FLAT_TURNS)
            ]  # fmt: skip
            first = statistics.median(turn[lengths[0]] for turn in turns)
            rows += [
                {
                    "implementation": name,
                    "head_size": D,
                    "tokens": T,
                    "us_per_token": first
                    * statistics.median(turn[T] / turn[lengths[0]] for turn in turns),
                }
                for T in lengths
            ]
    return rows


def _us_per_token(attend: Attend, qkv: Tensor, grad: Tensor, *, passes: int) -> float:
    """Of a forward and backward pass, the mean of some."""
    taken = sum(once(attend, qkv, grad)[1] for _ in range(passes))
    return 1e6 * taken / (passes * len(qkv))


def _tell(rows: list[Row], D: int, T: int, threads: int) -> None:
    for row in rows:
        if (row["head_size"], row["tokens"]) == (D, T):
            print(
                f"{threads} thread(s) D={D:<4} T={T:<6} {row['implementation']:13}"
                f" forward {row['forward_ms']:9.1f} ms, with backward"
                f" {row['forward_backward_ms']:9.1f} ms, {row['us_per_token']:7.2f} us a token,"
                f" {row['over_native'][1]:6.1f}x native, {row['over_torch'][1]:6.1f}x torch",
                file=sys.stderr,
            )


def memory(name: str, T: int) -> Row:
    """Peak resident bytes beyond the inputs of one forward and backward pass, D=64."""
    small, small_grad = inputs(256, 64)
    qkv, grad = inputs(T, 64)
    peers = () if name in OURS else (name,)
    once(implementations(small, peers)[name], small, small_grad)
    attend = implementations(qkv, peers)[name]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", required=True)
    parser.add_argument("--peers", nargs="*", choices=tuple(LONGEST), default=())
    parser.add_argument("--flat", action="store_true")
    parser.add_argument("--memory-of", choices=(*OURS, *LONGEST))
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory(options.memory_of, options.lengths[0])))
    elif options.flat:
        print(json.dumps(flat_times(options.lengths)))
    else:
        print(json.dumps(times(options.lengths, options.peers, options.threads)))


if __name__ == "__main__":
    main()
