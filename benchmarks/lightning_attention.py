"""Lightning attention, forward and backward: ours against what else runs on this machine.

    python -m benchmarks.lightning_attention                   # under ten minutes on two cores
    python -m benchmarks.lightning_attention --longest 4096    # shorter; stored nowhere

Float32, 8 heads, one sequence, the same inputs for all, no projections; variants alternate in one
process with the same number of threads; wall time, the best of some rounds; a ratio is a peer's
time over ours. `transformers` is the loop inside MiniMaxLightningAttention, `fla` the plain-torch
form of flash-linear-attention (where fla-core is installed), `sdpa` torch's softmax attention.

It runs three times: with one thread and all peers; with two threads; and with one thread and an
allocator that keeps freed memory, where glibc otherwise hands large tensors back and every pass
faults their pages in again (that helps the peer as well). Whether the time of a token is flat is
judged with memory kept, as faulting pages in is no part of attention, and by medians of ratios
within a turn of all lengths. Peak memory is that of fresh processes.
Writes results/lightning_attention.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.attention_peers import HEADS
from benchmarks.attention_times import HEAD_SIZES, LONGEST, OURS
from benchmarks.machine import describe

RESULT = Path(__file__).parent / "results" / "lightning_attention.json"
LENGTHS = (1024, 4096, 16384, 65536)
PROMISED = {"native": {4096: 6.0, 16384: 20.0}, "torch": {4096: 2.5, 16384: 8.0}}
"""Least times of transformers over ours, by tokens."""
FLAT = 1.15
"""Most by which the slowest time or the largest memory of a token may exceed the least from 4K."""
KEEPING = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
MEMORY = {"native": LENGTHS[1:], "torch": LENGTHS[1:], "transformers": (4096, 16384),
          "sdpa": (4096,)}  # fmt: skip
Row = dict[str, Any]


def in_a_process(*arguments: object, environment: dict[str, str] | None = None) -> Any:
    """Run attention_times.py and return what it prints as JSON."""
    command = [sys.executable, "-m", "benchmarks.attention_times", *map(str, arguments)]
    merged = {**os.environ, **(environment or {})}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=merged)
    return json.loads(done.stdout.splitlines()[-1])


def runs(longest: int) -> Row:
    lengths = [T for T in LENGTHS if longest >= T and T <= 16384]
    headline = lengths[1:]
    return {
        "one thread": in_a_process("--threads", 1, "--lengths", *lengths, "--peers", *LONGEST),
        "two threads": in_a_process(
            "--threads", 2, "--lengths", *headline, "--peers", "transformers"
        ),
        "one thread, freed memory kept": in_a_process(
            *("--threads", 1, "--lengths", *headline, "--peers", "transformers"),
            environment=KEEPING,
        ),
    }


def flat(longest: int) -> list[Row]:
    lengths = [T for T in LENGTHS[1:] if longest >= T]
    measured: list[Row] = in_a_process("--flat", "--lengths", *lengths, environment=KEEPING)
    return measured


def memories(longest: int) -> list[Row]:
    return [
        in_a_process("--memory-of", name, "--lengths", T)
        for name, lengths in MEMORY.items()
        for T in lengths
        if longest >= T
    ]


def at_least(claim: str, measured: float, target: float) -> Row:
    is_met = measured >= target
    return {"claim": claim, "measured": measured, "target": f">= {target:g}", "is_met": is_met}


def at_most(claim: str, measured: float, target: float) -> Row:
    is_met = measured <= target
    return {"claim": claim, "measured": measured, "target": f"<= {target:g}", "is_met": is_met}


def speed_claims(run: str, rows: Sequence[Row]) -> list[Row]:
    """What is promised against transformers."""
    return [
        at_least(
            f"{ours} over transformers, D={row['head_size']}, {row['tokens']} tokens, {run}",
            row[f"over_{ours}"][1],
            PROMISED[ours][row["tokens"]],
        )
        for ours in PROMISED
        for row in rows
        if row["implementation"] == "transformers"
        and row["dtype"] == "float32"
        and row["tokens"] in PROMISED[ours]
    ]


def flat_time_claims(rows: Sequence[Row]) -> list[Row]:
    """What is promised about the time of a token from 4K tokens on."""
    claims = []
    for ours in OURS:
        for D in HEAD_SIZES:
            taken = [row["us_per_token"] for row in rows
                     if (row["implementation"], row["head_size"]) == (ours, D)]  # fmt: skip
            claim = f"{ours}, slowest over fastest time a token from 4K tokens, D={D}"
            claims.append(at_most(claim, max(taken) / min(taken), FLAT))
    return claims


def flat_memory_claims(memory: Sequence[Row]) -> list[Row]:
    """What is promised about the memory of a token from 4K tokens on."""
    claims = []
    for ours in OURS:
        used = [row["bytes_per_token"] for row in memory if row["implementation"] == ours]
        claim = f"{ours}, bytes a token at the longest over those at 4K tokens, D=64"
        claims.append(at_most(claim, used[-1] / used[0], FLAT))
    return claims


def shares(run: Row) -> Row:
    """Share of the measured GEMM peak that our products reach: forward, and with the backward."""
    return {
        f"{row['implementation']} D={row['head_size']} T={row['tokens']}": [
            row[f"{part}_gflops"] / run["gemm_gflops"] for part in ("forward", "forward_backward")
        ]
        for row in run["rows"]
        if row["implementation"] in OURS and row["dtype"] == "float32"
    }


def tell(report: Row) -> None:
    """Print the tables."""
    for name, run in report["runs"].items():
        print(
            f"\n{name}: us a token, forward and backward; GEMM peak {run['gemm_gflops']:.0f} GF/s"
        )
        for row in run["rows"]:
            share = run["share_of_gemm_peak"].get(
                f"{row['implementation']} D={row['head_size']} T={row['tokens']}"
            )
            is_plain = row["dtype"] == "float32"
            print(
                f"  D={row['head_size']:<4} T={row['tokens']:<6} {row['implementation']:13}"
                f"{row['us_per_token']:9.2f}  {row['over_native'][1]:7.1f}x native"
                + (f"  {share[1]:5.0%} of the peak" if share and is_plain else "")
                + ("" if is_plain else f"  {row['dtype']}")
            )
    print("\nlengths by turns: us a token, forward and backward, freed memory kept")
    for row in report["flat"]:
        print(f"  D={row['head_size']:<4} T={row['tokens']:<6} {row['implementation']:13}"
              f"{row['us_per_token']:9.2f}")  # fmt: skip
    print("\npeak memory of a pass, D=64")
    for row in report["memory"]:
        mib = row["bytes"] / 2**20
        print(f"  {row['implementation']:13} T={row['tokens']:<6} {mib:8.0f} MiB")
    print("\nclaims")
    for row in report["claims"]:
        verdict = "met" if row["is_met"] else "MISSED"
        print(f"  {row['claim']:80} {row['measured']:6.2f} {row['target']:>8}  {verdict}")
    for left_out in report["left_out"]:
        print(f"left out: {left_out}")


def left_out() -> list[str]:
    reasons = [
        f"{name} beyond {tokens} tokens at D={D}: too slow to be worth the wait"
        for name, longest in LONGEST.items()
        for D, tokens in longest.items()
    ]
    if find_spec("fla") is None:
        reasons.append("fla: fla-core is not installed")
    return reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--longest", type=int, choices=LENGTHS[1:], default=LENGTHS[-1])
    longest = parser.parse_args().longest
    start = time.perf_counter()
    report: Row = {"machine": describe(), "heads": HEADS, "runs": runs(longest)}
    for run in report["runs"].values():
        run["share_of_gemm_peak"] = shares(run)
    report["flat"] = flat(longest)
    report["memory"] = memories(longest)
    report["claims"] = [
        claim for name, run in report["runs"].items() for claim in speed_claims(name, run["rows"])
    ]
    report["claims"] += flat_time_claims(report["flat"])
    report["claims"] += flat_memory_claims(report["memory"])
    report["left_out"] = left_out()
    report["seconds"] = time.perf_counter() - start
    tell(report)
    if longest == LENGTHS[-1]:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
