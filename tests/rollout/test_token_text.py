"""Texts that are found in what is sampled."""

import random

import pytest
import torch

from cispo.policy.load import bundled_tokenizer, load_tokenizer
from rollout.token_text import TextWatch, TokenText

TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))
TEXT = TokenText(TOKENIZER)
SIZE = 1030
CORPUS = (
    "<think>\nThe café's naïve façade → 12 × 3 = 36.\n\n</think>\nThe answer is \\boxed{36}.\n\n",
    "Observation: 日本語 and the end\nObservation: ÿ",
)


def tokens_of(text: str, seed: int) -> list[int]:
    """One of many ways to write a text: pieces of it are encoded by themselves."""
    chosen, ids, start = random.Random(seed), [], 0
    while start < len(text):
        stop = start + chosen.randint(1, 6)
        ids += TOKENIZER.encode(text[start:stop], add_special_tokens=False)
        start = stop
    return ids


@pytest.mark.parametrize(
    "stop", ["\n\n", "</think>", "é", "→", "answer is", "Observation:", "日本", " = ", "36", "ÿ"]
)
def test_no_token_that_completes_a_text_is_missed(stop: str) -> None:
    may = TEXT.may_complete(stop, SIZE)
    assert len(may) == SIZE
    completed = 0
    for text in CORPUS:
        for seed in range(30):
            ids = tokens_of(text, seed)
            counts = [TEXT.decode(ids[:n]).count(stop) for n in range(len(ids) + 1)]
            for n, token in enumerate(ids):
                if counts[n + 1] > counts[n]:
                    completed += 1
                    assert may[token]
    assert completed >= 30


def test_few_tokens_may_complete_a_text() -> None:
    may = TEXT.may_complete("</think>", len(TOKENIZER))
    assert may.sum() < 20
    assert may[TOKENIZER.convert_tokens_to_ids("</think>")]
    assert may[TOKENIZER.convert_tokens_to_ids(">")]
    assert not may[TOKENIZER.convert_tokens_to_ids("a")]


def test_a_row_looks_only_for_its_own_texts() -> None:
    watch = TextWatch(TEXT, 4, vocabulary_size=SIZE)
    newline, dot = (TOKENIZER.encode(text, add_special_tokens=False)[0] for text in ("\n", "."))
    watch.watch(1, ("\n",))
    watch.watch(2, (".", "é"))
    assert watch.candidates(torch.tensor([newline, newline, newline, newline])) == [1]
    assert watch.candidates(torch.tensor([dot, dot, dot])) == [2]
    assert watch.found(2, TOKENIZER.encode("Café.", add_special_tokens=False)) == [".", "é"]
    assert watch.tail(2) >= 2
    watch.watch(2, ())
    watch.watch(1, ())
    assert watch.num_watching == 0
    assert watch.candidates(torch.tensor([dot, dot, dot])) == []


def test_texts_that_nobody_waits_for_are_forgotten() -> None:
    watch = TextWatch(TEXT, 2, vocabulary_size=SIZE)
    watch.watch(1, ("kept.",))
    for number in range(100):
        watch.watch(0, (f"stop {number}",))
    assert len(watch._tables) < 30
    dot, nine = (TOKENIZER.encode(text, add_special_tokens=False)[0] for text in (".", "9"))
    assert watch.candidates(torch.tensor([nine, dot])) == [0, 1]
