"""A saved learner's weights and moments by parameter, whoever saved it and over how many ranks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cispo.errors import CheckpointError
from cispo.learner.saved import Note, read_any_note

LOCAL_FILE = "learner.pt"
DEEPSPEED_TAG = "deepspeed"
ORDER = "parameters"
"""Where a learner whose optimizer is saved whole keeps its parameters' names, in order."""

MOMENTS = ("exp_avg", "exp_avg_sq")
STATES = ("fp32", *MOMENTS)

Parameter: TypeAlias = tuple[str, Mapping[str, Tensor]]
_Flat: TypeAlias = Mapping[str, Tensor]


def parameter_names(checkpoint: Path) -> list[str]:
    """Names of the parameters, in the order of `read_parameters`.

    Raises:
        CheckpointError: There is no saved learner, or it is incomplete.
    """
    note = read_any_note(checkpoint)
    if is_whole(note):
        return list(whole_file(checkpoint, note)[ORDER])
    return [name for shapes in _shapes(checkpoint / DEEPSPEED_TAG) for name in shapes]


def read_parameters(checkpoint: Path, *, only: Sequence[str] = STATES) -> Iterator[Parameter]:
    """Yield each parameter's name with its states in full; files are mapped, not read at once.

    Args:
        checkpoint: Folder of a checkpoint.
        only: Of `STATES`, those that are wanted.

    Raises:
        CheckpointError: There is no saved learner, or it is incomplete.
    """
    note = read_any_note(checkpoint)
    if is_whole(note):
        yield from _whole(checkpoint, note)
        return
    folder = checkpoint / DEEPSPEED_TAG
    states = [load(file)["optimizer_state_dict"] for file in _shard_files(folder, note)]
    for group, shapes in enumerate(_shapes(folder)):
        if note.shape["zero_stage"] == 3:
            flats = [_flat_3(state, group, only) for state in states]
            yield from _of_stage_3(flats, shapes)
        else:
            mappings = [state["param_slice_mappings"][group] for state in states]
            flats = [_flat(state, group, only) for state in states]
            yield from _of_stages_1_and_2(flats, mappings, shapes)


def is_whole(note: Note) -> bool:
    """Whether one file holds all weights and moments."""
    return note.shape["backend"] == "local" or note.shape["zero_stage"] == 0


def whole_file(checkpoint: Path, note: Note) -> Mapping[str, Any]:
    """Load that file; the weights are its `policy`.

    Raises:
        CheckpointError: It is missing.
    """
    if note.shape["backend"] == "local":
        local: Mapping[str, Any] = load(checkpoint / LOCAL_FILE)
        return local
    saved = load(checkpoint / DEEPSPEED_TAG / "mp_rank_00_model_states.pt")
    return {**saved, "policy": saved["module"]}


def load(file: Path) -> Any:
    """Map a file of torch's; it is our own, and the checkpoint's checksums vouch for it.

    Raises:
        CheckpointError: It is missing.
    """
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is incomplete: {file.name} is missing")
    return torch.load(file, map_location="cpu", mmap=True, weights_only=False)


def _whole(checkpoint: Path, note: Note) -> Iterator[Parameter]:
    saved = whole_file(checkpoint, note)
    adamw = saved["optimizer"]["state"]
    for index, name in enumerate(saved[ORDER]):
        yield name, _states(saved["policy"][name], adamw.get(index), STATES)


def _shard_files(folder: Path, note: Note) -> Iterator[Path]:
    prefix = "" if note.shape["dtype"] == "float32" else "bf16_"
    for rank in range(int(note.shape["num_ranks"])):
        yield folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def _shapes(folder: Path) -> Sequence[Mapping[str, torch.Size]]:
    """Parameters of each group by name; all ranks note the same."""
    files = sorted(folder.glob("*_model_states.pt"))
    if not files:
        raise CheckpointError(f"{folder} is incomplete: no *_model_states.pt is there")
    shapes: Sequence[Mapping[str, torch.Size]] = load(files[0])["param_shapes"]
    return shapes


def _flat(state: Mapping[str, Any], group: int, only: Sequence[str]) -> _Flat:
    weights = state["single_partition_of_fp32_groups"][group]
    return _states(weights, state["base_optimizer_state"]["state"].get(group), only)


def _flat_3(state: Mapping[str, Any], group: int, only: Sequence[str]) -> _Flat:
    weights = state["fp32_flat_groups"][group]
    return _states(weights, state["optimizer_state_dict"]["state"].get(group), only)


def _states(weights: Tensor, adamw: _Flat | None, only: Sequence[str]) -> _Flat:
    """Weights with AdamW's state of them, which is None before its first step."""
    moments = adamw or dict.fromkeys(MOMENTS, torch.zeros_like(weights))
    return {state: weights if state == "fp32" else moments[state] for state in only}


def _of_stages_1_and_2(
    flats: Sequence[_Flat], mappings: Sequence[Mapping[str, Any]], shapes: Mapping[str, torch.Size]
) -> Iterator[Parameter]:
    """Each rank says which part of its flat tensors belongs to which parameter."""
    for name, shape in shapes.items():
        pieces = [
            {state: flat[state].narrow(0, part.start, part.numel) for state in flat}
            for flat, mapping in zip(flats, mappings, strict=True)
            if (part := mapping.get(name)) is not None
        ]
        yield name, _joined(pieces, shape)


def _of_stage_3(flats: Sequence[_Flat], shapes: Mapping[str, torch.Size]) -> Iterator[Parameter]:
    """Each rank has an equal part of each parameter, of which the last may be padded."""
    start = 0
    for name, shape in shapes.items():
        size = math.ceil(shape.numel() / len(flats))
        pieces = [{state: flat[state].narrow(0, start, size) for state in flat} for flat in flats]
        yield name, _joined(pieces, shape)
        start += size


def _joined(pieces: Sequence[_Flat], shape: torch.Size) -> dict[str, Tensor]:
    return {
        state: torch.cat([piece[state] for piece in pieces])[: shape.numel()].view(shape)
        for state in pieces[0]
    }
