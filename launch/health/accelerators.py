"""GPUs, what connects them, and the kernels of our own (imports torch)."""

import tempfile
import time
from pathlib import Path

from launch.health.finding import Finding, Level

_DRIVER = Path("/proc/driver/nvidia/version")


def devices(driver: Path = _DRIVER) -> Finding:
    """Count the GPUs that torch sees; where there is none, say whether the machine has some."""
    import torch

    count = torch.cuda.device_count()
    if count:
        names = sorted({torch.cuda.get_device_name(index) for index in range(count)})
        free, total = torch.cuda.mem_get_info(0)
        said = f"{count} x {', '.join(names)}, {free / 1e9:.3g} GB of {total / 1e9:.3g} GB free"
        return Finding(text=f"{said}; CUDA {torch.version.cuda}")
    if driver.exists():
        return Finding(
            level=Level.FAIL,
            text=f"the machine has an NVIDIA driver, and torch {torch.__version__} sees no GPU",
            fix="install torch for CUDA, and look at CUDA_VISIBLE_DEVICES and nvidia-smi",
        )
    return Finding(text="no GPU; runs use the processors")


def collectives() -> Finding:
    """Add numbers over what ranks will talk through: NCCL over all GPUs, else gloo in one process.

    That of NCCL has not been run by us.
    """
    import torch
    from torch import distributed

    count = torch.cuda.device_count()
    if count:
        parts = [torch.ones(1, device=f"cuda:{index}") for index in range(count)]
        sums = [torch.empty_like(part) for part in parts]
        torch.cuda.nccl.all_reduce(parts, sums)  # type: ignore[no-untyped-call]
        found = [float(total) for total in sums]
        numbers = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        version = ".".join(map(str, numbers))
        if found != [float(count)] * count:
            return Finding(
                level=Level.FAIL,
                text=f"NCCL {version} adds ones of {count} GPUs to {found}",
                fix="NCCL_DEBUG=INFO shows the links; NCCL_P2P_DISABLE=1 goes round broken ones",
            )
        return Finding(text=f"NCCL {version} adds over {count} GPUs")
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1
        )
        try:
            distributed.all_reduce(torch.ones(1))
        finally:
            distributed.destroy_process_group()
    return Finding(text="gloo answers; no GPUs to use NCCL with")


def kernels() -> Finding:
    """Compile our C++ kernels, unless that was done before, and load them."""
    from cispo.policy.lightning.native.build import native_library

    start = time.monotonic()
    if native_library() is None:
        return Finding(
            level=Level.WARN,
            text="the C++ kernels cannot be had, so plain torch takes their place on CPUs",
            fix="install g++ or clang++; `python -m launch.train policy.kernels=native` says why",
        )
    return Finding(text=f"C++ kernels loaded in {time.monotonic() - start:.1f} s")
