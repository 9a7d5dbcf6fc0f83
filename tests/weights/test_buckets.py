import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cispo.errors import WeightSyncError
from cispo.weights.arrival import Arrival, apply_buckets
from cispo.weights.buckets import (
    WeightBucket,
    export_checksum,
    exported_tensors,
    make_bucket,
    plan_buckets,
    to_buckets,
)


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2, bias=False))
    layers.register_parameter("scale", nn.Parameter(torch.randn(())))
    return layers.to(dtype)


def export(source: nn.Module, *, max_bytes: int = 64) -> list[WeightBucket]:
    return list(to_buckets(exported_tensors(source), max_bytes=max_bytes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_bytes", [1, 64, 10**6])
def test_an_export_arrives_to_the_bit(dtype: torch.dtype, max_bytes: int) -> None:
    source, target = model(1, dtype), model(2, dtype)
    buckets = export(source, max_bytes=max_bytes)
    crossed = [pickle.loads(pickle.dumps(bucket, protocol=5)) for bucket in buckets]
    checksum = apply_buckets(target, crossed)
    assert checksum == export_checksum([bucket.checksum for bucket in buckets])
    for ours, theirs in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_engine_of_another_dtype_gets_rounded_weights() -> None:
    source, target = model(1), model(2, torch.bfloat16)
    apply_buckets(target, export(source))
    for ours, theirs in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(ours.bfloat16(), theirs)


def test_a_read_only_buffer_will_do() -> None:
    source, target = model(1), model(2)
    buckets = export(source)
    for bucket in buckets:
        bucket.buffer.setflags(write=False)
    apply_buckets(target, buckets)
    assert torch.equal(source[0].weight, target[0].weight)


def test_a_bucket_holds_a_copy_and_not_the_living_weights() -> None:
    source = model(1)
    buckets = export(source)
    with torch.no_grad():
        source[0].weight.zero_()
    for bucket in buckets:
        bucket.verify()
    assert dict(buckets[0].tensors())["scale"].shape == ()


def test_tied_and_transposed_weights_are_sent_once_and_in_order() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 3)
            self.head = nn.Linear(3, 4, bias=False)
            self.head.weight = self.embedding.weight
            self.turned = nn.Parameter(torch.randn(2, 5).t())

    source, target = Tied(), Tied()
    assert list(exported_tensors(source)) == ["turned", "embedding.weight"]
    apply_buckets(target, export(source))
    assert torch.equal(source.turned, target.turned)
    assert torch.equal(source.head.weight, target.head.weight)


@pytest.mark.parametrize("position", [0, 7, -1])
def test_one_flipped_bit_is_found_and_the_tensors_are_named(position: int) -> None:
    source, target = model(1), model(2)
    buckets = export(source)
    buckets[1].buffer[position] ^= 1
    with pytest.raises(WeightSyncError, match=rf"bucket 2 of {len(buckets)} \(.*has checksum"):
        apply_buckets(target, buckets)


@pytest.mark.parametrize("field", ["names", "shapes", "dtypes", "index", "total"])
def test_a_changed_header_is_found(field: str) -> None:
    bucket = make_bucket({"a": torch.ones(2, 3), "b": torch.ones(6)}, index=0, total=1)
    changes = {
        "names": ("b", "a"),
        "shapes": ((3, 2), (6,)),
        "dtypes": ("int32", "float32"),
        "index": 1,
        "total": 2,
    }
    changed = dataclasses.replace(bucket, **{field: changes[field]})  # type: ignore[arg-type]
    with pytest.raises(WeightSyncError, match="has checksum"):
        changed.verify()


def test_a_missing_repeated_or_misplaced_bucket_is_refused() -> None:
    source = model(1)
    buckets = export(source)
    assert len(buckets) > 2
    for wrong in (buckets[:-1], [], [buckets[1], buckets[0], *buckets[2:]], [buckets[0]] * 2):
        with pytest.raises(WeightSyncError, match="arrived"):
            apply_buckets(model(2), wrong)


def test_another_model_is_refused_by_the_name_of_the_tensor() -> None:
    with pytest.raises(WeightSyncError, match=r"0\.weight arrived with shape"):
        apply_buckets(nn.Sequential(nn.Linear(4, 4)), export(nn.Sequential(nn.Linear(3, 4))))
    with pytest.raises(WeightSyncError, match=r"sent 0\.weight, which"):
        apply_buckets(nn.Linear(3, 4), export(nn.Sequential(nn.Linear(3, 4))))
    with pytest.raises(WeightSyncError, match=r"did not send 1 parameters, among them bias"):
        apply_buckets(nn.Linear(3, 4), export(nn.Linear(3, 4, bias=False)))


@given(sizes=st.lists(st.integers(0, 100), min_size=1, max_size=30), limit=st.integers(1, 200))
def test_buckets_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    named = {f"t{i}": size for i, size in enumerate(sizes)}
    plan = plan_buckets(named, max_bytes=limit)
    assert [name for names in plan for name in names] == list(named)
    for names in plan:
        padded = sum(-(-named[name] // 16) * 16 for name in names)
        assert len(names) == 1 or padded <= limit


def test_checksums_depend_on_every_byte_and_on_nothing_else() -> None:
    first, again = export(model(1)), export(model(1))
    assert [b.checksum for b in first] == [b.checksum for b in again]
    other = export(model(2))
    assert first[0].checksum != other[0].checksum
    assert np.shares_memory(first[0].buffer, next(first[0].tensors())[1].numpy())


def test_a_held_arrival_was_verified_before_any_of_it_is_used_and_is_not_verified_again() -> None:
    buckets = export(model(1))
    target = model(2)
    before = [parameter.clone() for parameter in target.parameters()]
    buckets[-1].buffer[0] ^= 1
    arrival = Arrival(iter(buckets))
    with pytest.raises(WeightSyncError, match="has checksum"):
        arrival.hold()
    assert all(map(torch.equal, before, target.parameters()))
    buckets[-1].buffer[0] ^= 1
    arrival = Arrival(iter(buckets))
    arrival.hold()
    buckets[-1].buffer[0] ^= 1  # cannot happen any more, and is not looked for
    assert apply_buckets(target, arrival) == export_checksum([b.checksum for b in buckets])


def test_a_buffer_that_is_used_again_leaves_nothing_of_its_former_contents() -> None:
    source = {"a": torch.arange(3, dtype=torch.uint8), "b": torch.ones(5)}
    dirty = torch.full((1000,), 255, dtype=torch.uint8)
    [reused] = to_buckets(source, max_bytes=10**6, allocate=lambda size: dirty[:size])
    [fresh] = to_buckets(source, max_bytes=10**6)
    assert reused.checksum == fresh.checksum
    assert reused.num_bytes == reused.buffer.nbytes == 16 + 32
