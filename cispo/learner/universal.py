"""A saved learner that learners of other numbers of ranks, ZeRO stages and backends can read.

The files are those of DeepSpeed's universal checkpoints, which its optimizers load: a folder for
each parameter with its whole float32 weights and both moments of AdamW.
"""

import shutil
from collections.abc import Generator, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cispo.checkpoint.finding import UNFINISHED, converted_folder
from cispo.disk import why_not_written
from cispo.errors import CheckpointError
from cispo.learner.saved import FILE_NAME, Note, read_any_note
from cispo.learner.shards import MOMENTS, STATES, load, read_parameters

_PARAMETERS = "zero"


def convert(checkpoint: Path) -> Generator[str, None, None]:
    """Write a saved learner by parameter into `converted_folder`, unless that was done before.

    Yields:
        The name of each parameter that is written, at once. Who stops early leaves nothing.

    Raises:
        CheckpointError: The learner's files are incomplete, or the disk is full.
    """
    target = converted_folder(checkpoint)
    if target.is_dir():
        return
    note = read_any_note(checkpoint)
    unfinished = target.with_name(f"{UNFINISHED}{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        yield from _write(checkpoint, unfinished, note)
        unfinished.rename(target)
    except (OSError, RuntimeError) as error:  # torch raises the latter when the disk is full
        raise CheckpointError(
            f"{checkpoint} was saved by {note.saver} and cannot be converted into {target}: "
            f"{why_not_written(error, target.parent)}"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def converted(checkpoint: Path, note: Note) -> Path:
    """The folder that `convert` wrote.

    Raises:
        CheckpointError: It has not been called, which is not for ranks to do: the others would wait
            for one in a collective, and all would count as hung (`learner.step_seconds`).
    """
    folder = converted_folder(checkpoint)
    if not folder.is_dir():
        raise CheckpointError(
            f"{checkpoint} was saved by {note.saver} and has not been converted for this learner: "
            f"there is no {folder}"
        )
    return folder


def load_by_parameter(
    folder: Path,
    parameters: Iterable[tuple[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Read a converted learner into plain float32 parameters and their AdamW.

    Raises:
        CheckpointError: It has not all parameters.
    """
    for name, parameter in parameters:
        files = folder / _PARAMETERS / name
        found = {state: load(files / f"{state}.pt")["param"] for state in STATES}
        parameter.data.copy_(found["fp32"])
        optimizer.state[parameter] = {
            "step": load(files / "step.pt").clone(),
            **{moment: found[moment].to(parameter.device, copy=True) for moment in MOMENTS},
        }


def _write(checkpoint: Path, folder: Path, note: Note) -> Iterator[str]:
    step = torch.tensor(float(note.num_steps))
    for name, states in read_parameters(checkpoint):
        target = folder / _PARAMETERS / name
        target.mkdir(parents=True)
        for state in STATES:
            # A view would be written with all of the file that it lies in.
            torch.save({"param": states[state].clone()}, target / f"{state}.pt")
        torch.save(step, target / "step.pt")
        yield name
    torch.save(_beside_parameters(step), folder / _PARAMETERS / "optimizer_state.pt")
    shutil.copy(checkpoint / FILE_NAME, folder)


def _beside_parameters(step: torch.Tensor) -> dict[str, Any]:
    """What the loaders of stages 1 and 2, and of stage 3, ask for in `optimizer_state.pt`.

    No hyperparameter is among it: those of the configuration hold.
    """
    return {
        "ds_version": version("deepspeed"),
        "param_groups": [{}],
        "optimizer_state_dict": {"state": {0: {"step": step}}, "param_groups": [{"params": []}]},
    }
