"""The policy's weights out of a saved learner, without the learner's processes."""

from pathlib import Path

from torch import Tensor

from cispo.learner.saved import read_any_note
from cispo.learner.shards import is_whole, read_parameters, whole_file


def saved_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the weights that a learner of any backend, ZeRO stage and number of ranks saved.

    Returns:
        Tensors by parameter name; from DeepSpeed its float32 masters.

    Raises:
        CheckpointError: There is no saved learner, or it is damaged.
    """
    note = read_any_note(checkpoint)
    if is_whole(note):
        weights: dict[str, Tensor] = whole_file(checkpoint, note)["policy"]
        return weights
    return {name: states["fp32"] for name, states in read_parameters(checkpoint, only=["fp32"])}
