"""How prompts are read: in pieces, beside decoding, and not twice."""

import pytest

from cispo.types import PolicyVersion
from tests.rollout.engines import (
    bits,
    buckets,
    engine,
    finish,
    long_prompt,
    make_request,
    mixed_request,
    run,
)

CACHE = 2**24


def test_a_long_prompt_does_not_stall_running_sequences() -> None:
    backend = engine(8, stops=False)
    backend.start(make_request(0, seeds=(1, 2, 3), max_new_tokens=100))
    backend.step()
    backend.start(make_request(1, prompt=long_prompt(7000)))
    read = []
    while backend.statistics.prefill_tokens < 3 + 7000:
        before = backend.statistics.sampled_tokens, backend.statistics.prefill_tokens
        backend.step()
        assert backend.statistics.sampled_tokens - before[0] >= 3
        read.append(backend.statistics.prefill_tokens - before[1])
    assert max(read) <= 2048
    assert len(read) == 4


def test_a_short_prompt_passes_a_long_one() -> None:
    backend = engine(8, stops=False)
    backend.start(make_request(0, prompt=long_prompt(7000), max_new_tokens=2))
    backend.start(make_request(1, max_new_tokens=2))
    assert [f.request_id for f in backend.step() + backend.step()] == [1]
    assert [f.request_id for f in finish(backend)] == [0]


@pytest.mark.parametrize("length", [511, 512, 513, 1300])
def test_a_prompt_in_pieces_has_the_same_bits_in_any_company(length: int) -> None:
    def long(request_id: int = 9):
        return make_request(request_id, prompt=long_prompt(length), seeds=(1, 2))

    alone = run(engine(20), long())
    backend = engine(7)
    crowd = [mixed_request(index, max_new_tokens=10) for index in range(4)]
    others = [make_request(20 + n, prompt=long_prompt(900, n), seeds=(n,)) for n in range(4)]
    among = run(backend, *others[:2], *crowd, long(), *others[2:])
    for member in (0, 1):
        assert among[9, member].token_ids == alone[9, member].token_ids
        assert among[9, member].logprobs == alone[9, member].logprobs


def test_a_kept_prompt_is_not_computed_again_and_gives_the_same_bits() -> None:
    prompt = long_prompt(1300)
    expected = bits(list(run(engine(), make_request(1, prompt=prompt, seeds=(1, 2))).values()))
    backend = engine(prefix_cache_bytes=CACHE)
    run(backend, make_request(0, prompt=prompt, seeds=(7,)))
    again = run(backend, make_request(1, prompt=prompt, seeds=(1, 2)))
    assert bits(list(again.values())) == expected
    statistics = backend.statistics
    assert (statistics.prefill_tokens, statistics.prefix_saved_tokens) == (1300, 1300)
    assert statistics.prefix_hits == 1
    assert statistics.prefix_bytes > 0


def test_prompts_that_begin_alike_share_what_is_alike() -> None:
    first, second = long_prompt(1300), (*long_prompt(1200), *long_prompt(300, 5))
    expected = bits(list(run(engine(), make_request(1, prompt=second)).values()))
    backend = engine(prefix_cache_bytes=CACHE)
    run(backend, make_request(0, prompt=first))
    assert bits(list(run(backend, make_request(1, prompt=second)).values())) == expected
    assert backend.statistics.prefix_saved_tokens == 1024  # two pieces of 512


def test_equal_prompts_that_wait_together_are_computed_once() -> None:
    prompt = long_prompt(1300)
    backend = engine(prefix_cache_bytes=CACHE)
    together = run(backend, *(make_request(n, prompt=prompt, seeds=(n,)) for n in range(3)))
    assert backend.statistics.prefill_tokens == 1300
    for n in range(3):
        alone = run(engine(), make_request(0, prompt=prompt, seeds=(n,)))
        assert together[n, 0].logprobs == alone[0, 0].logprobs


def test_without_room_nothing_is_kept() -> None:
    backend = engine()
    for n in range(2):
        run(backend, make_request(n, prompt=long_prompt(600)))
    assert backend.statistics.prefill_tokens == 1200
    assert backend.statistics.prefix_bytes == backend.statistics.prefix_hits == 0


def test_new_weights_forget_what_the_old_ones_read() -> None:
    backend, fresh = engine(prefix_cache_bytes=CACHE), engine()
    request = make_request(1, prompt=long_prompt(600))
    run(backend, make_request(0, prompt=long_prompt(600)))
    for each in (backend, fresh):
        each.load_weights(PolicyVersion(1), buckets(4))
    assert backend.statistics.prefix_bytes == backend.statistics.pages_used == 0
    assert bits(list(run(backend, request).values())) == bits(list(run(fresh, request).values()))
    assert backend.statistics.prefix_hits == 0


def test_the_memory_of_the_cache_is_bounded() -> None:
    roomy = engine(prefix_cache_bytes=CACHE)
    run(roomy, make_request(0, prompt=long_prompt(600)))
    one_prompt = roomy.statistics.prefix_bytes
    backend = engine(prefix_cache_bytes=2 * one_prompt)
    for n in range(5):
        run(backend, make_request(n, prompt=long_prompt(600, n)))
        assert backend.statistics.prefix_bytes <= 2 * one_prompt
    assert backend.statistics.prefix_evictions == 3 * 2  # a prompt leaves two pieces
    run(backend, make_request(9, prompt=long_prompt(600, 4)))
    run(backend, make_request(9, prompt=long_prompt(600, 0)))
    assert backend.statistics.prefix_hits == 1


def test_what_is_used_stays_and_the_rest_of_a_prompt_goes_before_its_beginning() -> None:
    roomy = engine(prefix_cache_bytes=CACHE)
    run(roomy, make_request(0, prompt=long_prompt(600)))
    backend = engine(prefix_cache_bytes=2 * roomy.statistics.prefix_bytes - 1)
    shared = long_prompt(600)
    run(backend, make_request(0, prompt=shared))
    run(backend, make_request(1, prompt=long_prompt(300, 1)))
    run(backend, make_request(2, prompt=shared))  # used again: now the other one is the oldest
    run(backend, make_request(3, prompt=long_prompt(512, 2)))
    saved = backend.statistics.prefix_saved_tokens
    run(backend, make_request(4, prompt=(*shared[:512], 9)))
    assert backend.statistics.prefix_saved_tokens == saved + 512


def test_all_pages_return_when_nothing_runs() -> None:
    backend = engine(5, prefix_cache_bytes=0)
    run(backend, *(mixed_request(index) for index in range(6)))
    backend.start(make_request(50, prompt=long_prompt(3000), seeds=tuple(range(9))))
    backend.step()
    backend.abort(50)
    # rows that only pad a step keep one page each
    assert backend.statistics.pages_used <= 16
