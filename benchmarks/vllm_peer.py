"""vLLM on the CPU with a dense model of equal parameters, run by an interpreter that has it.

This file is both the caller, which imports neither vLLM nor torch, and the script that the other
interpreter runs: `PYTHON vllm_peer.py '{"hidden_size": ..., ...}'` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.generators import Shape

_CORES = min(2, os.cpu_count() or 1)
_ENVIRONMENT = {
    "OMP_NUM_THREADS": str(_CORES),
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{_CORES - 1}",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_TIMEOUT_SECONDS = 600
_LAYERS, _KV_HEADS, _PROMPT_TOKENS = 8, 2, 8


def vllm_rates(
    python: str | None,
    shapes: Sequence[Shape],
    *,
    rows: Sequence[int],
    steps: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Tokens a second of vLLM by shape, its threads bound to two cores; or why it was not run."""
    if python is None:
        print("vLLM: skipped, no --vllm-python")
        return {"skipped": "no --vllm-python was given"}
    results = {}
    for shape in shapes:
        problem = {
            "config": _dense_config(shape),
            "runs": list(zip(rows, steps[shape.name], strict=True)),
        }
        done = subprocess.run(
            [python, str(Path(__file__)), json.dumps(problem)],
            env=os.environ | _ENVIRONMENT,
            stdout=subprocess.PIPE,
            timeout=_TIMEOUT_SECONDS,
            check=True,
            text=True,
        )
        results[shape.name] = json.loads(done.stdout.splitlines()[-1])
        print(f"vLLM, dense, {shape.name}: {results[shape.name]}")
    return results


def _dense_config(shape: Shape) -> dict[str, Any]:
    """A Qwen3 config.json with as many parameters as the hybrid of a shape, norms left aside."""
    d, inner = shape.hidden_size, shape.heads * shape.head_dim
    kv_inner = _KV_HEADS * shape.head_dim
    hybrid = 7 * 5 * d * inner + 2 * d * (inner + kv_inner)
    hybrid += _LAYERS * 3 * d * shape.intermediate_size * shape.experts
    dense = _LAYERS * 2 * d * (inner + kv_inner)
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocabulary,
        "hidden_size": d,
        "intermediate_size": round((hybrid - dense) / (_LAYERS * 3 * d) / 16) * 16,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def _measure(config: dict[str, Any], runs: Sequence[Sequence[int]]) -> dict[str, float]:
    """Run vLLM in this process; tokens a second by number of rows."""
    from vllm import LLM, SamplingParams  # the other interpreter has it

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        engine = LLM(
            folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=256,
            enable_prefix_caching=False,
        )
        rates = {}
        for rows, steps in [(2, 4), *runs]:
            sampling = SamplingParams(
                max_tokens=steps, ignore_eos=True, logprobs=0, detokenize=False
            )
            prompts = [
                {"prompt_token_ids": [(7 * row + i) % 500 + 1 for i in range(_PROMPT_TOKENS)]}
                for row in range(rows)
            ]
            engine.generate(prompts, sampling, use_tqdm=False)  # shapes are new the first time
            start = time.perf_counter()
            engine.generate(prompts, sampling, use_tqdm=False)
            rates[str(rows)] = rows * steps / (time.perf_counter() - start)
    del rates["2"]
    return rates


if __name__ == "__main__":
    problem = json.loads(sys.argv[1])
    print(json.dumps(_measure(problem["config"], problem["runs"])))
