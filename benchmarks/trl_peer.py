"""TRL's GRPOTrainer(loss_type="cispo") as a contestant, run by an interpreter that has TRL.

It is TRL's own training loop, `trainer.train()`: the rollouts and rewards that TRL asks for come
from a file, and a callback waits for this process's turn before each optimizer step. The time in
which TRL collects rollouts, decodes and pads them is not counted. Its own log mu of a step that
follows sampling directly is log pi itself, so the file's log mu takes its place: both sides then
clip the same ratios.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.memory_peak import peak_bytes, reset_peak, resident_bytes
from benchmarks.turns import answer, wait_for_turn

_FOREVER = 10_000


def run(problem: dict[str, Any]) -> None:
    """Take one optimizer step each turn.

    Args:
        problem: `model` (folder), `tokenizer` (folder), `batch` (file), `rows` a forward pass,
            `recompute`, `lr`, `threads`, `group_size`, `longest`.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(problem["threads"])
    versions = {name: version(name) for name in ("trl", "transformers", "torch")}
    given = json.loads(Path(problem["batch"]).read_text())

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        collecting = (0.0, 0.0)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            wall, processor = time.perf_counter(), time.process_time()
            output = super()._generate_and_score_completions(inputs)
            output["old_per_token_logps"] = output.pop("sampling_per_token_logps")
            self.collecting = (time.perf_counter() - wall, time.process_time() - processor)
            return output

    class Turns(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.measured: dict[str, float] | None = None

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.measured is None:
                before = resident_bytes()
                reset_peak()
                answer({"resident_bytes": before, "versions": versions})
            wait_for_turn()
            self.start = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stop = time.perf_counter(), time.process_time()
            wall, processor = (
                end - begin - spent
                for end, begin, spent in zip(stop, self.start, trainer.collecting, strict=True)
            )
            self.measured = {"seconds": wall, "processor_seconds": processor}

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            assert self.measured is not None
            answer(
                {
                    **self.measured,
                    "loss": logs["loss"],
                    "grad_norm": logs["grad_norm"],
                    "capped_fraction": logs["cispo_clip_ratio"],
                    "entropy": logs["entropy"],
                    "peak_bytes": peak_bytes(),
                }
            )

    def collect(prompts: list[Any], _: Any) -> dict[str, Any]:
        assert len(prompts) == len(given)
        return {
            "prompt_ids": [row["prompt"] for row in given],
            "completion_ids": [row["completion"] for row in given],
            "logprobs": [row["logprobs"] for row in given],
        }

    def rewards(**_: Any) -> list[float]:
        return [row["reward"] for row in given]

    num_groups = len(given) // problem["group_size"]
    tokenizer = AutoTokenizer.from_pretrained(problem["tokenizer"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(problem["model"], dtype=torch.float32),
            reward_funcs=rewards,
            rollout_func=collect,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": [f"task {i}" for i in range(num_groups)]}),
            callbacks=[Turns()],
            args=GRPOConfig(
                output_dir=folder,
                loss_type="cispo",
                epsilon_high=5.0,
                beta=0.0,
                temperature=1.0,
                num_generations=problem["group_size"],
                max_completion_length=problem["longest"],
                per_device_train_batch_size=problem["rows"],
                gradient_accumulation_steps=len(given) // problem["rows"],
                gradient_checkpointing=problem["recompute"],
                router_aux_loss_coef=0.0,
                learning_rate=problem["lr"],
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                max_steps=_FOREVER,
                shuffle_dataset=False,
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,  # slower here: these processors have no bfloat16 products
            ),
        )
        trainer.train()


if __name__ == "__main__":
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is called experimental
    run(json.loads(sys.argv[1]))
