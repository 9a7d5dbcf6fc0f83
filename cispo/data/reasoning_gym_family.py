"""Task families of reasoning-gym, graded by their own verifiers."""

import json
from collections.abc import Mapping
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from cispo.data.worked_solutions import worked_solution
from cispo.errors import ConfigError
from cispo.types import Message, Task


class ReasoningGymFamily:
    """The tasks of one family; row i depends on `seed + i` alone, as in the library.

    Two tables of one family share tasks wherever their ranges `seed .. seed + size` overlap.

    Raises:
        ConfigError: The family or one of its options does not exist.
    """

    def __init__(self, name: str, size: int, seed: int, options: Mapping[str, Any]) -> None:
        if name not in DATASETS:
            known = ", ".join(sorted(DATASETS))
            raise ConfigError(f"tasks.sources: no reasoning_gym family {name!r}; there are {known}")
        self.name = name
        self._seed = seed
        try:
            self._dataset = reasoning_gym.create_dataset(name, size=size, seed=seed, **options)
        except (TypeError, AssertionError) as error:
            raise ConfigError(f"tasks.sources[{name}].options={dict(options)}: {error}") from error

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> Task:
        entry = json.loads(json.dumps(self._dataset[row], default=str))
        return Task(
            task_id=f"{self.name}/{self._seed + row}",
            messages=(Message(role="user", content=entry["question"].strip()),),
            verifier="logic",
            truth={"dataset": self.name, "entry": entry},
            source=self.name,
            solution=worked_solution(self.name, entry),
        )
