"""Peak memory of an optimizer step by length of context, and what holds it; float32, on the CPU.

    python -m benchmarks.learner_memory                      # 4K to 64K tokens, writes its result
    python -m benchmarks.learner_memory --longest 32768      # to 32K tokens, writes it too
    python -m benchmarks.learner_memory --quick              # to 8K tokens, writes nothing

One CISPO update on one sequence of random tokens, by `LocalLearner`, on a hybrid of 21 million
parameters: width 384, 7 lightning layers and a softmax layer, 6 heads, 8,192 tokens. Each update
has a process of its own with a learner's environment, whose peak resident size is reported. Without
`recompute_layers` lengths end at 16K: 64K tokens would need more than this machine has.

What holds it: weights, gradients and AdamW's two moments take 16 bytes a parameter, whatever the
length. Activations take bytes a token: those that autograd keeps are counted where it saves them
(`benchmarks.kept_tensors`), by kind of layer. With all kept, a token costs all layers; with
`recompute_layers` the input of each layer, the output of softmax attention, and one layer that is
being computed again. The slope of the measured peaks stands beside it: the rest are gradients
inside a layer; where it is smaller, a layer's tensors go while its gradients come. Short contexts
with layers recomputed peak elsewhere, in the head or in AdamW.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cispo.config import LearnerConfig
from cispo.learner.environment import learner_environment

RESULT = Path(__file__).parent / "results" / "learner_memory.json"
KEPT_LENGTHS, RECOMPUTED_LENGTHS = (4096, 8192, 16384), (4096, 8192, 16384)
LONGEST = 65536
QUICK_LENGTHS = (2048, 4096, 8192)
LIMIT_GIB = 8.0
LINEAR_WITHIN = 1.15
"""Most by which bytes a token up to the longest exceed those of the step in length before."""
COUNTED_TOKENS = 2048
GIB = 2**30
VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS = 8192, 384, 8, 6, 2
ARCHITECTURE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 1024,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": WIDTH // HEADS,
    "rotary_dim": WIDTH // HEADS // 2,
    "layer_types": ["linear_attention"] * (LAYERS - 1) + ["full_attention"],
}
Row = dict[str, Any]


def update(tokens: int, *, recompute: bool) -> Row:
    """Take one optimizer step on a sequence of random tokens, in this process."""
    import torch

    from benchmarks.kept_tensors import kept_bytes
    from benchmarks.memory_peak import peak_bytes, reset_peak, resident_bytes
    from cispo.config import ObjectiveConfig
    from cispo.learner.local import LocalLearner
    from cispo.learner.rule import update_rule
    from cispo.policy.lightning.config import LightningConfig
    from cispo.policy.lightning.model import LightningModel
    from cispo.types import PolicyVersion, Rollout, Sample, StopReason

    model = LightningModel(LightningConfig.from_dict(ARCHITECTURE), kernels="auto")
    model.initialise(0)
    rule = update_rule(
        ObjectiveConfig(), micro_batch_tokens=tokens, temperature=1.0, router_aux_loss_coef=0.0
    )
    learner = LocalLearner(
        model, rule, lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-15, weight_decay=0.0,
        warmup_steps=0, max_grad_norm=1.0,
    )  # fmt: skip
    ids = torch.randint(VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(tokens) > 0

    count = min(tokens, COUNTED_TOKENS)

    def forward() -> object:
        ends = torch.tensor([0, count], dtype=torch.int32)
        return model(ids[:count], ends, mask[:count])

    kept = {name: size / count for name, size in kept_bytes(model, forward).items()}
    model.model.recompute_layers = recompute
    rollout = Rollout(
        task_id="long",
        token_ids=ids.tolist(),
        action_mask=mask.tolist(),
        behaviour_logprobs=[0.0] + [-6.0] * (tokens - 1),
        text="",
        stop_reason=StopReason.LENGTH,
        oldest_version=PolicyVersion(1),
        newest_version=PolicyVersion(1),
    )
    before = resident_bytes()
    reset_peak()
    wall, processor = time.perf_counter(), time.process_time()
    metrics = learner.step([Sample(rollout=rollout, advantage=1.0, group_index=0)])
    return {
        "tokens": tokens,
        "recompute_layers": recompute,
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "bytes_before": before,
        "peak_bytes": peak_bytes(),
        "loss": metrics["learn/loss"],
        "grad_norm": metrics["learn/grad_norm"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "kept_bytes_per_token": kept,
    }


def in_a_process(tokens: int, *, recompute: bool) -> Row:
    """Run `update` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.learner_memory", "--child", str(tokens)]
    command += ["--recompute"] if recompute else []
    learner = LearnerConfig(num_cpus=float(os.cpu_count() or 1))
    environment = {**os.environ, **learner_environment(learner, is_lean=recompute)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{tokens:>7} tokens  recompute_layers={recompute!s:<5}  "
        f"{row['peak_bytes'] / GIB:6.2f} GiB  {row['seconds']:7.1f} s  "
        f"{row['processor_seconds']:7.1f} s of processor time",
        flush=True,
    )
    return row


