"""Norms, activations and scores by the C++ kernels, on the CPU in float32; see rowwise.cpp."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from cispo.policy.lightning.native.build import require_native
from cispo.policy.lightning.second_derivative import refuse_second_derivative


class _Norm(ctypes.Structure):
    """What one call reads and writes; the same layout as `Norm` in rowwise.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "x", "logits", "weight", "output", "inverse", "grad", "grad_x", "grad_logits",
            "grad_weight",
        )),
        *((name, ctypes.c_int64) for name in ("rows", "width", "threads")),
        ("eps", ctypes.c_float),
    )  # fmt: skip


def native_norm(x: Tensor, logits: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Divide x by its root mean square, times weight and, if given, sigmoid(logits): [..., width].

    A row's bits depend neither on the other rows nor on the number of threads
    (`torch.get_num_threads()`).

    Raises:
        ConfigError: The kernels cannot be built here.
    """
    output: Tensor = _NativeNorm.apply(x, logits, weight, eps)  # type: ignore[no-untyped-call]
    return output


class _NativeNorm(torch.autograd.Function):
    """Keeps what it was given, and the root mean square of each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        given = {"x": x.contiguous(), "weight": weight.float().contiguous()}
        if logits is not None:
            given["logits"] = logits.contiguous()
        output, inverse = torch.empty_like(given["x"]), x.new_empty(x.shape[:-1])
        _call_norm("cispo_norm", given | {"output": output, "inverse": inverse}, eps)
        ctx.save_for_backward(*given.values(), inverse)
        ctx.names, ctx.eps, ctx.dtype = (*given, "inverse"), eps, weight.dtype
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        refuse_second_derivative()
        given = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        grads = {
            f"grad_{name}": torch.empty_like(given[name])
            for name in ("x", "logits", "weight")
            if name in given
        }
        _call_norm("cispo_norm_backward", given | grads | {"grad": grad.contiguous()}, ctx.eps)
        of_weight = grads["grad_weight"].to(ctx.dtype)
        return grads["grad_x"], grads.get("grad_logits"), of_weight, None


def _call_norm(name: str, tensors: dict[str, Tensor], eps: float) -> None:
    x = tensors["x"]
    _call(name, _Norm, tensors, rows=x.shape[:-1].numel(), width=x.shape[-1], eps=eps)


def _call(
    name: str, kind: type[ctypes.Structure], tensors: dict[str, Tensor], **sizes: float
) -> None:
    """Call a kernel with what it reads and writes."""
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    pointers = {key: tensor.data_ptr() for key, tensor in tensors.items()}
    problem = kind(**pointers, **sizes, threads=torch.get_num_threads())
    getattr(require_native(), name)(ctypes.byref(problem))


def native_swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of contiguous [N, 2 I], gate before up -> [N, I]."""
    output = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    require_native().cispo_swiglu(*_pointers(gate_up), *_sizes(output), *_pointers(output))
    return output


def native_swiglu_backward(grad: Tensor, gate_up: Tensor, grad_gate_up: Tensor) -> Tensor:
    """Write the gradient of `native_swiglu` into `grad_gate_up` [N, 2 I]; return its result again.

    Args:
        grad: [N, I] of the result.
        gate_up: [N, 2 I].
        grad_gate_up: As `gate_up`.
    """
    output = torch.empty_like(grad)
    require_native().cispo_swiglu_backward(
        *_pointers(grad, gate_up), *_sizes(output), *_pointers(grad_gate_up, output)
    )
    return output


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _sizes(output: Tensor) -> tuple[ctypes.c_int64, ...]:
    rows, inner = output.shape
    return ctypes.c_int64(rows), ctypes.c_int64(inner), ctypes.c_int64(torch.get_num_threads())


class _Scores(ctypes.Structure):
    """What one call reads and writes; the same layout as `Scores` in rowwise.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "logits", "targets", "top", "total", "chosen", "entropy", "grad",
        )),
        *((name, ctypes.c_int64) for name in ("rows", "width", "threads")),
    )  # fmt: skip


def native_scores(
    logits: Tensor,
    targets: Tensor,
    *,
    top: Tensor,
    total: Tensor,
    chosen: Tensor,
    entropy: Tensor,
) -> None:
    """Read logits [n, V] once; all others are [n], and all but the int64 targets are written.

    Args:
        logits: The logits.
        targets: A token of each row.
        top: The highest logit.
        total: The sum of exp(logit - top).
        chosen: The target's logit - top.
        entropy: Of the distribution, in nats.
    """
    _call_scores("cispo_scores", logits, targets, top=top, total=total, chosen=chosen,
                 entropy=entropy)  # fmt: skip


def native_scores_backward(
    logits: Tensor, targets: Tensor, *, top: Tensor, total: Tensor, grad: Tensor
) -> None:
    """Put the logits' gradient in their place, from that of the targets' log-probabilities [n]."""
    _call_scores("cispo_scores_backward", logits, targets, top=top, total=total, grad=grad)


def _call_scores(name: str, logits: Tensor, targets: Tensor, **of_rows: Tensor) -> None:
    tensors = {"logits": logits, "targets": targets, **of_rows}
    _call(name, _Scores, tensors, rows=len(logits), width=logits.shape[1])
