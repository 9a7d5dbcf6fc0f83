"""Generators of random tokens that benchmarks compare: our engine, and transformers' `generate`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import MiniMaxConfig, MiniMaxForCausalLM, StoppingCriteriaList
from transformers.utils import logging

from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.model import LightningModel
from rollout.backends.base import Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend

PROMPT_TOKENS = 8
KV_HEADS = 2
_LAYERS = (LINEAR,) * 7 + (FULL,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a model of 7 lightning layers and 1 softmax layer with grouped queries."""

    name: str
    hidden_size: int
    heads: int
    intermediate_size: int
    vocabulary: int
    experts: int = 1
    experts_per_token: int = 1

    @property
    def head_dim(self) -> int:
        """D."""
        return self.hidden_size // self.heads


SMALL = Shape(name="small", hidden_size=256, heads=4, intermediate_size=512, vocabulary=512)
EXPERTS = Shape(
    name="experts", hidden_size=512, heads=8, intermediate_size=512, vocabulary=32_000,
    experts=8, experts_per_token=2,
)  # fmt: skip


def lightning_model(
    shape: Shape,
    *,
    layer_types: tuple[str, ...] = _LAYERS,
    extra_inner: int = 0,
    kernels: str = "auto",
) -> LightningModel:
    """Make our model with random weights; `extra_inner` widens its feed-forward networks."""
    model = LightningModel(
        LightningConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size + extra_inner,
            num_hidden_layers=len(layer_types),
            num_attention_heads=shape.heads,
            num_key_value_heads=KV_HEADS,
            head_dim=shape.head_dim,
            layer_types=layer_types,
            rotary_dim=shape.head_dim,  # transformers rotates whole heads
            num_local_experts=shape.experts,
            num_experts_per_tok=shape.experts_per_token,
        ),
        kernels=kernels,
    )
    model.initialise(0)
    return model


class Seconds(NamedTuple):
    """Wall time of a generation: until every sequence has its first token, and from there on."""

    prompts: float
    decoding: float


class Engine:
    """Our rollout engine: sampled tokens with their log-probabilities."""

    def __init__(self, model: LightningModel, kernels: str, *, max_rows: int) -> None:
        stop = StopRules(token_ids=frozenset())
        self._backend = LightningBackend(model, stop, max_sequences=max_rows, kernels=kernels)
        self._vocabulary = model.config.vocab_size
        self._next_id = 0

    def generate(self, lengths: Sequence[int]) -> Seconds:
        """Sample as many sequences as there are lengths, each to its length."""
        start = time.perf_counter()
        sampled = self._backend.statistics.sampled_tokens
        for length in lengths:
            prompt = torch.randint(self._vocabulary, (PROMPT_TOKENS,)).tolist()
            self._backend.start(
                Request(
                    request_id=self._next_id,
                    task_id="benchmark",
                    prompt=tuple(prompt),
                    seeds=(self._next_id,),
                    sampling=SamplingParams(max_new_tokens=length),
                )
            )
            self._next_id += 1
        remaining, first = len(lengths), start
        while remaining:
            for finished in self._backend.step():
                assert len(finished.token_ids) == len(finished.logprobs)
                remaining -= 1
            if self._backend.statistics.sampled_tokens - sampled <= len(lengths):
                first = time.perf_counter()
        return Seconds(first - start, time.perf_counter() - first)


class Transformers:
    """transformers' `generate` with its own hybrid of the same shape, in padded batches.

    It returns no log-probabilities, which spares it some work.
    """

    def __init__(self, shape: Shape, *, max_rows: int) -> None:
        logging.set_verbosity_error()
        self._max_rows, self._vocabulary = max_rows, shape.vocabulary
        self._model = MiniMaxForCausalLM(
            MiniMaxConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden_size,
                intermediate_size=shape.intermediate_size,
                num_hidden_layers=len(_LAYERS),
                num_attention_heads=shape.heads,
                num_key_value_heads=KV_HEADS,
                head_dim=shape.head_dim,
                layer_types=list(_LAYERS),
                num_local_experts=shape.experts,
                num_experts_per_tok=shape.experts_per_token,
                bos_token_id=1,
                eos_token_id=None,
                pad_token_id=0,
            )
        ).eval()

    def generate(self, lengths: Sequence[int]) -> Seconds:
        """Sample as many sequences as there are lengths, a batch to its longest."""
        start, first = time.perf_counter(), 0.0
        for batch_start in range(0, len(lengths), self._max_rows):
            watch = _FirstToken()
            self._generate(lengths[batch_start : batch_start + self._max_rows], watch)
            first = first or watch.at
        return Seconds(first - start, time.perf_counter() - first)

    def _generate(self, batch: Sequence[int], watch: "_FirstToken") -> None:
        prompts = torch.randint(1, self._vocabulary, (len(batch), PROMPT_TOKENS))
        output = self._model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            max_new_tokens=max(batch),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        assert output.shape[1] == PROMPT_TOKENS + max(batch)


class _FirstToken:
    """Notes when a generation has its first token; stops nothing."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self.at = self.at or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)
