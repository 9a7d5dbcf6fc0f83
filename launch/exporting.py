"""One export from its configuration to a folder."""

from pathlib import Path

import torch

from cispo.checkpoint import find_checkpoint
from cispo.config import ExportConfig, PolicyConfig
from cispo.errors import CheckpointError, ConfigError
from cispo.learner.saved_weights import saved_weights
from cispo.policy.lightning.checkpoint import released_names
from cispo.policy.lightning.formats.config_json import refuse_other_logits
from cispo.policy.lightning.formats.convert import copy_beside, write_model
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.parts import in_memory
from cispo.policy.lightning.formats.stored import CONFIG, StoredModel, open_model, read_fields
from cispo.policy.whole_folder import whole_folder


def run_export(cfg: ExportConfig) -> None:
    """Write the source's model to the target, all of it or nothing.

    Raises:
        CispoError: Source or target is refused, or the layout's software would compute other
            logits.
    """
    source, target = Path(cfg.source).expanduser(), Path(cfg.target).expanduser()
    layout = Layout(cfg.layout)
    model = open_source(source)
    check_target(target, source, model.folder, overwrite=cfg.overwrite)
    if not cfg.allow_other_logits:
        refuse_other_logits(model.config, layout)
    with whole_folder(target) as unfinished:
        write_model(
            unfinished,
            model.config,
            model.parts,
            layout=layout,
            dtype=None if cfg.dtype == "keep" else getattr(torch, cfg.dtype),
            max_shard_bytes=cfg.max_shard_bytes,
            source=model.fields,
        )
        copy_beside(model, unfinished, layout=layout)
    files = sorted(target.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    print(f"exported: {target}, {len(files)} file(s) of {size:,} bytes in layout {layout}")


def open_source(source: Path) -> StoredModel:
    """Find the model that a user named: a folder in any layout, or a run's checkpoint.

    Raises:
        ConfigError: It is neither, or the checkpoint's policy is no lightning model.
        CheckpointError: The checkpoint is damaged.
    """
    if (source / CONFIG).is_file():
        return open_model(source)
    try:
        found = find_checkpoint(source)
    except CheckpointError as error:
        raise ConfigError(
            f"source={source}: neither a folder with a {CONFIG} nor a run with a checkpoint; "
            f"{error}"
        ) from error
    policy = PolicyConfig(**found.state.config["policy"])
    if policy.backend != "lightning" or policy.path is None:
        raise ConfigError(f"source={source}: its policy.backend={policy.backend} is not lightning")
    started_from = open_model(Path(policy.path))
    weights = released_names(saved_weights(found.path).items())
    parts = {name: in_memory(tensor) for name, tensor in weights}
    return StoredModel(
        folder=started_from.folder,
        layout=started_from.layout,
        config=started_from.config,
        fields=started_from.fields,
        parts=parts,
    )


def check_target(target: Path, *sources: Path, overwrite: bool) -> None:
    """Refuse a target in which something would be lost.

    Raises:
        ConfigError: It holds something, or a source lies in it.
    """
    if any(source.resolve().is_relative_to(target.resolve()) for source in sources):
        raise ConfigError(f"target={target}: the source is in it; choose another folder")
    if target.is_file():
        raise ConfigError(f"target={target}: is a file; choose a folder")
    if not target.is_dir() or not any(target.iterdir()):
        return
    is_model = (target / CONFIG).is_file() and "model_type" in read_fields(target)
    if not is_model:
        raise ConfigError(f"target={target}: holds something that is no model; choose another")
    if not overwrite:
        raise ConfigError(
            f"target={target}: holds a model already; choose another folder, or replace it with "
            "overwrite=true"
        )
