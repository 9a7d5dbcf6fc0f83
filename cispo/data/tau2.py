"""Conversations of tau2-bench: an agent with tools serves a simulated user by a policy of rules.

The package (github.com/sierra-research/tau2-bench, arXiv 2506.07982) is installed by the user; it
holds the domains, plays the user and grades.
"""

import importlib
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from cispo.config import SourceConfig
from cispo.errors import ConfigError
from cispo.types import Message, Task

VERIFIER = "tau2"

_INSTALL = (
    "with Python 3.12 or 3.13: git clone https://github.com/sierra-research/tau2-bench "
    "&& pip install ./tau2-bench && export TAU2_DATA_DIR=tau2-bench/data (the package that PyPI "
    "has under the name tau2 is about something else)"
)


def tau2_module(name: str) -> ModuleType:
    """Import a module of tau2-bench, silent about what it does.

    Raises:
        ConfigError: It is not installed, with how to.
    """
    try:
        importlib.import_module("loguru").logger.disable("tau2")
        return importlib.import_module(f"tau2.{name}")
    except ImportError as error:
        raise ConfigError(f"tau2-bench is not installed ({error}); {_INSTALL}") from error


@cache
def tau2_problems(domain: str, split: str | None) -> Mapping[str, Any]:
    """Return tau2's tasks of a domain by id.

    Args:
        domain: `airline`, `retail`, `telecom`, `mock`, ...
        split: `base` (what is published), `train` or `test`; None takes all.

    Raises:
        ConfigError: tau2 is not installed, or has no such domain, split or data.
    """
    registry = tau2_module("registry").registry
    try:
        found = registry.get_tasks_loader(domain)(split)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"sources[{domain}].split={split}: tau2 has no such tasks ({error}); there are "
            f"{', '.join(registry.get_task_sets())}, and their files lie in TAU2_DATA_DIR"
        ) from error
    return {str(task.id): task for task in found}


class Tau2Table:
    """The conversations of one domain. What the user says first is part of an episode, not of it.

    Raises:
        ConfigError: tau2 is not installed, or has no such domain or split.
    """

    def __init__(self, source: SourceConfig) -> None:
        if source.options:
            raise ConfigError(
                f"sources[{source.name}].options.{min(source.options)}: tau2 has no options"
            )
        self.name = source.name
        self._ids = list(tau2_problems(source.name, source.split))
        agent = tau2_module("agent.llm_agent")
        environment = tau2_module("runner.build").build_environment(source.name)
        self._system = agent.SYSTEM_PROMPT.format(
            agent_instruction=agent.AGENT_INSTRUCTION, domain_policy=environment.get_policy()
        )

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> Task:
        task_id = self._ids[row]
        return Task(
            task_id=f"tau2/{self.name}/{task_id}",
            messages=(Message(role="system", content=self._system),),
            verifier=VERIFIER,
            truth={"domain": self.name, "task_id": task_id},
            source=f"tau2_{self.name}",
            is_agentic=True,
        )
