"""Description of a machine, from which plans are made."""

from dataclasses import dataclass

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class MachineConfig:
    """One kind of device, how it is connected, and what of its speed is achieved.

    A device is a GPU, or a processor core where `is_gpu` is false. Fractions are what runs reach of
    the numbers above them; measure your own and set them.

    Attributes:
        name: For messages.
        is_gpu: Whether devices are GPUs, which learner ranks and engines reserve by `num_gpus`;
            cores are reserved by `num_cpus` and share their host's memory.
        devices_per_host: Of one host.
        flops_per_second: Of a device with dense products in the policy's dtype, two a
            multiply-add.
        memory_bytes: Of a device; of the host where devices are cores.
        memory_margin: Share of that which nothing is planned for: contexts, fragments, other
            programs.
        process_bytes: What an engine's or a rank's process holds besides its tensors: interpreter
            and libraries. It counts where devices are cores; a GPU's context is in the margin.
        activation_factor: Memory that a rank takes for each byte of activations; above 1 where
            freed pieces stay with the allocator. With `recompute_layers` it is 1.
        memory_bytes_per_second: Bandwidth of a device's memory.
        host_memory_bytes: Of a host, for what is offloaded.
        link_bytes_per_second: Of one device to devices of other hosts, or between processes.
        decode_fraction: Of `memory_bytes_per_second` and `flops_per_second`, in decoding steps.
        prefill_fraction: Of `flops_per_second`, in prompts.
        learn_fraction: Of `flops_per_second`, in forward and backward passes.
        link_fraction: Of `link_bytes_per_second`.
        step_seconds: Of a decoding step, whatever it computes: launches, sampling, bookkeeping.
        pass_seconds: The same of a learner's micro-batch.
        publish_seconds: The same of a publish.
        price_per_hour: Of a device.
        currency: Of the price.
    """

    name: str
    is_gpu: bool = True
    devices_per_host: int = 8
    flops_per_second: float
    memory_bytes: float
    memory_margin: float = 0.1
    process_bytes: float = 0.0
    activation_factor: float = 1.0
    memory_bytes_per_second: float
    host_memory_bytes: float
    link_bytes_per_second: float
    decode_fraction: float = 0.5
    prefill_fraction: float = 0.4
    learn_fraction: float = 0.3
    link_fraction: float = 0.7
    step_seconds: float = 0.005
    pass_seconds: float = 0.05
    publish_seconds: float = 0.5
    price_per_hour: float = 0.0
    currency: str = "$"

    def __post_init__(self) -> None:
        for key in (
            "devices_per_host",
            "flops_per_second",
            "memory_bytes",
            "memory_bytes_per_second",
            "host_memory_bytes",
            "link_bytes_per_second",
        ):
            require(getattr(self, key) > 0, f"machine.{key}", getattr(self, key), "must be > 0")
        require(
            self.activation_factor >= 1,
            "machine.activation_factor",
            self.activation_factor,
            "must be >= 1",
        )
        for key in ("decode_fraction", "prefill_fraction", "learn_fraction", "link_fraction"):
            value = getattr(self, key)
            require(0 < value <= 1, f"machine.{key}", value, "must lie in (0, 1]")
        require(
            0 <= self.memory_margin < 1,
            "machine.memory_margin",
            self.memory_margin,
            "must lie in [0, 1)",
        )
        others = ("process_bytes", "step_seconds", "pass_seconds", "publish_seconds")
        for key in (*others, "price_per_hour"):
            require(getattr(self, key) >= 0, f"machine.{key}", getattr(self, key), "must be >= 0")

    @property
    def usable_bytes(self) -> float:
        """Memory that a plan may fill."""
        return self.memory_bytes * (1 - self.memory_margin)
