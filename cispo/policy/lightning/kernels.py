"""Which kernels compute: plain torch, the C++ ones, or flash-linear-attention's."""

import importlib.util
import logging
from functools import lru_cache

import torch
from torch import Tensor

from cispo.config.policy import KERNELS
from cispo.errors import ConfigError
from cispo.policy.lightning.native.build import native_library, require_native

_log = logging.getLogger(__name__)


def runs_native(kernels: str, x: Tensor) -> bool:
    """Whether the C++ kernels that know float32 alone take x; see `resolve_kernels`."""
    return x.dtype == torch.float32 and resolve_kernels(kernels, x.device.type) == "native"


def resolve_kernels(kernels: str, device: str) -> str:
    """Decide between `torch`, `native` and `fla`.

    Args:
        kernels: `auto` takes native on a CPU where it can be built and fla on CUDA where it is
            installed, else torch; the log says once what is missing.
        device: Type of the device, as `cpu` or `cuda`.

    Raises:
        ConfigError: The kernels do not exist or cannot run on the device.
    """
    match kernels:
        case "auto" if device == "cpu":
            return "torch" if native_library() is None else "native"
        case "auto" if device == "cuda":
            return "fla" if _has_fla() else "torch"
        case "auto" | "torch":
            return "torch"
        case "native":
            if device != "cpu":
                raise ConfigError(f"policy.kernels=native: runs on cpu, not {device}; choose auto")
            require_native()
            return "native"
        case "fla":
            if device != "cuda":
                raise ConfigError(f"policy.kernels=fla: runs on cuda, not {device}; choose auto")
            if not _has_fla():
                raise ConfigError(
                    "policy.kernels=fla: flash-linear-attention is not installed; "
                    "pip install 'cispo-rl[gpu]', or choose torch"
                )
            return "fla"
        case _:
            raise ConfigError(f"policy.kernels={kernels}: choose one of {', '.join(KERNELS)}")


@lru_cache(maxsize=1)
def _has_fla() -> bool:
    has_fla = importlib.util.find_spec("fla") is not None
    if not has_fla:
        _log.warning("flash-linear-attention is not installed: pip install 'cispo-rl[gpu]'")
    return has_fla
