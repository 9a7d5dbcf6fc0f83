"""Stop texts, and budgets of thoughts and answers, from logits to what is handed back."""

from dataclasses import replace

import pytest
import torch

from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.types import PolicyVersion, StopReason
from rollout.backends.base import Finished, Request, StopRules
from rollout.sequences import Sequences
from rollout.thinking import thinking_limit
from rollout.token_text import THINKING_END, TokenText
from tests.rollout.engines import engine, make_request, run, text_engine

TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))
VOCABULARY = 1024
END = 1


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def play(
    scripts: list[list[int]], *requests: Request, repetition_tokens: int = 0
) -> list[Finished]:
    """Let rows draw the tokens of their scripts with certainty; a script goes on with its last."""
    stop = StopRules(
        token_ids=frozenset({END}),
        text=TokenText(TOKENIZER),
        repetition_tokens=repetition_tokens,
    )
    sequences = Sequences(len(scripts), vocabulary_size=VOCABULARY, stop=stop)
    version = PolicyVersion(1)
    for request in requests:
        sequences.admit(request, range(len(request.seeds)))
    finished: list[Finished] = []
    step = 0
    while sequences.num_active:
        logits = torch.full((sequences.num_active, VOCABULARY), -50.0)
        for row, owner in enumerate(sequences.owners):
            script = scripts[owner.request.request_id]
            logits[row, script[min(step, len(script) - 1)]] = 0.0
        ended = sequences.draw(logits, version)
        finished += sequences.finished(ended)
        sequences.retire(ended)
        step += 1
    return sorted(finished, key=lambda f: f.request_id)


def texts(members: list[Finished]) -> list[str]:
    return [TokenText(TOKENIZER).decode(member.token_ids) for member in members]


def test_a_stop_text_ends_a_sequence_across_tokens_and_characters() -> None:
    script = [
        *encode("The café is open.")[:-1],
        *encode("\n"),
        *encode("Obser"),
        *encode("vation!"),
    ]
    cases = [("é",), ("\nObservation",), ("missing", "is op"), ("missing",), ()]
    members = play([script] * 5, *(make_request(n, stop=stop) for n, stop in enumerate(cases)))
    found = texts(members)
    assert found[0].endswith("caf\u00e9")
    assert found[0].count("é") == 1
    assert "\nObservation" in found[1]
    assert "is op" in found[2]
    assert len(found[2]) < len("The café is open")
    stopped, cut = StopReason.STOP_STRING, StopReason.LENGTH
    assert [member.stop_reason for member in members] == [stopped, stopped, stopped, cut, cut]
    for member in members[:3]:
        text = TokenText(TOKENIZER).decode(member.token_ids[:-1])
        assert not any(stop in text for stop in cases[member.request_id])
        assert member.token_ids == script[: len(member.token_ids)]


def test_a_stop_text_is_not_looked_for_in_the_prompt() -> None:
    prompt = tuple(encode("stop her"))
    (member,) = play([[*encode("e we go"), END]], make_request(prompt=prompt, stop=("stop here",)))
    assert member.stop_reason is StopReason.END_OF_TURN


def test_an_exhausted_thinking_budget_is_closed_by_the_engine() -> None:
    a = encode("a")[0]
    members = play(
        [[a], [a]],
        make_request(0, max_thinking_tokens=5, max_answer_tokens=3, max_new_tokens=50),
        make_request(1, max_thinking_tokens=5, max_new_tokens=10),
    )
    closing = encode(THINKING_END)
    assert members[0].token_ids == [a] * 5 + closing + [a] * 3
    assert members[1].token_ids == [a] * 5 + closing + [a] * (5 - len(closing))
    for member in members:
        assert member.stop_reason is StopReason.LENGTH
        forced = slice(5, 5 + len(closing))
        assert list(member.is_sampled[forced]) == [False] * len(closing)
        assert sum(member.is_sampled) == len(member.token_ids) - len(closing)
        assert list(member.logprobs[forced]) == [0.0] * len(closing)
        assert list(member.full_logprobs[forced]) == [0.0] * len(closing)


