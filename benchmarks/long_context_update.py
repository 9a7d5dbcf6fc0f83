"""Memory and time of one CISPO update on one long sequence, on the CPU in float32.

    python -m benchmarks.long_context_update                    # 64K tokens; about three minutes
    python -m benchmarks.long_context_update --tokens 8192      # shorter

The model is the hybrid of width 256: 8 layers, the last one of them softmax, 4 heads, inner width
512. Every update runs in a process of its own, whose peak resident size is reported, and beside it
the peak of a process that imports the same and takes a step on 64 tokens. Writes
results/long_context_update.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "long_context_update.json"
LIMIT_GIB = 8.0
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


def update(tokens: int, *, recompute: bool, kernels: str) -> dict[str, float]:
    """Take one optimizer step on a sequence of random tokens."""
    import torch

    from cispo.config import ObjectiveConfig
    from cispo.learner.local import LocalLearner
    from cispo.learner.rule import update_rule
    from cispo.policy.lightning.config import LightningConfig
    from cispo.policy.lightning.model import LightningModel
    from cispo.types import PolicyVersion, Rollout, Sample, StopReason

    model = LightningModel(LightningConfig.from_dict(ARCHITECTURE), kernels=kernels)
    model.initialise(0)
    model.model.recompute_layers = recompute
    rule = update_rule(
        ObjectiveConfig(), micro_batch_tokens=tokens, temperature=1.0, router_aux_loss_coef=0.0
    )
    learner = LocalLearner(
        model, rule, lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-15, weight_decay=0.0,
        warmup_steps=0, max_grad_norm=1.0,
    )  # fmt: skip
    ids = torch.randint(VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(0))
    rollout = Rollout(
        task_id="long",
        token_ids=ids.tolist(),
        action_mask=[False] + [True] * (tokens - 1),
        behaviour_logprobs=[0.0] + [-6.0] * (tokens - 1),
        text="",
        stop_reason=StopReason.LENGTH,
        oldest_version=PolicyVersion(1),
        newest_version=PolicyVersion(1),
    )
    wall, processor = time.perf_counter(), time.process_time()
    metrics = learner.step([Sample(rollout=rollout, advantage=1.0, group_index=0)])
    return {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "loss": metrics["learn/loss"],
        "grad_norm": metrics["learn/grad_norm"],
    }


def in_a_process(tokens: int, *, recompute: bool, kernels: str, threads: int) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.long_context_update", "--kernels", kernels]
    command += ["--child", "--tokens", str(tokens), *(["--recompute"] if recompute else [])]
    # as in the learner's processes; a product's bits would else depend on where its rows lie
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_CBWR": "AUTO,STRICT"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    measured = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{tokens:>7} tokens  recompute={recompute!s:<5}  {measured['peak_gib']:6.2f} GiB"
        f"  {measured['seconds']:7.1f} s  {measured['processor_seconds']:7.1f} s of processor time",
        flush=True,
    )
    return {"tokens": tokens, "recompute": recompute, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measured = update(options.tokens, recompute=options.recompute, kernels=options.kernels)
        print(json.dumps(measured))
        return
    from benchmarks.machine import describe

    def run(tokens: int, recompute: bool) -> dict[str, object]:
        return in_a_process(
            tokens, recompute=recompute, kernels=options.kernels, threads=options.threads
        )

    quarter = options.tokens // 4
    runs = [run(64, False), run(quarter, False), run(quarter, True), run(options.tokens, True)]
    for key in ("loss", "grad_norm"):
        assert runs[1][key] == runs[2][key], f"recomputing changed {key}"
    peak = runs[-1]["peak_gib"]
    assert isinstance(peak, float)
    report = {
        "machine": describe(),
        "threads": options.threads,
        "kernels": options.kernels,
        "architecture": ARCHITECTURE,
        "limit_gib": LIMIT_GIB,
        "is_within_limit": peak <= LIMIT_GIB,
        "updates": runs,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
