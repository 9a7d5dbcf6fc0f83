"""How DeepSpeed writes its own files, and reads those of other numbers of ranks and stages."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from torch import nn

from cispo.learner.torch_files import write_file
from cispo.learner.universal import load_by_parameter


class Writer(TorchCheckpointEngine):  # type: ignore[misc]
    """Remembers a failed write; raised at once it would leave the other ranks at a barrier.

    Attributes:
        fault: Why a file of this rank could not be written since `begin`, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None

    def begin(self) -> None:
        """Forget the fault of an earlier checkpoint."""
        self.fault = None

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Write a file, unless one before it failed."""
        if self.fault is None:
            self.fault = write_file(state_dict, Path(path))


def load_converted(
    folder: Path, optimizer: Any, parameters: Iterable[tuple[str, nn.Parameter]], *, stage: int
) -> None:
    """Read what `cispo.learner.universal.convert` made of a checkpoint, on all ranks alike.

    Args:
        folder: What it made.
        optimizer: What DeepSpeed made of torch's optimizer; torch's own at stage 0.
        parameters: What is trained, by name.
        stage: ZeRO stage.
    """
    if stage == 0:
        load_by_parameter(folder, parameters, optimizer)
        return
    if stage == 3:
        optimizer.checkpoint_event_prologue()
    optimizer.load_state_dict(None, checkpoint_folder=folder)
    if stage == 3:
        optimizer.checkpoint_event_epilogue()
    else:
        optimizer.update_lp_params()
