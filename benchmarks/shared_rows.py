"""Memory and time of a rank where ranks share one long row, on the CPU over gloo, in float32.

    python -m benchmarks.shared_rows                    # 16K tokens; about two minutes
    python -m benchmarks.shared_rows --tokens 4096      # shorter

Forward and backward pass of one sequence on one, two and four ranks, each a process with one
thread; with activations kept and with layers recomputed. The model has width 256 and 8 layers, the
last of them softmax. A rank's memory is the peak of its resident size in the pass over what it had
before, which held the weights and the code; the largest of the ranks counts, and the time is
processor time of all of them. Writes results/shared_rows.json.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.memory_peak import peak_bytes, reset_peak, resident_bytes

RESULT = Path(__file__).parent / "results" / "shared_rows.json"
RANKS = (1, 2, 4)
VOCABULARY = 512
ARCHITECTURE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rotary_dim": 32,
    "layer_types": ["linear_attention"] * 7 + ["full_attention"],
}


def pass_of_a_rank(
    rank: int, num_ranks: int, port: int, *, tokens: int, recompute: bool
) -> dict[str, float]:
    """Run the pass, and measure it here."""
    import torch
    import torch.distributed as dist
    from torch.nn.utils import get_total_norm

    from cispo.policy.lightning.config import LightningConfig
    from cispo.policy.lightning.model import LightningModel
    from cispo.policy.ranks import neighbouring_ranks

    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=num_ranks)
    model = LightningModel(LightningConfig.from_dict(ARCHITECTURE))
    model.initialise(0)
    model.model.recompute_layers = recompute
    model.share_rows(neighbouring_ranks(num_ranks))

    def run(count: int) -> None:
        ids = torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(0))
        mask = torch.arange(count) > 0
        model.zero_grad(set_to_none=False)
        scores = model(ids, torch.tensor([0, count], dtype=torch.int32), mask)
        scores.logprobs.mean().backward()

    run(64)
    dist.barrier()
    before, processor, wall = resident_bytes(), time.process_time(), time.perf_counter()
    reset_peak()
    run(tokens)
    measured = {
        "mib": (peak_bytes() - before) / 2**20,
        "processor_seconds": time.process_time() - processor,
        "seconds": time.perf_counter() - wall,
    }
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for gradient in gradients:
        dist.all_reduce(gradient)
    dist.destroy_process_group()
    return {**measured, "grad_norm": get_total_norm(gradients).item()}


def on_ranks(num_ranks: int, *, tokens: int, recompute: bool) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.shared_rows", "--tokens", str(tokens)]
    command += ["--ranks", str(num_ranks), "--port", str(port)]
    command += ["--recompute"] if recompute else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_CBWR": "AUTO,STRICT"}
    children = [
        subprocess.Popen(
            [*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(num_ranks)
    ]
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"a rank of {num_ranks} failed")
    ranks = [json.loads(output.splitlines()[-1]) for output in outputs]
    result = {
        "ranks": num_ranks,
        "tokens": tokens,
        "recompute": recompute,
        "mib_a_rank": max(rank["mib"] for rank in ranks),
        "processor_seconds": sum(rank["processor_seconds"] for rank in ranks),
        "seconds": max(rank["seconds"] for rank in ranks),
        "grad_norm": ranks[0]["grad_norm"],
    }
    print(
        f"{num_ranks} ranks  recompute={recompute!s:<5}  {result['mib_a_rank']:8.0f} MiB a rank"
        f"  {result['processor_seconds']:6.1f} s of processor time",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--ranks", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ranks:
        place = options.rank, options.ranks, options.port
        measured = pass_of_a_rank(*place, tokens=options.tokens, recompute=options.recompute)
        print(json.dumps(measured))
        return
    from benchmarks.machine import describe

    runs = [
        on_ranks(count, tokens=options.tokens, recompute=recompute)
        for recompute in (False, True)
        for count in RANKS
    ]
    for run in runs:
        assert abs(run["grad_norm"] / runs[0]["grad_norm"] - 1.0) < 1e-4, "other gradients"
        alone = next(r for r in runs if r["recompute"] == run["recompute"])
        run["memory_of_one_rank"] = run["mib_a_rank"] / alone["mib_a_rank"]
        run["processor_time_of_one_rank"] = run["processor_seconds"] / alone["processor_seconds"]
    report = {"machine": describe(), "architecture": ARCHITECTURE, "passes": runs}
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
