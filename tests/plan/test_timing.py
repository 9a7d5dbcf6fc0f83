from dataclasses import replace
from typing import Any

import pytest

from cispo.config.machine import MachineConfig
from cispo.errors import ConfigError
from cispo.plan.flops import cost
from cispo.plan.lengths import Lengths
from cispo.plan.published import M1
from cispo.plan.timing import LearnTime, decode_step_seconds, learn_time, publish_seconds

MACHINE = MachineConfig(
    name="round",
    flops_per_second=1e15,
    memory_bytes=1e11,
    memory_bytes_per_second=1e12,
    host_memory_bytes=1e12,
    link_bytes_per_second=1e11,
    decode_fraction=0.5,
    prefill_fraction=0.5,
    learn_fraction=0.5,
    link_fraction=0.5,
    step_seconds=0.001,
    pass_seconds=0.1,
    publish_seconds=2.0,
)


def learn(**changes: Any) -> LearnTime:
    settings: dict[str, Any] = {
        "lengths": [1000.0],
        "num_rollouts": 64,
        "num_updates": 4,
        "micro_batch_tokens": 4000,
        "num_ranks": 4,
        "devices_per_rank": 1,
        "sequence_parallel": 2,
        "zero_stage": 3,
        "recompute_layers": True,
        "number_bytes": 2,
        "is_offloaded": False,
    }
    return learn_time(M1, MACHINE, **{**settings, **changes})


def step(num_sequences: int, context_tokens: float = 0.0) -> float:
    return decode_step_seconds(
        M1,
        MACHINE,
        num_sequences=num_sequences,
        context_tokens=context_tokens,
        number_bytes=2,
        num_devices=10,
    )


def test_one_sequence_reads_the_active_weights_and_its_state() -> None:
    active = M1.active_parameters_with_head
    read = 2 * active + 2 * 280 * 2**20
    assert step(1) == pytest.approx(0.001 + read / (1e12 * 0.5 * 10))


def test_many_sequences_read_all_weights_once_and_their_own_caches() -> None:
    many, context = 1000, 5000.0
    read = 2 * (M1.parameters - 200_064 * 6144) + many * (2 * 280 * 2**20 + context * 40_960)
    assert step(many, context) == pytest.approx(0.001 + read / (1e12 * 0.5 * 10))


def test_a_step_takes_longer_with_more_sequences_but_less_for_each() -> None:
    assert step(1) < step(8) < 8 * step(1)


def test_an_update_computes_four_forward_passes_where_layers_are_recomputed() -> None:
    operations = cost(M1).total(1000) * 64
    assert learn().compute == pytest.approx(4 * operations / (1e15 * 0.5 * 4))
    assert learn(recompute_layers=False).compute == pytest.approx(0.75 * learn().compute)


def test_passes_follow_from_tokens_rows_and_updates() -> None:
    # 16,000 tokens an update over 2 rows of 4,000: two passes, in four updates.
    assert learn().num_passes == 8
    assert learn().constant == pytest.approx(0.8)
    assert learn(num_updates=64).num_passes == 64  # an update has at least one


def test_stage_3_sends_the_weights_three_times_a_pass() -> None:
    assert learn().communication == pytest.approx(3 * 2 * M1.parameters * 8 / (1e11 * 0.5))
    assert learn(num_ranks=1, sequence_parallel=1).communication == 0.0


def test_computing_and_sending_go_on_at_once() -> None:
    time = LearnTime(compute=3.0, communication=5.0, optimizer=1.0, constant=0.5, num_passes=1)
    assert time.total == 6.5


@pytest.mark.parametrize(("transport", "copies"), [("collective", 1), ("object_store", 4)])
def test_the_object_store_passes_copies_on(transport: str, copies: int) -> None:
    found = publish_seconds(M1, MACHINE, number_bytes=2, num_engines=15, transport=transport)
    assert found == pytest.approx(2.0 + copies * 912_210_767_872 / (1e11 * 0.5))


@pytest.mark.parametrize(("mean", "spread"), [(100.0, 0.0), (100.0, 0.6), (700.0, 1.0)])
def test_rollouts_have_the_mean_that_was_asked_for(mean: float, spread: float) -> None:
    some = Lengths(mean_tokens=mean, spread=spread, budget_tokens=1000).spread_out(4000)
    assert sum(some) / len(some) == pytest.approx(mean, rel=2e-3)
    assert max(some) <= 1000
    assert list(some) == sorted(some)


def test_the_share_that_the_budget_cuts_is_that_of_the_lengths() -> None:
    lengths = Lengths(mean_tokens=700.0, spread=1.0, budget_tokens=1000)
    some = lengths.spread_out(4000)
    cut = sum(n >= 1000 for n in some) / len(some)
    assert lengths.cut_fraction() == pytest.approx(cut, abs=1e-3)
    assert lengths.quantile(0.999) == 1000


@pytest.mark.parametrize("mean", [0.5, 1001.0])
def test_a_mean_beyond_the_budget_is_refused(mean: float) -> None:
    with pytest.raises(ConfigError, match=r"assume\.mean_tokens"):
        Lengths(mean_tokens=mean, spread=0.5, budget_tokens=1000)


@pytest.mark.parametrize(
    ("key", "value"),
    [("flops_per_second", 0.0), ("learn_fraction", 1.5), ("memory_margin", 1.0)],
)
def test_a_machine_that_cannot_be_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"machine\.{key}"):
        replace(MACHINE, **{key: value})
