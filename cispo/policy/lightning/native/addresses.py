"""Where tensors lie that compiled code is to read or write."""

import torch
from torch import Tensor


def address(tensor: Tensor, dtype: torch.dtype, count: int) -> int:
    """Return where `count` numbers of a dtype lie one after the other, in memory of the CPU.

    Raises:
        ValueError: The tensor is of another dtype, length, layout or device.
    """
    if tensor.dtype != dtype or tensor.numel() != count or not tensor.is_contiguous():
        raise ValueError(
            f"a native kernel needs {count} contiguous {dtype}, not {tensor.dtype} "
            f"{list(tensor.shape)} with strides {tensor.stride()}"
        )
    if tensor.device.type != "cpu":
        raise ValueError(f"native kernels run on cpu, not {tensor.device}")
    return tensor.data_ptr()