@pytest.mark.parametrize("before", [2, 5])
def test_thoughts_that_end_in_time_are_left_alone(before: int) -> None:
    # also where </think> is written by several tokens, the last of them within the budget
    a = encode("a")[0]
    parts = [*encode("</"), *encode("think"), *encode(">")]
    assert len(parts) > 1
    script = [a] * before + parts + [a]
    (member,) = play(
        [script],
        make_request(
            max_thinking_tokens=before + len(parts), max_answer_tokens=4, max_new_tokens=50
        ),
    )
    assert member.token_ids == [a] * before + parts + [a] * 4
    assert all(member.is_sampled)


def test_an_answer_budget_alone_counts_from_the_end_of_thoughts() -> None:
    a = encode("a")[0]
    script = [a, a, a, *encode(THINKING_END), a]
    thinking, answering = play(
        [[a], script], *(make_request(n, max_answer_tokens=2, max_new_tokens=20) for n in (0, 1))
    )
    assert len(thinking.token_ids) == 20
    assert answering.token_ids == [*script, a]


def test_a_stop_text_may_be_the_end_of_thoughts() -> None:
    a = encode("a")[0]
    (member,) = play([[a]], make_request(max_thinking_tokens=3, stop=(THINKING_END,)))
    assert member.stop_reason is StopReason.STOP_STRING
    assert member.token_ids == [a] * 3 + encode(THINKING_END)


def test_forced_tokens_are_no_repetition() -> None:
    a = encode("a")[0]
    (member,) = play(
        [[a]], make_request(max_thinking_tokens=3, max_new_tokens=50), repetition_tokens=5
    )
    # three certain tokens, a forced end, and five certain tokens
    assert len(member.token_ids) == 3 + len(encode(THINKING_END)) + 5
    assert member.stop_reason is StopReason.REPETITION


PHRASE = "Okay, time is up. Let me stop thinking and formulate a final answer now. </think>"


def test_the_place_of_an_interruption_is_drawn_within_the_range_by_the_members_seed() -> None:
    params = make_request(max_thinking_tokens=12, thinking_jitter_tokens=2).sampling
    found = [thinking_limit(params, seed=seed) for seed in range(3000)]
    assert found == [thinking_limit(params, seed=seed) for seed in range(3000)]
    counts = {place: found.count(place) for place in set(found)}
    assert sorted(counts) == [10, 11, 12]
    assert all(900 < count < 1100 for count in counts.values()), counts
    still = replace(params, thinking_jitter_tokens=0)
    assert {thinking_limit(still, seed=seed) for seed in range(9)} == {12}


def test_an_interruption_is_written_whole_at_its_place_and_the_answer_follows() -> None:
    a = encode("a")[0]
    seeds = tuple(range(6))
    knobs = {"thinking_jitter_tokens": 6, "interruption": PHRASE, "max_answer_tokens": 3}
    request = make_request(seeds=seeds, max_thinking_tokens=9, max_new_tokens=99, **knobs)
    members = play([[a]] * 6, request)
    phrase = encode(PHRASE)
    places = []
    for member in members:
        place = thinking_limit(request.sampling, seed=seeds[member.member])
        assert member.token_ids == [a] * place + phrase + [a] * 3
        assert member.is_sampled == [True] * place + [False] * len(phrase) + [True] * 3
        assert list(member.logprobs[place : place + len(phrase)]) == [0.0] * len(phrase)
        places.append(place)
    assert len(set(places)) > 2


