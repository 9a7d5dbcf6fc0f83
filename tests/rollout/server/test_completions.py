"""The unmodified `openai` client asks for completions of a real engine."""

from itertools import chain

import pytest
import torch
from openai import OpenAI

from cispo.seeding import stream_seed
from rollout.backends.base import Finished, Request, SamplingParams
from tests.rollout.server.running import MODEL, POLICY, TOKENIZER, lightning_backend

PROMPT = "1 + 1 ="
IDS = {"return_token_ids": True}


def from_engine(prompt: str, *, seeds: tuple[int, ...], **knobs: object) -> list[Finished]:
    """What an engine of its own, without a server, makes of a prompt."""
    backend = lightning_backend()
    sampling = SamplingParams(**{"max_new_tokens": 20, **knobs})
    ids = tuple(TOKENIZER.encode(prompt))
    backend.start(Request(request_id=0, task_id="t", prompt=ids, seeds=seeds, sampling=sampling))
    finished: list[Finished] = []
    while backend.num_active:
        finished += backend.step()
    return sorted(finished, key=lambda member: member.member)


def test_a_completion_is_what_the_engine_samples(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL,
        prompt=PROMPT,
        max_tokens=20,
        temperature=0.8,
        top_p=0.9,
        seed=5,
        n=3,
        logprobs=2,
        extra_body={"top_k": 50, "min_p": 0.01, **IDS},
    )
    members = from_engine(
        PROMPT,
        seeds=tuple(stream_seed(5, member) for member in range(3)),
        temperature=0.8,
        top_p=0.9,
        top_k=50,
        min_p=0.01,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice, member in zip(answer.choices, members, strict=True):
        assert choice.token_ids == list(member.token_ids)
        assert sum(choice.logprobs.token_logprobs) == sum(member.full_logprobs)
        assert choice.finish_reason == ("length" if len(member.token_ids) == 20 else "stop")
    sampled = sum(len(member.token_ids) for member in members)
    assert answer.usage.completion_tokens == sampled
    assert answer.usage.prompt_tokens == len(TOKENIZER.encode(PROMPT))
    assert answer.usage.total_tokens == sampled + answer.usage.prompt_tokens


def test_the_likeliest_tokens_come_with_each_token(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, logprobs=3, seed=1)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert len(top) in (3, 4)
        assert top[token] == logprob
        assert max(top.values()) >= logprob
    starts = [answer.choices[0].text[offset:] for offset in logprobs.text_offset]
    assert all(s.startswith(t) for s, t in zip(starts, logprobs.tokens, strict=True))


def test_temperature_zero_takes_the_likeliest_token(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=12, temperature=0, extra_body=IDS
    )
    ids = [*TOKENIZER.encode(PROMPT), *answer.choices[0].token_ids]
    with torch.no_grad():
        hidden, _ = POLICY.hidden(torch.tensor(ids), torch.tensor([0, len(ids)]).int())
        likeliest = POLICY.logits(hidden).argmax(-1).tolist()
    assert likeliest[len(TOKENIZER.encode(PROMPT)) - 1 : -1] == answer.choices[0].token_ids


def test_prompts_come_as_texts_or_as_tokens_one_or_many(client: OpenAI) -> None:
    texts = [PROMPT, "2 + 3 ="]
    ids = [TOKENIZER.encode(text) for text in texts]

    def ask(prompt: object) -> list[str]:
        answer = client.completions.create(model=MODEL, prompt=prompt, seed=3, max_tokens=6)
        return [choice.text for choice in answer.choices]

    first, second = ask(texts)
    assert ask(ids) == [first, second]
    assert ask(PROMPT) == ask(ids[0]) == [first]
    assert ask(texts[::-1]) == [second, first]


def test_choices_of_many_prompts_are_numbered_prompt_by_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=[PROMPT, "2 + 3 ="], n=2, seed=3, max_tokens=4, extra_body=IDS
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = client.completions.create(
        model=MODEL, prompt="2 + 3 =", n=2, seed=3, max_tokens=4, extra_body=IDS
    )
    pairs = zip(answer.choices[2:], alone.choices, strict=True)
    assert all(one.token_ids == other.token_ids for one, other in pairs)
    assert answer.choices[2].prompt_token_ids == TOKENIZER.encode("2 + 3 =")


def test_a_stream_adds_up_to_the_answer(client: OpenAI) -> None:
    knobs = {"model": MODEL, "prompt": [PROMPT, "x"], "n": 2, "seed": 9, "max_tokens": 30}
    whole = client.completions.create(**knobs, logprobs=1)
    chunks = list(
        client.completions.create(
            **knobs, logprobs=1, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len(chunks) > 30
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        assert [p.finish_reason for p in mine if p.finish_reason] == [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            parts = chain.from_iterable(getattr(part.logprobs, name) for part in mine)
            assert list(parts) == getattr(choice.logprobs, name), name
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stop_text_ends_the_answer_and_never_shows(client: OpenAI) -> None:
    knobs = {"model": MODEL, "prompt": PROMPT, "seed": 2, "max_tokens": 40}
    free = client.completions.create(**knobs)
    text = free.choices[0].text
    stop = text[len(text) // 2 :][:5]
    cut = client.completions.create(**knobs, stop=["never said", stop])
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].stop_reason == "stop_string"
    assert cut.usage.completion_tokens < free.usage.completion_tokens
    parts = [c.choices[0].text for c in client.completions.create(**knobs, stop=stop, stream=True)]
    assert "".join(parts) == cut.choices[0].text


def test_an_echo_begins_with_the_prompt_and_what_it_was_worth(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=PROMPT, echo=True, logprobs=1, max_tokens=1, seed=1, extra_body=IDS
    )
    choice = answer.choices[0]
    assert choice.text.startswith(PROMPT)
    prompt = TOKENIZER.encode(PROMPT)
    ids = torch.tensor([*prompt, *choice.token_ids])
    scores = POLICY(ids, torch.tensor([0, len(ids)]).int(), torch.arange(len(ids)) > 0).logprobs
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(scores[1:].tolist(), abs=1e-4)
    assert choice.logprobs.top_logprobs[0] is None
    assert len(choice.logprobs.tokens) == len(ids)
    assert choice.text[choice.logprobs.text_offset[len(prompt)] :] == choice.text[len(PROMPT) :]


def test_a_streamed_echo_comes_once(client: OpenAI) -> None:
    knobs = {"model": MODEL, "prompt": PROMPT, "echo": True, "logprobs": 0, "seed": 1, "n": 2}
    whole = client.completions.create(**knobs)
    chunks = [chunk.choices[0] for chunk in client.completions.create(**knobs, stream=True)]
    for choice in whole.choices:
        mine = [chunk for chunk in chunks if chunk.index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        offsets = chain.from_iterable(part.logprobs.text_offset for part in mine)
        assert list(offsets) == choice.logprobs.text_offset


def test_an_echo_alone_samples_nothing(client: OpenAI) -> None:
    knobs = {"model": MODEL, "prompt": [PROMPT, "x y"], "echo": True, "logprobs": 1, "seed": 1}
    alone = client.completions.create(**knobs, max_tokens=0)
    more = client.completions.create(**knobs, max_tokens=1)
    assert [choice.text for choice in alone.choices] == [PROMPT, "x y"]
    assert alone.usage.completion_tokens == 0
    for choice, longer in zip(alone.choices, more.choices, strict=True):
        assert choice.logprobs.token_logprobs == longer.logprobs.token_logprobs[:-1]


def test_evaluation_by_likelihood_finds_what_the_policy_would_have_said(client: OpenAI) -> None:
    """Reads log-probabilities as lm-evaluation-harness does, from a request like its own."""
    context = TOKENIZER.encode(PROMPT)
    greedy = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=4, temperature=0, extra_body=IDS
    )
    said = greedy.choices[0].token_ids
    other = [*said[:-1], said[-1] - 1]
    answer = client.completions.create(
        model=MODEL,
        prompt=[[*context, *said], [*context, *other]],
        temperature=0,
        max_tokens=1,
        logprobs=1,
        seed=1234,
        echo=True,
    )
    likelihoods, is_greedy = [], []
    for choice in answer.choices:
        scored = slice(len(context), -1)
        logprobs, tops = (
            choice.logprobs.token_logprobs[scored],
            choice.logprobs.top_logprobs[scored],
        )
        likelihoods.append(sum(logprobs))
        is_greedy.append(all(p == max(t.values()) for p, t in zip(logprobs, tops, strict=True)))
    assert is_greedy == [True, False]
    assert likelihoods[0] > likelihoods[1]
