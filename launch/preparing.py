"""One instance from a commit of a git repository to a line of a file."""

import asyncio
import json
from pathlib import Path

from cispo.config.prepare import PrepareConfig
from cispo.data.swe.instance import Instance, Setup
from cispo.errors import ConfigError
from rewards.swe.build_instance import Fix, build_instance
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.swe.environment import Environments
from sandboxes.swe.repository import RepositoryError, find_repository, git, resolve_commit

_PYTEST = "pytest>=8,<9"


def prepare_instance(cfg: PrepareConfig) -> None:
    """Make the instance, append it to `output`, and say what it is.

    Raises:
        ConfigError: The repository, a commit or the output is not there, or the commit makes no
            instance.
    """
    output = Path(cfg.output)
    if not output.parent.is_dir():
        raise ConfigError(f"output={output}: the folder {output.parent} does not exist")
    instance = asyncio.run(_build(cfg, _fix(cfg)))
    if output.exists() and instance.instance_id in _ids(output):
        raise ConfigError(f"output={output}: holds {instance.instance_id} already")
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(instance.to_json()) + "\n")
    print(
        f"{instance.instance_id}: {len(instance.fail_to_pass)} tests turn from failing to passing, "
        f"{len(instance.pass_to_pass)} go on passing; appended to {output}"
    )


def _fix(cfg: PrepareConfig) -> Fix:
    folder = Path(cfg.repo).expanduser().resolve()
    try:
        repository = find_repository(str(folder), None)
        commit = resolve_commit(repository, cfg.fix)
        base = resolve_commit(repository, cfg.base or f"{commit}^1")
    except RepositoryError as error:
        raise ConfigError(f"repo={cfg.repo}: {error}") from error
    issue = None
    if cfg.issue is not None:
        try:
            issue = Path(cfg.issue).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"issue={cfg.issue}: {error}") from error
    has_pytest = any(requirement.startswith("pytest") for requirement in cfg.requirements)
    return Fix(
        repository=repository,
        name=cfg.name or str(folder),
        base=base,
        commit=commit,
        issue=issue,
        setup=Setup(
            requirements=(*cfg.requirements, *(() if has_pytest else (_PYTEST,))),
            source_roots=tuple(cfg.source_roots) or _source_roots(repository, base),
            plugins=tuple(cfg.plugins),
        ),
    )


async def _build(cfg: PrepareConfig, fix: Fix) -> Instance:
    swe = cfg.sandbox.swe
    jails = BubblewrapSandbox()
    await jails.probe()
    environments = Environments.at(swe.cache, swe.repositories)
    return await build_instance(fix, jails, environments, swe, num_runs=cfg.num_runs)


def _source_roots(repository: Path, commit: str) -> tuple[str, ...]:
    listed = git(repository, "ls-tree", "-d", "--name-only", commit).splitlines()
    return ("src",) if "src" in listed else (".",)


def _ids(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {json.loads(line)["instance_id"] for line in lines if line.strip()}
