"""The policy's weights out of a saved learner, without the learner's processes."""

import json
from pathlib import Path

import torch
from torch import Tensor

from cispo.errors import CheckpointError
from cispo.learner.saved import FILE_NAME

_LOCAL_FILE = "learner.pt"
_DEEPSPEED_TAG = "deepspeed"


def saved_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the weights that a learner of any backend, ZeRO stage and number of ranks saved.

    Returns:
        Tensors by parameter name; from DeepSpeed its float32 masters.

    Raises:
        CheckpointError: There is no saved learner, or it is damaged.
    """
    note = checkpoint / FILE_NAME
    if not note.is_file():
        raise CheckpointError(f"{checkpoint} holds no saved learner: {FILE_NAME} is missing")
    shape = json.loads(note.read_text())["shape"]
    if shape["backend"] == "local":
        return _torch_load(checkpoint / _LOCAL_FILE)["policy"]
    if shape["zero_stage"] == 0:
        folder = checkpoint / _DEEPSPEED_TAG
        return _torch_load(folder / "mp_rank_00_model_states.pt")["module"]
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(checkpoint), tag=_DEEPSPEED_TAG
    )
    return weights


def _torch_load(file: Path) -> dict[str, dict[str, Tensor]]:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is incomplete: {file.name} is missing")
    loaded: dict[str, dict[str, Tensor]] = torch.load(
        file, map_location="cpu", mmap=True, weights_only=True
    )
    return loaded
