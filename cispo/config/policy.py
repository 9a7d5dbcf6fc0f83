"""Configuration of the model and of sampling from it."""

from dataclasses import dataclass, field
from typing import Any

from cispo.config.require import require

KERNELS = ("auto", "torch", "native", "fla")


@dataclass(slots=True, kw_only=True)
class PolicyConfig:
    """The model pi.

    Attributes:
        backend: `lightning` for this project's hybrid, `transformers` for any other causal language
            model.
        path: Hugging Face folder or hub id with config.json, safetensors and tokenizer.
        dtype: `float32` or `bfloat16`, of the weights, in learners and engines.
        logprob_chunk: Tokens that go through the LM head at once; bounds memory at chunk x
            vocabulary.
        recompute_layers: Whether the learner keeps only the inputs of layers and computes the rest
            again in the backward pass: about a third more time for a fraction of the memory, and
            the same bits.
        kernels: What computes the lightning backend's layers and decoding steps, and reads the
            logits of any policy: `torch`; `native`, C++ for CPUs, compiled on first use; `fla`,
            flash-linear-attention for CUDA; `auto`, the fastest that runs here.
        architecture: For a new lightning model: the fields of its config.json; empty where `path`
            exists.
        tokenizer: For a new model: folder of the tokenizer, or the name of one that ships with the
            package.
    """

    backend: str = "lightning"
    path: str | None = None
    dtype: str = "float32"
    logprob_chunk: int = 1024
    recompute_layers: bool = False
    kernels: str = "auto"
    architecture: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = "bpe1024"

    def __post_init__(self) -> None:
        require(
            self.backend in ("lightning", "transformers"),
            "policy.backend",
            self.backend,
            "choose lightning or transformers",
        )
        require(
            self.dtype in ("float32", "bfloat16"),
            "policy.dtype",
            self.dtype,
            "choose float32 or bfloat16",
        )
        require(self.logprob_chunk >= 1, "policy.logprob_chunk", self.logprob_chunk, "must be >= 1")
        require(
            self.kernels in KERNELS,
            "policy.kernels",
            self.kernels,
            f"choose one of {', '.join(KERNELS)}",
        )


@dataclass(slots=True, kw_only=True)
class SamplingConfig:
    """The behaviour policy's sampling, in training or evaluation.

    Attributes:
        temperature: Divides the logits, > 0.
        top_p: Smallest set of tokens with this mass is kept, 0 < top_p <= 1.
        top_k: This many likeliest tokens are kept; 0 keeps all.
        min_p: Tokens below this share of the likeliest token's probability are cut, 0 <= min_p < 1.
        max_new_tokens: Budget of tokens a rollout.
        stop: Texts that end a rollout; the answer is what stands before the first of them.
        max_thinking_tokens: Budget of tokens before `</think>`, which the engine writes where it is
            exhausted; 0 sets none.
        max_answer_tokens: Budget of tokens after `</think>`; 0 sets none.
        thinking_jitter_tokens: Each rollout's budget of thoughts is drawn, by its seed, from the so
            many tokens up to `max_thinking_tokens`; 0 gives all the same.
        interruption: Words that the engine writes where that budget is exhausted, `</think>` at
            their end; they are never learned from. Empty is `</think>` alone.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 256
    stop: list[str] = field(default_factory=list)
    max_thinking_tokens: int = 0
    max_answer_tokens: int = 0
    thinking_jitter_tokens: int = 0
    interruption: str = ""

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "must be > 0")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "must lie in (0, 1]")
        require(self.top_k >= 0, "top_k", self.top_k, "must be >= 0; 0 keeps all tokens")
        require(0 <= self.min_p < 1, "min_p", self.min_p, "must lie in [0, 1)")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be >= 1")
        require(all(self.stop), "stop", self.stop, "an empty text would end every rollout at once")
        require(
            0 <= self.max_thinking_tokens < self.max_new_tokens,
            "max_thinking_tokens",
            self.max_thinking_tokens,
            f"must be 0 or below max_new_tokens={self.max_new_tokens}, or no answer could follow",
        )
        require(
            self.max_answer_tokens >= 0,
            "max_answer_tokens",
            self.max_answer_tokens,
            "must be >= 0; 0 sets no budget",
        )
        self._check_interruption()

    def _check_interruption(self) -> None:
        require(
            0 <= self.thinking_jitter_tokens < max(1, self.max_thinking_tokens),
            "thinking_jitter_tokens",
            self.thinking_jitter_tokens,
            f"must be 0 or below max_thinking_tokens={self.max_thinking_tokens}",
        )
        if not self.interruption:
            return
        require(
            self.interruption.endswith("</think>"),
            "interruption",
            self.interruption,
            "must end with </think>, or the policy would go on thinking",
        )
        require(
            self.max_thinking_tokens > 0,
            "interruption",
            self.interruption,
            "nothing is ever interrupted; set max_thinking_tokens, or leave it empty",
        )
        require(
            not any(stop in self.interruption for stop in self.stop),
            "interruption",
            self.interruption,
            f"holds one of stop={self.stop}, and would end the rollout without an answer",
        )