def slopes(rows: list[Row]) -> list[float]:
    """Bytes that one more token takes, between neighbouring lengths."""
    return [
        (long["peak_bytes"] - short["peak_bytes"]) / (long["tokens"] - short["tokens"])
        for short, long in itertools.pairwise(rows)
    ]


def predicted(kept: dict[str, float], *, recompute: bool) -> float:
    """Bytes a token that are kept at the peak, from what layers keep and from shapes."""
    from benchmarks.kept_tensors import LIGHTNING, REST, SOFTMAX

    largest = max(kept[LIGHTNING], kept[SOFTMAX])
    layers = (LAYERS - 1) * kept[LIGHTNING] + kept[SOFTMAX]
    if recompute:
        # Float32 inputs of layers; softmax attention's output with its normalisers; one layer.
        layers = 4.0 * (LAYERS * WIDTH + WIDTH + HEADS) + largest
    return layers + kept[REST]


def explain(rows: list[Row], *, recompute: bool) -> Row:
    """What holds the memory of a series of lengths."""
    first = rows[0]
    found = slopes(rows)
    expected = predicted(first["kept_bytes_per_token"], recompute=recompute)
    whole = slopes([first, rows[-1]])[0]
    state = 4 * first["parameters"]
    explained: Row = {
        "recompute_layers": recompute,
        "weights_bytes": state,
        "gradients_bytes": state,
        "adamw_bytes": 2 * state,
        "bytes_per_token": found,
        "bytes_per_token_over_all": whole,
        "kept_bytes_per_token": expected,
    }
    print(
        f"\nrecompute_layers={recompute}: weights {state / 2**20:.0f} MiB, gradients the same, "
        f"AdamW twice; {whole / 1024:.1f} KiB a token "
        f"({', '.join(f'{slope / 1024:.1f}' for slope in found)} between lengths), "
        f"{expected / 1024:.1f} KiB of them kept"
    )
    return explained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--longest", type=int, default=LONGEST, help="of the contexts with layers recomputed"
    )
    parser.add_argument("--quick", action="store_true", help="short contexts; writes nothing")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(update(options.child, recompute=options.recompute)))
        return
    from benchmarks.targets import Target, conclude

    began = time.perf_counter()
    lengths = {False: KEPT_LENGTHS, True: (*RECOMPUTED_LENGTHS, options.longest)}
    if options.quick:
        lengths = dict.fromkeys(lengths, QUICK_LENGTHS)
    series = {
        recompute: [in_a_process(tokens, recompute=recompute) for tokens in some]
        for recompute, some in lengths.items()
    }
    for key in ("loss", "grad_norm"):
        kept, recomputed = (rows[0][key] for rows in series.values())
        if kept != recomputed:
            raise RuntimeError(f"recompute_layers changed {key} from {kept} to {recomputed}")
    per_token = series[False][0]["kept_bytes_per_token"]
    print("\nkept for the backward pass, by autograd's own count")
    for name, size in per_token.items():
        print(f"  {name:32} {size / 1024:8.1f} KiB a token, {size / 4 / WIDTH:6.1f} floats of d")
    explained = {way: explain(rows, recompute=way) for way, rows in series.items()}
    targets = [
        Target(
            name=f"peak GiB at {series[True][-1]['tokens']} tokens, layers recomputed",
            value=series[True][-1]["peak_bytes"] / GIB,
            at_most=LIMIT_GIB,
        )
    ]
    for way, one in explained.items():
        word = "recomputed" if way else "kept"
        early, late = one["bytes_per_token"][-2:]
        name = f"growth of bytes a token with length, layers {word}"
        targets.append(Target(name=name, value=late / early, at_most=LINEAR_WITHIN))
    conclude(
        None if options.quick else RESULT,
        targets,
        began=began,
        architecture=ARCHITECTURE,
        updates=[row for rows in series.values() for row in rows],
        explained=list(explained.values()),
    )


if __name__ == "__main__":
    main()
