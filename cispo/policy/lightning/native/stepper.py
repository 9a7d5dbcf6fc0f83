"""The decoding step of the whole hybrid in one call of compiled code; see step.cpp."""

import ctypes
import operator
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
        *((name, ctypes.c_void_p) for name in (
            "linear", "pages", "page_table", "lengths", "routes",
        )),
        *((name, ctypes.c_int64) for name in ("rows", "num_pages", "columns")),
    )  # fmt: skip


class NativeStepper:
    """Steps a model with compiled code, on CPU and in float32.

    Of a bfloat16 model it rounds the operands of products, as the training form does. A row's bits
    depend on that row alone, not on the other rows, their number or the number of threads, which is
    torch's. Weights are copied by `refresh`, except for the embedding.

    Attributes:
        routes: See `Stepper`.

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
        self._library = _declared(require_native())
        self._weights = PackedWeights(self._library, model)
        self._memory = torch.empty(0)
        self._sized: tuple[int, int] | None = None
        self._known: tuple[Tensor | None, ...] = ()
        self._state = _NativeState()
        self._busy = threading.Lock()
        self.routes: Tensor | None = None

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
                ctypes.byref(self._weights.native), hidden.data_ptr(), len(hidden),
                torch.get_num_threads(), logits.data_ptr(),
            )  # fmt: skip
        return logits

    def _run(self, token_ids: Tensor, state: DecodeState) -> tuple[int, int, Tensor]:
        """Step, or change nothing; returns the fault, its row, and the hidden states."""
        rows, threads = len(token_ids), torch.get_num_threads()
        hidden = torch.empty(rows, self._config.hidden_size)
        bad_row = ctypes.c_int64()
        with self._busy:
            native, model = self._checked(token_ids, state), ctypes.byref(self._weights.native)
            if self._sized != (rows, threads):
                self._reserve(self._library.cispo_step_floats(model, rows, threads))
                self._sized = rows, threads
            fault = self._library.cispo_step(
                model, ctypes.byref(native), token_ids.data_ptr(), rows, self._memory.data_ptr(),
                threads, hidden.data_ptr(), ctypes.byref(bad_row),
            )  # fmt: skip
        return int(fault), bad_row.value, hidden

    def _checked(self, token_ids: Tensor, state: DecodeState) -> _NativeState:
        """Describe a state all of whose tensors are as the compiled code reads them."""
        if len(token_ids) > state.num_rows:
            raise ValueError(f"{len(token_ids)} tokens for a state of {state.num_rows} rows")
        _require(token_ids, "token_ids", torch.int64, (len(token_ids),))
        tensors = (state.linear, state.pages, state.page_table, state.lengths, self.routes)
        if len(self._known) != len(tensors) or any(map(operator.is_not, tensors, self._known)):
            self._state = self._described(state)
            self._known = tensors
        return self._state

    def _described(self, state: DecodeState) -> _NativeState:
        c, D = self._config, self._config.head_dim
        R, P, C = state.num_rows, state.pages.shape[1], state.page_table.shape[-1]
        linear = (c.layer_types.count(LINEAR), R, c.num_attention_heads, D, D)
        pages = (c.layer_types.count(FULL), P, 2, c.num_key_value_heads, PAGE, D)
        _require(state.linear, "state.linear", torch.float32, linear)
        _require(state.pages, "state.pages", torch.float32, pages)
        _require(state.page_table, "state.page_table", torch.int32, (R, C))
        _require(state.lengths, "state.lengths", torch.int64, (R,))
        if self.routes is not None:
            _require(self.routes, "routes", torch.uint8, (R, c.num_routes))
        return _NativeState(
            linear=state.linear.data_ptr(), pages=state.pages.data_ptr(),
            page_table=state.page_table.data_ptr(), lengths=state.lengths.data_ptr(),
            routes=None if self.routes is None else self.routes.data_ptr(),
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


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell the library what its functions take, so that numbers need not be wrapped."""
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.cispo_step_floats.argtypes = (pointer, count, count)
    library.cispo_step_floats.restype = count
    library.cispo_step.argtypes = (
        pointer, pointer, pointer, count, pointer, count, pointer, pointer,
    )  # fmt: skip
    library.cispo_step.restype = count
    library.cispo_head.argtypes = (pointer, pointer, count, count, pointer)
    return library
