"""Lets generators take turns at the same lengths, each on several numbers of threads."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.generators import Engine, Seconds, Transformers
from benchmarks.step_limits import using_threads

Generator = Engine | Transformers
PEER = "transformers"

_Turn = dict[str, dict[int, Seconds]]


def contest(
    generators: Mapping[str, Generator],
    lengths: Sequence[int],
    *,
    threads: Sequence[int],
    rounds: int,
    rate: Callable[[Seconds], float],
) -> dict[str, Any]:
    """Compare generators, one of which is the peer of the others.

    Args:
        generators: By name.
        lengths: Tokens of each sequence.
        threads: Numbers of threads that each generator gets.
        rounds: Turns; all generators on all numbers of threads take one before the next begins.
        rate: Tokens a second of a generation of these lengths.

    Returns:
        Medians by name and number of threads; ratios to the peer are medians of ratios within a
        turn at equal threads, and, as `best`, the ratio of both sides' best medians.
    """
    for generator in generators.values():
        for count in threads:
            with using_threads(count):
                generator.generate([2] * min(len(lengths), 4))
    turns = [_turn(generators, lengths, threads) for _ in range(rounds)]
    rates = _medians(turns, rate)
    best_threads = {name: max(threads, key=rates[name].__getitem__) for name in generators}
    best = {name: rates[name][count] for name, count in best_threads.items()}
    ratios = {
        name: {
            **{
                count: statistics.median(
                    rate(turn[name][count]) / rate(turn[PEER][count]) for turn in turns
                )
                for count in threads
            },
            "best": best[name] / best[PEER],
        }
        for name in generators
        if name != PEER
    }
    return {
        "tokens_per_second": rates,
        "prompt_seconds": _medians(turns, lambda seconds: seconds.prompts),
        "best_threads": best_threads,
        f"over_{PEER}": ratios,
    }


def _turn(
    generators: Mapping[str, Generator], lengths: Sequence[int], threads: Sequence[int]
) -> _Turn:
    turn: _Turn = {name: {} for name in generators}
    for count in threads:
        for name, generator in generators.items():
            with using_threads(count):
                turn[name][count] = generator.generate(lengths)
    return turn


def _medians(
    turns: Sequence[_Turn], value: Callable[[Seconds], float]
) -> dict[str, dict[int, float]]:
    return {
        name: {
            count: statistics.median(value(turn[name][count]) for turn in turns) for count in counts
        }
        for name, counts in turns[0].items()
    }
