"""Small engines that several tests share."""

from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.weights.buckets import WeightBucket, exported_tensors, to_buckets
from rollout.backends.base import Finished, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.token_text import TokenText

STOP = 2
ARCHITECTURE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "rotary_dim": 8,
}


def model(*, num_experts: int = 1, seed: int = 0, vocab_size: int = 70) -> LightningModel:
    config = LightningConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        layer_types=("linear_attention", "full_attention", "linear_attention"),
        rotary_dim=8,
        num_local_experts=num_experts,
        num_experts_per_tok=min(2, num_experts),
        initializer_range=0.5,
    )
    made = LightningModel(config)
    made.initialise(seed)
    return made


def buckets(seed: int) -> list[WeightBucket]:
    return list(to_buckets(exported_tensors(model(seed=seed)), max_bytes=10_000))


def engine(
    max_sequences: int = 8, *, num_experts: int = 1, stops: bool = True, **knobs: object
) -> LightningBackend:
    rules = StopRules(token_ids=frozenset({STOP}) if stops else frozenset())
    made = model(num_experts=num_experts)
    return LightningBackend(made, rules, max_sequences=max_sequences, **knobs)


def text_engine(max_sequences: int = 8, **knobs: object) -> tuple[LightningBackend, TokenText]:
    """An engine of the bundled tokenizer, whose turns only end by their texts or budgets."""
    text = TokenText(load_tokenizer(str(bundled_tokenizer("bpe1024"))))
    made = model(vocab_size=1024)
    rules = StopRules(token_ids=frozenset(), text=text)
    return LightningBackend(made, rules, max_sequences=max_sequences, **knobs), text


def make_request(
    request_id: int = 0,
    *,
    prompt: tuple[int, ...] = (5, 6, 7),
    seeds: tuple[int, ...] = (1,),
    max_new_tokens: int = 30,
    stream: bool = False,
    **knobs: object,
) -> Request:
    return Request(
        request_id=request_id,
        task_id=f"task-{request_id}",
        prompt=prompt,
        seeds=seeds,
        sampling=SamplingParams(max_new_tokens=max_new_tokens, **knobs),
        stream=stream,
    )


def mixed_request(index: int, *, max_new_tokens: int = 80) -> Request:
    """One of many different requests, with other prompts, seeds and sampling."""
    knobs = [{}, {"top_p": 0.9}, {"temperature": 0.8}, {"top_k": 4}, {"min_p": 0.05}][index % 5]
    return make_request(
        index,
        prompt=tuple((7 * index + 3 * i) % 60 + 3 for i in range(1 + 11 * (index % 7))),
        seeds=tuple(100 * index + member for member in range(1 + index % 4)),
        max_new_tokens=max_new_tokens,
        **knobs,
    )


def long_prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple((i * (seed + 7) + i // 13) % 60 + 3 for i in range(length))


def finish(backend: LightningBackend) -> list[Finished]:
    finished: list[Finished] = []
    while backend.num_active:
        finished += backend.step()
    return finished


def run(backend: LightningBackend, *requests: Request) -> dict[tuple[int, int], Finished]:
    for request in requests:
        backend.start(request)
    return {(f.request_id, f.member): f for f in finish(backend)}


def bits(finished: list[Finished]) -> dict[tuple[int, int], tuple[object, ...]]:
    return {(f.request_id, f.member): (f.token_ids, f.logprobs, f.stop_reason) for f in finished}
