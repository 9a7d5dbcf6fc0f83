"""One decoding step of the hybrid behind one interface, whichever kernels compute it."""

from typing import Protocol

from torch import Tensor

from cispo.policy.lightning.kernels import resolve_kernels
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.native.stepper import NativeStepper
from cispo.policy.lightning.recurrent import RecurrentForm
from cispo.policy.lightning.state import DecodeState


class Stepper(Protocol):
    """Reads one more token a row, and turns hidden states into logits.

    A row's bits depend neither on the number of rows nor on the other rows (float32 on CPU).

    Attributes:
        kernels: `torch` or `native`.
        routes: [R, L * k] uint8, for a state of R rows: where it is set, a step writes the experts
            of each row's token to it, layer by layer.
    """

    kernels: str
    routes: Tensor | None

    def refresh(self) -> None:
        """Read the model's weights again; to be called whenever they have changed."""

    def step(self, token_ids: Tensor, state: DecodeState) -> Tensor:
        """Append one token to each of the first N rows of the state, which is updated in place.

        Args:
            token_ids: [N] int64.
            state: At least N rows, with room for one more token each.

        Returns:
            Final-normed hidden states [N, d] float32.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Head in float32: hidden [n, d] -> [n, V]."""


class TorchStepper:
    """Operations of torch; runs on any device."""

    kernels = "torch"

    def __init__(self, model: LightningModel) -> None:
        self._model = model
        self.routes: Tensor | None = None
        self.refresh()

    def refresh(self) -> None:
        """Lay the weights out again; see `Stepper.refresh`."""
        self._form = RecurrentForm(self._model)

    def step(self, token_ids: Tensor, state: DecodeState) -> Tensor:
        """Append one token a row; see `Stepper.step`."""
        return self._form.step(token_ids, state, self.routes)

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head; see `Stepper.logits`."""
        return self._form.logits(hidden)


def make_stepper(model: LightningModel, *, kernels: str = "auto") -> Stepper:
    """Choose how the model is stepped.

    Args:
        model: Its weights are read now, and again on every `refresh`.
        kernels: As `policy.kernels`; with `fla`, which has no decoding of its own, it is torch.

    Raises:
        ConfigError: The kernels do not exist, or cannot run here or for this model.
    """
    chosen = resolve_kernels(kernels, model.lm_head.weight.device.type)
    if chosen != "native" or (kernels == "auto" and not NativeStepper.fits(model.config)):
        return TorchStepper(model)
    return NativeStepper(model)
