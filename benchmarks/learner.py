"""Tokens a second and peak memory of an optimizer step beside TRL's GRPOTrainer(loss_type="cispo").

    python -m benchmarks.learner --trl-python /path/to/python    # writes results/learner.json
    python -m benchmarks.learner --trl-python ... --quick        # short completions, writes nothing

TRL needs an environment of its own: `pip install torch==2.13.0`, then `pip install trl
transformers==5.23.0`, in that order. The interpreter may also be named by CISPO_TRL_PYTHON. Without
one only our side is measured, and nothing is written.

**Models**, random and float32, read by both sides from the same folder. `hybrid`: 7 lightning
layers and a softmax layer, ours with native kernels against transformers' MiniMaxForCausalLM.
`softmax`: a Qwen3 that both sides run with transformers' own code and torch's attention, so that
only what surrounds the model differs.

**Batches** of fixed tokens, log mu, rewards and groups: `equal`, completions of 2,048 tokens; and
`long tail`, log-normal lengths up to 2,048 with a mean of 0.4 of it, as rollouts have.

**What is timed** is one optimizer step on the whole batch: packing or padding of micro-batches,
forward, loss, backward, clipping, AdamW, and the metrics that each side takes. Ours is
`LocalLearner.step`; TRL's is its own `trainer.train()` loop between `on_step_begin` and
`on_step_end`, less the time in which it collects, decodes and pads rollouts. Tokens are those of
prompts and completions; padding does not count. A pass of either side holds one longest sequence;
more rows a pass make neither side faster here, and cost both memory. Each side runs with all
activations kept and with layers computed again, TRL's default; the latter with the settings of
glibc's allocator that our learner then starts with, which help TRL as well. No bfloat16, which
these processors only emulate; Liger and Triton need a GPU. Of several turns the best counts. Speeds
compare the faster way of each side, memory the leaner way of each.

**Peak memory** is the peak of a fresh process over all steps, less what it had before the first:
gradients, AdamW's state, activations, logits. What both had before is stated beside it.

**Both do the same work**: loss and norm of the gradient of every step must agree to 1e-3, with the
same normaliser (all completion tokens of the step) and ratios to mu that reach over the cap.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import learner_cases as cases
from benchmarks.targets import Target, conclude
from benchmarks.turns import Contestant, take_turns
from cispo.config import LearnerConfig
from cispo.learner.environment import LEAN, learner_environment
from cispo.policy.load import bundled_tokenizer

RESULT = Path(__file__).parent / "results" / "learner.json"
ROWS = {"equal": 2, "long tail": 8}
TURNS = {"equal": 6, "long tail": 2}
LR = 1e-6
LOGPROB_CHUNK = 512
FASTER, LEANER = 2.0, 0.5
AGREEMENT = 1e-3
MIB = 2**20
SHARED = {"OMP_NUM_THREADS", *LEAN}
"""Variables of our learner that TRL gets as well."""
Row = dict[str, Any]


def start(
    stack: ExitStack, model: Path, batch: Path, *, kind: str, longest: int, python: str | None
) -> dict[str, Contestant]:
    """Start all contestants of a case."""
    threads = os.cpu_count() or 1
    shared = {"model": str(model), "batch": str(batch), "lr": LR, "threads": threads}
    contestants = {}
    for way, recompute in (("kept", False), ("recomputed", True)):
        environment = learner_environment(LearnerConfig(num_cpus=threads), is_lean=recompute)
        ours = {
            "backend": "lightning" if kind == "hybrid" else "transformers",
            "kernels": "native",
            "micro_batch_tokens": longest + cases.LONGEST_PROMPT,
            "logprob_chunk": LOGPROB_CHUNK,
            "recompute": recompute,
        }
        contestants[f"ours, {way}"] = Contestant(
            sys.executable,
            "benchmarks.learner_step",
            shared | ours,
            environment=environment,
        )
        if python is not None:
            theirs = {
                "tokenizer": str(bundled_tokenizer("bpe1024")),
                "rows": 1,
                "recompute": recompute,
                "group_size": cases.GROUP_SIZE,
                "longest": longest,
            }
            contestants[f"TRL, {way}"] = Contestant(
                python,
                "benchmarks.trl_peer",
                shared | theirs,
                environment={name: environment[name] for name in SHARED & environment.keys()},
            )
    for contestant in contestants.values():
        stack.enter_context(contestant)
    return contestants


def measure(folder: Path, kind: str, batch: str, *, longest: int, python: str | None) -> Row:
    """Run one case."""
    lengths = cases.LENGTHS[batch](ROWS[batch], longest)
    given = cases.batch(lengths)
    file = folder / f"{batch}.json"
    cases.write_batch(given, file)
    tokens = sum(len(row.prompt) + len(row.completion) for row in given)
    with ExitStack() as stack:
        contestants = start(stack, folder / kind, file, kind=kind, longest=longest, python=python)
        ready = {name: one.ready() for name, one in contestants.items()}
        turns = take_turns(contestants, rounds=TURNS[batch])
    refuse_other_work(turns)
    versions = [one["versions"] for one in ready.values() if "versions" in one]
    return {
        "model": kind,
        "batch": batch,
        "peer": versions[0] if versions else None,
        "completion_lengths": lengths,
        "tokens": tokens,
        "tokens_with_padding_to_the_longest": len(given) * (longest + len(given[0].prompt)),
        "contestants": {
            name: {
                "seconds": [one["seconds"] for one in measured],
                "processor_seconds": [one["processor_seconds"] for one in measured],
                "tokens_per_second": tokens / min(one["seconds"] for one in measured),
                "bytes_before": ready[name]["resident_bytes"],
                "peak_bytes": measured[-1]["peak_bytes"],
                "bytes_added": measured[-1]["peak_bytes"] - ready[name]["resident_bytes"],
                "loss": [one["loss"] for one in measured],
                "grad_norm": [one["grad_norm"] for one in measured],
            }
            for name, measured in turns.items()
        },
    }


def refuse_other_work(turns: Mapping[str, list[Row]]) -> None:
    """Check that every step of every contestant had the same loss and gradient."""
    names = list(turns)
    for name in names[1:]:
        for turn, (one, other) in enumerate(zip(turns[names[0]], turns[name], strict=True)):
            for key in ("loss", "grad_norm"):
                if abs(one[key] - other[key]) > AGREEMENT * abs(one[key]):
                    raise RuntimeError(
                        f"step {turn}: {key} is {one[key]} of {names[0]}, {other[key]} of {name}"
                    )


def ratios(row: Row) -> tuple[float, float]:
    """Our faster way over TRL's in tokens a second, and our leaner way over TRL's in memory."""
    sides: dict[str, list[Row]] = {"ours": [], "TRL": []}
    for name, one in row["contestants"].items():
        sides[name.split(",")[0]].append(one)
    fastest = {side: max(one["tokens_per_second"] for one in ways) for side, ways in sides.items()}
    leanest = {side: min(one["bytes_added"] for one in ways) for side, ways in sides.items()}
    return fastest["ours"] / fastest["TRL"], leanest["ours"] / leanest["TRL"]


def show(row: Row) -> None:
    """Print the contestants of a case."""
    print(f"\n{row['model']}, {row['batch']}: {row['tokens']} tokens", flush=True)
    for name, one in row["contestants"].items():
        print(
            f"  {name:18} {one['tokens_per_second']:8.0f} tokens/s  "
            f"{min(one['processor_seconds']):6.1f} s of processor time  "
            f"+{one['bytes_added'] / MIB:5.0f} MiB over {one['bytes_before'] / MIB:.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--trl-python",
        default=os.environ.get("CISPO_TRL_PYTHON"),
        help="interpreter of an environment with TRL",
    )
    parser.add_argument("--quick", action="store_true", help="completions of 128; writes nothing")
    options = parser.parse_args()
    if options.trl_python is None:
        print("TRL: skipped, no --trl-python and no CISPO_TRL_PYTHON; nothing will be written")
    longest = 128 if options.quick else cases.LONGEST
    began = time.perf_counter()
    rows: list[Row] = []
    parameters = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in cases.INNER:
            parameters[kind] = cases.write_model(kind, folder / kind)
            for batch in ROWS:
                rows.append(
                    measure(folder, kind, batch, longest=longest, python=options.trl_python)
                )
                show(rows[-1])
    if options.trl_python is None:
        return
    targets = []
    for row in rows:
        speed, memory = ratios(row)
        row["speed_over_trl"], row["memory_over_trl"] = speed, memory
        case = f"{row['model']}, {row['batch']}"
        targets += [
            Target(name=f"tokens/s over TRL's, {case}", value=speed, at_least=FASTER),
            Target(name=f"memory over TRL's, {case}", value=memory, at_most=LEANER),
        ]
    conclude(
        None if options.quick else RESULT,
        targets,
        began=began,
        threads=os.cpu_count(),
        parameters=parameters,
        cases=rows,
    )


if __name__ == "__main__":
    main()
