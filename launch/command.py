"""What all commands share: compose, check, run; a user's error is one message and exit code 2."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cispo.config import ExportConfig, RunConfig, SftConfig
from cispo.config.admit import AdmitConfig
from cispo.config.doctor import DoctorConfig
from cispo.config.evaluate import EvaluateConfig
from cispo.config.plan import PlanConfig
from cispo.config.prepare import PrepareConfig
from cispo.config.prepare_tasks import PrepareTasksConfig
from cispo.config.score import ScoreConfig
from cispo.config.serve import ServeConfig
from cispo.config.watch import WatchConfig
from cispo.errors import CispoError
from launch.sweeps import job_of_sweep, set_apart
from launch.typed import schema_at, to_typed, unknown_key

Schema = TypeVar("Schema")

_OF_A_LIST = re.compile(r"Could not load '(\w+)/([^']+)'")
"""What Hydra says of a list's member that does not exist, without what does."""

SCHEMAS: Mapping[str, type] = {
    "train": RunConfig,
    "sft": SftConfig,
    "plan": PlanConfig,
    "evaluate": EvaluateConfig,
    "score": ScoreConfig,
    "admit": AdmitConfig,
    "prepare": PrepareConfig,
    "prepare_tasks": PrepareTasksConfig,
    "serve": ServeConfig,
    "export": ExportConfig,
    "watch": WatchConfig,
    "doctor": DoctorConfig,
}
"""What each command's configuration is checked by; `conf/NAME.yaml` begins with `NAME_schema`."""


def run_command(
    config_name: str, schema: type[Schema], body: Callable[[Schema, str], None]
) -> None:
    """Run a command's body with its typed configuration and the same as YAML.

    Exit codes: 0 done, 2 a user's error, refused with one message and no traceback. Any other
    exception is a defect and keeps its traceback; `HYDRA_FULL_ERROR=1` shows that of a user's
    error too. In a sweep (`--multirun`) the other jobs go on after one that was refused.
    """
    _store_schemas()
    arguments = sys.argv[1:]
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") != "0"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we phrase it

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name=config_name)
    def composed(config: DictConfig) -> None:
        job = job_of_sweep(arguments)
        try:
            if job is not None:
                set_apart(config, job, config_name=config_name)
            body(to_typed(config, schema), OmegaConf.to_yaml(config, resolve=True))
        except CispoError as error:
            if wants_traceback:
                raise
            if job is None:
                _refuse(str(error))
            print(f"error: {job}: {error}", file=sys.stderr)
            raise

    try:
        composed()
    except CispoError:
        if wants_traceback:
            raise
        _refuse("not all jobs of the sweep have succeeded; see above, or their logs")
    except (HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        _refuse(_message(error, schema))


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _message(error: Exception, schema: type) -> str:
    """One message in the words of the configuration, whatever library noticed the error."""
    if isinstance(error, MissingConfigException) and error.options:
        return f"{str(error).splitlines()[0]}; there are {', '.join(error.options)}"
    if "launcher/submitit" in str(error):
        return "hydra/launcher: submitit is not installed; pip install 'cispo-rl[slurm]'"
    if missing := _OF_A_LIST.search(str(error)):
        group, name = missing.groups()
        folder = Path(__file__).parents[1] / "conf" / group
        there = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        return f"{group}=[{name}]: there are {there}"
    cause: BaseException | None = error
    while cause is not None:
        key = getattr(cause, "full_key", None)
        if isinstance(cause, OmegaConfBaseException) and key:
            return _key_error(key, cause, schema)
        cause = cause.__cause__
    return str(error).strip().splitlines()[0]


def _key_error(key: str, error: OmegaConfBaseException, schema: type) -> str:
    *parents, last = key.split(".")
    parent = schema_at(schema, parents)
    if is_dataclass(parent):
        known = [field.name for field in fields(parent)]
        if last not in known:
            return unknown_key(key, known)
    return f"{key}: {(error.msg or str(error)).splitlines()[0]}"


def _store_schemas() -> None:
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
