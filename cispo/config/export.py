"""Configuration of an export: a model from one layout to another."""

from dataclasses import dataclass

from cispo.config.require import require

LAYOUTS = ("released", "transformers4", "transformers5")
DTYPES = ("keep", "float32", "bfloat16")


@dataclass(slots=True, kw_only=True)
class ExportConfig:
    """What to convert, and into what.

    Attributes:
        source: Folder of a lightning model in any layout, or a run's folder or checkpoint, of which
            the newest weights are taken.
        target: Folder to write; made, and complete when it appears.
        layout: `released` (MiniMax's own), `transformers4` (its names plus decays; transformers 5
            reads it too) or `transformers5` (experts in two tensors a layer).
        dtype: Of the weights: `keep` (each tensor's own), `float32` or `bfloat16`; routers are
            never narrowed.
        max_shard_bytes: Largest file in bytes, unless one tensor alone is larger.
        overwrite: Replace a model that is in the target already.
        allow_other_logits: Export even where the layout's software would compute other logits, as
            transformers does for heads that are rotated in part; config.json then records what the
            weights expect in fields that this framework reads.
    """

    source: str
    target: str
    layout: str = "released"
    dtype: str = "keep"
    max_shard_bytes: int = 5_000_000_000
    overwrite: bool = False
    allow_other_logits: bool = False

    def __post_init__(self) -> None:
        require(
            self.layout in LAYOUTS, "layout", self.layout, f"choose one of {', '.join(LAYOUTS)}"
        )
        require(self.dtype in DTYPES, "dtype", self.dtype, f"choose one of {', '.join(DTYPES)}")
        require(self.max_shard_bytes >= 1, "max_shard_bytes", self.max_shard_bytes, "must be >= 1")
