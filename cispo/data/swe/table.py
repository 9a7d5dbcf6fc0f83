"""A table of software-engineering tasks from a file of instances."""

from collections.abc import Sequence
from pathlib import Path

from cispo.config import SourceConfig
from cispo.data.rows import local_rows
from cispo.data.swe.instance import Instance
from cispo.data.swe.rows import instance_from_row
from cispo.data.swe.tasks import Form, check_form, instance_task
from cispo.errors import ConfigError, TaskFileError
from cispo.types import Task


class SweTable:
    """Tasks of instances that are held in memory.

    Raises:
        ConfigError: An instance cannot be a task of that form.
    """

    def __init__(self, name: str, instances: Sequence[Instance], form: Form) -> None:
        self.name = name
        self._tasks = [instance_task(instance, form, source=name) for instance in instances]

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, row: int) -> Task:
        return self._tasks[row]


def read_instances(source: SourceConfig) -> SweTable:
    """Read the instances that a source of kind `swe` names; `options.form` says how they are shown.

    Raises:
        ConfigError: There is no such file, no such form, or nothing to show.
        TaskFileError: A line is bad, or two have one name.
    """
    form = source.options.get("form", "single_shot")
    check_form(form)
    if others := sorted(set(source.options) - {"form"}):
        raise ConfigError(f"tasks.sources[{source.name}].options.{others[0]}: there is only form")
    path = Path(source.name)
    instances: dict[str, Instance] = {}
    rows, places = local_rows(path, is_parquet=path.suffix == ".parquet")
    for row, place in zip(rows, places, strict=True):
        instance = instance_from_row(row, place)
        if instance.instance_id in instances:
            raise TaskFileError(f"{place}: 'instance_id' {instance.instance_id} is there twice")
        instances[instance.instance_id] = instance
    if not instances:
        raise TaskFileError(f"{path}: no instance in it")
    return SweTable(path.stem, list(instances.values()), form)