def test_rows_with_other_interruptions_share_a_step() -> None:
    a = encode("a")[0]
    knobs = {"max_thinking_tokens": 4, "max_answer_tokens": 2, "max_new_tokens": 60}
    members = play(
        [[a]] * 4,
        make_request(0, interruption="Stop. </think>", **knobs),
        make_request(1, max_new_tokens=60),
        make_request(2, interruption=PHRASE, **knobs),
        make_request(3, **knobs),
    )
    closings = [encode("Stop. </think>"), None, encode(PHRASE), encode(THINKING_END)]
    for member, closing in zip(members, closings, strict=True):
        expected = [a] * 60 if closing is None else [a] * 4 + closing + [a] * 2
        assert member.token_ids == expected
        assert member.is_sampled.count(False) == len(closing or ())


def test_a_suspended_member_is_interrupted_where_it_would_have_been() -> None:
    knobs = {"max_thinking_tokens": 20, "thinking_jitter_tokens": 9, "interruption": PHRASE}
    request = make_request(seeds=(3,), max_new_tokens=70, **knobs)
    expected = run(text_engine()[0], request)[0, 0]
    assert False in expected.is_sampled
    backend, _ = text_engine(3)
    backend.start(make_request(1, seeds=(8, 9), max_new_tokens=12))
    backend.start(request)
    finished = []
    for _ in range(25):
        finished += backend.step()
    backend.resume(backend.suspend(0))
    while backend.num_active:
        finished += backend.step()
    (member,) = (f for f in finished if f.request_id == 0)
    assert (member.token_ids, member.logprobs) == (expected.token_ids, expected.logprobs)
    assert member.is_sampled == expected.is_sampled


def test_an_engine_forces_the_end_of_thoughts_and_goes_on_from_it() -> None:
    backend, _ = text_engine()
    knobs = {"max_thinking_tokens": 6, "max_answer_tokens": 8, "max_new_tokens": 40}
    finished = run(backend, make_request(seeds=tuple(range(6)), stream=True, **knobs))
    increments = backend.increments()
    closing = encode(THINKING_END)
    for member in finished.values():
        assert member.token_ids[6 : 6 + len(closing)] == closing
        assert len(member.token_ids) == 6 + len(closing) + 8
        mine = [t for i in increments if i.member == member.member for t in i.token_ids]
        assert mine == member.token_ids
    # the answer depends on the forced tokens: the model's own log-probabilities say so
    member = finished[0, 0]
    ids = torch.tensor([5, 6, 7, *member.token_ids])
    is_action = torch.tensor([False] * 3 + list(member.is_sampled))
    with torch.no_grad():
        scores = backend._model(ids, torch.tensor([0, len(ids)]), is_action)
    assert (scores.logprobs[3:] - torch.tensor(member.logprobs)).abs().max() < 1e-4


def test_texts_and_budgets_survive_company_and_suspension() -> None:
    plain, text = text_engine()
    reference = run(plain, make_request(seeds=(3,), max_new_tokens=40))[0, 0]
    written = text.decode(reference.token_ids[10:14])
    knobs = {"stop": (written,), "max_thinking_tokens": 25, "max_new_tokens": 40}
    expected = run(text_engine()[0], make_request(seeds=(3,), **knobs))[0, 0]
    assert expected.stop_reason is StopReason.STOP_STRING
    assert len(expected.token_ids) <= 14
    backend, _ = text_engine(3)
    for n in range(1, 4):
        backend.start(make_request(n, seeds=(n, n + 50), max_new_tokens=5 * n, stop=("qq",)))
    backend.start(make_request(seeds=(3,), **knobs))
    finished = []
    for _ in range(9):
        finished += backend.step()
    backend.resume(backend.suspend(0))
    while backend.num_active:
        finished += backend.step()
    (member,) = (f for f in finished if f.request_id == 0)
    assert (member.token_ids, member.logprobs) == (expected.token_ids, expected.logprobs)


def test_an_engine_without_a_tokenizer_refuses_texts() -> None:
    with pytest.raises(ValueError, match="stop="):
        engine().start(make_request(stop=("x",)))
    with pytest.raises(ValueError, match="max_thinking_tokens=3"):
        engine().start(make_request(max_thinking_tokens=3))
