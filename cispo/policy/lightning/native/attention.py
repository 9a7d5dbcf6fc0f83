"""Lightning attention by the C++ kernels: one pass forward, two backward, nothing stored."""

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cispo.policy.lightning.native.build import require_native
from cispo.policy.lightning.second_derivative import refuse_second_derivative


class _Problem(ctypes.Structure):
    """What one call reads and writes; the same layout as `Problem` in attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "qkv", "output", "grad_output", "grad_qkv",
            "initial", "final", "grad_final", "grad_initial", "starts", "slopes",
        )),
        *((name, ctypes.c_int64) for name in (
            "sequences", "heads", "dim", "chunk", "is_half", "threads",
        )),
    )  # fmt: skip


def native_attention(
    qkv: Tensor,
    slopes: tuple[float, ...],
    starts: Tensor,
    *,
    block: int,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend as `lightning_attention` does, on the CPU in float32 or bfloat16.

    Bits depend on a sequence's own numbers alone: not on its neighbours in the row, nor on the
    number of threads (`torch.get_num_threads()`), nor, between multiples of the chunk, on where it
    was cut and continued from its state.

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: Boundaries or states do not fit the tokens.
    """
    output, state = _NativeAttention.apply(  # type: ignore[no-untyped-call]
        qkv, initial_state, slopes, starts, min(block, _longest_chunk(qkv.shape[3])), return_state
    )
    return output, state


def _longest_chunk(head_dim: int) -> int:
    """Tokens of a chunk; the scores of longer ones cost more than states save (measured)."""
    return 16 if head_dim <= 64 else 32


class _NativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        initial_state: Tensor | None,
        slopes: tuple[float, ...],
        starts: Tensor,
        chunk: int,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        _, H, _, D = qkv.shape
        ctx.dtype = qkv.dtype
        ctx.initial_dtype = None if initial_state is None else initial_state.dtype
        ctx.slopes, ctx.starts, ctx.chunk = slopes, starts, chunk
        ctx.set_materialize_grads(False)
        qkv = _readable(qkv)
        _check(qkv, starts, initial_state)
        initial = None if initial_state is None else initial_state.float().contiguous()
        ctx.save_for_backward(qkv, initial)
        output = qkv.new_empty(len(qkv), H, D)
        final = qkv.new_empty(len(starts) - 1, H, D, D, dtype=torch.float32)
        tensors = {"qkv": qkv, "output": output, "initial": initial}
        if return_state:
            tensors["final"] = final
        _call("cispo_attention_forward", tensors, starts, slopes, chunk)
        return output.to(ctx.dtype), final if return_state else None

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor | None, grad_final: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        refuse_second_derivative()
        qkv, initial = ctx.saved_tensors
        T, H, _, D = qkv.shape
        grad_output = qkv.new_zeros(T, H, D) if grad_output is None else grad_output
        grad_qkv = torch.empty_like(qkv)
        grad_initial = None if initial is None else torch.empty_like(initial)
        tensors = {
            "qkv": qkv,
            "grad_output": grad_output.to(qkv.dtype).contiguous(),
            "grad_qkv": grad_qkv,
            "initial": initial,
            "grad_final": None if grad_final is None else grad_final.contiguous(),
            "grad_initial": grad_initial,
        }
        _call("cispo_attention_backward", tensors, ctx.starts, ctx.slopes, ctx.chunk)
        if grad_initial is not None:
            grad_initial = grad_initial.to(ctx.initial_dtype)
        return grad_qkv.to(ctx.dtype), grad_initial, None, None, None, None


def _readable(qkv: Tensor) -> Tensor:
    is_known = qkv.dtype in (torch.float32, torch.bfloat16)
    return (qkv if is_known else qkv.float()).contiguous()


def _check(qkv: Tensor, starts: Tensor, initial_state: Tensor | None) -> None:
    """Refuse what would read or write beyond a tensor's end."""
    T, H, parts, D = qkv.shape
    ends = starts.tolist()
    if parts != 3 or not ends or ends[0] != 0 or ends[-1] != T or sorted(ends) != ends:
        raise ValueError(
            f"sequences with the boundaries {ends} do not fill qkv of shape {tuple(qkv.shape)}"
        )
    shape = (len(ends) - 1, H, D, D)
    if initial_state is not None and initial_state.shape != shape:
        raise ValueError(f"states must be of shape {shape}, not {tuple(initial_state.shape)}")


def _call(
    name: str,
    tensors: dict[str, Tensor | None],
    starts: Tensor,
    slopes: tuple[float, ...],
    chunk: int,
) -> None:
    qkv = tensors["qkv"]
    assert qkv is not None
    assert len(slopes) == qkv.shape[1], (len(slopes), qkv.shape)
    starts = starts.to("cpu", torch.int64).contiguous()
    of_heads = _slopes(slopes)
    pointers = {key: tensor.data_ptr() for key, tensor in tensors.items() if tensor is not None}
    problem = _Problem(
        **pointers,
        starts=starts.data_ptr(),
        slopes=ctypes.addressof(of_heads),
        sequences=len(starts) - 1,
        heads=qkv.shape[1],
        dim=qkv.shape[3],
        chunk=chunk,
        is_half=qkv.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )
    getattr(require_native(), name)(ctypes.byref(problem))


@lru_cache(maxsize=256)
def _slopes(slopes: tuple[float, ...]) -> ctypes.Array[ctypes.c_double]:
    return (ctypes.c_double * len(slopes))(*slopes)
