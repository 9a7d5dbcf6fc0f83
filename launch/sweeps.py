"""Jobs of one `--multirun`: each gets a name and a folder of its own."""

import re
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

_FOLDERS = {"train": "run_dir", "sft": "run_dir", "evaluate": "output"}
"""Key of the folder that a command writes, by its configuration's name."""


def job_of_sweep(arguments: Sequence[str]) -> str | None:
    """What tells this job from the others of its sweep, as in `objective=cispo,seed=1`.

    Args:
        arguments: The command line.

    Returns:
        None where there is no sweep.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return None
    given = [argument for argument in arguments if "=" in argument and argument[0] != "-"]
    swept = {
        override.get_key_element()
        for override in OverridesParser.create().parse_overrides(given)
        if override.is_sweep_override()
    }
    own = [override for override in hydra.overrides.task if override.partition("=")[0] in swept]
    return ",".join(own) or f"job={hydra.job.num}"


def set_apart(config: DictConfig, job: str, *, config_name: str) -> None:
    """Give a job a folder below that of its sweep, and a name that says which job it is."""
    key = _FOLDERS.get(config_name)
    if key is None:
        return
    config[key] = f"{config[key]}_sweep/{re.sub(r'[^A-Za-z0-9_.,=+-]', '_', job)}"
    if config.get("name") is not None:
        config.name = f"{config.name} {job}"
