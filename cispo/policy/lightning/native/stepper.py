"""The decoding step of the whole hybrid in one call of compiled code; see step.cpp."""

import ctypes
import threading

import torch
from torch import Tensor

from cispo.errors import ConfigError
from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.native.build import require_native
from cispo.policy.lightning.native.weights import PackedWeights
from cispo.policy.lightning.state import PAGE, DecodeState

_BAD_TOKEN, _NO_ROOM, _BAD_PAGE = 1, 2, 3
"""Codes of `Fault` in step_model.h."""


class _NativeState(ctypes.Structure):
    """`State` of step_model.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("linear", "pages", "page_table", "lengths")),
        *((name, ctypes.c_int64) for name in ("rows", "num_pages", "columns")),
    )  # fmt: skip


class NativeStepper:
    """Steps a model with compiled code, on CPU and in float32 whatever the weights' dtype.

    A row's bits depend on that row alone, not on the other rows, their number or the number of
    threads, which is torch's. Weights are copied by `refresh`, except for the embedding.

    Raises:
        ConfigError: The model is not on CPU, its heads are no multiple of 8, or the kernels cannot
            be built.
    """

    kernels = "native"

    def __init__(self, model: LightningModel) -> None:
        device, config = model.lm_head.weight.device, model.config
        if device.type != "cpu":
            raise ConfigError(f"policy.kernels=native: runs on cpu, not {device}; choose auto")
        if not self.fits(config):
            raise ConfigError(
                f"policy.kernels=native: head_dim={config.head_dim} is not a multiple of 8; "
                "choose torch"
            )
        self._config = config
        self._library = require_native()
        self._library.cispo_step_floats.restype = ctypes.c_int64
        self._library.cispo_step.restype = ctypes.c_int64
        self._weights = PackedWeights(self._library, model)
        self._memory = torch.empty(0)
        self._busy = threading.Lock()

    @staticmethod
    def fits(config: LightningConfig) -> bool:
        """Whether the compiled code can step a model of such sizes."""
        return config.head_dim % 8 == 0

    def refresh(self) -> None:
        """Read the model's weights again."""
        with self._busy:
            self._weights.refresh()

    @torch.no_grad()
    def step(self, token_ids: Tensor, state: DecodeState) -> Tensor:
        """Append one token a row; see `Stepper.step`.

        Raises:
            ValueError: A tensor has another dtype, shape or layout than it must have, a token is
                outside of the vocabulary, or a row has no room reserved; nothing has changed then.
        """
        fault, row, hidden = self._run(token_ids, state)
        if fault in (_NO_ROOM, _BAD_PAGE):  # rare, so that the table is not searched on every step
            state.reserve(len(token_ids))
            fault, row, hidden = self._run(token_ids, state)
        if fault:
            reason = self._reason(fault, row, token_ids, state)
            raise ValueError(f"row {row} cannot be stepped: {reason}")
        return hidden

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head; see `Stepper.logits`.

        Raises:
            ValueError: The hidden states have another dtype, shape or layout than they must have.
        """
        _require(hidden, "hidden", torch.float32, (len(hidden), self._config.hidden_size))
        logits = torch.empty(len(hidden), self._config.vocab_size)
        with self._busy:
            self._library.cispo_head(
                ctypes.byref(self._weights.native), _address(hidden), ctypes.c_int64(len(hidden)),
                ctypes.c_int64(torch.get_num_threads()), _address(logits),
            )  # fmt: skip
        return logits

    def _run(self, token_ids: Tensor, state: DecodeState) -> tuple[int, int, Tensor]:
        """Step, or change nothing; returns the fault, its row, and the hidden states."""
        native, model = self._checked(token_ids, state), ctypes.byref(self._weights.native)
        hidden = torch.empty(len(token_ids), self._config.hidden_size)
        row, threads = ctypes.c_int64(), ctypes.c_int64(torch.get_num_threads())
        rows = ctypes.c_int64(len(token_ids))
        with self._busy:
            self._reserve(int(self._library.cispo_step_floats(model, rows, threads)))
            fault = self._library.cispo_step(
                model, ctypes.byref(native), _address(token_ids), rows, _address(self._memory),
                threads, _address(hidden), ctypes.byref(row),
            )  # fmt: skip
        return int(fault), row.value, hidden

    def _checked(self, token_ids: Tensor, state: DecodeState) -> _NativeState:
        """Describe a state all of whose tensors are as the compiled code reads them."""
        c, D = self._config, self._config.head_dim
        R, P, C = state.num_rows, state.pages.shape[1], state.page_table.shape[-1]
        if len(token_ids) > R:
            raise ValueError(f"{len(token_ids)} tokens for a state of {R} rows")
        linear = (c.layer_types.count(LINEAR), R, c.num_attention_heads, D, D)
        pages = (c.layer_types.count(FULL), P, 2, c.num_key_value_heads, PAGE, D)
        _require(token_ids, "token_ids", torch.int64, (len(token_ids),))
        _require(state.linear, "state.linear", torch.float32, linear)
        _require(state.pages, "state.pages", torch.float32, pages)
        _require(state.page_table, "state.page_table", torch.int32, (R, C))
        _require(state.lengths, "state.lengths", torch.int64, (R,))
        return _NativeState(
            linear=state.linear.data_ptr(), pages=state.pages.data_ptr(),
            page_table=state.page_table.data_ptr(), lengths=state.lengths.data_ptr(),
            rows=R, num_pages=P, columns=C,
        )  # fmt: skip

    def _reserve(self, floats: int) -> None:
        if len(self._memory) < floats:
            self._memory = torch.empty(floats)

    def _reason(self, fault: int, row: int, token_ids: Tensor, state: DecodeState) -> str:
        length = int(state.lengths[row])
        if fault == _BAD_TOKEN:
            return f"token {int(token_ids[row])} is not among {self._config.vocab_size}"
        if fault == _NO_ROOM:
            return f"length {length} lies outside of 0..{state.page_table.shape[1] * PAGE - 1}"
        return f"its {length // PAGE + 1} pages are not all in 1..{state.pages.shape[1] - 1}"


def _require(tensor: Tensor, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Refuse a tensor whose memory the compiled code would read in another way than meant."""
    known = tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.shape == shape
    if not (known and tensor.is_contiguous()):
        layout = "contiguous" if tensor.is_contiguous() else "strided"
        raise ValueError(
            f"{name} is {layout} {tensor.dtype} {list(tensor.shape)} on {tensor.device}; the "
            f"native step needs contiguous {dtype} {list(shape)} on cpu"
        )


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
