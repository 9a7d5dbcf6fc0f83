"""Instances from commits of git repositories to lines of a file."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from cispo.config.prepare import PrepareConfig
from cispo.data.rows import local_rows
from cispo.data.swe.fixes import FixRow, fix_from_row
from cispo.data.swe.instance import Instance, Setup
from cispo.errors import ConfigError
from rewards.swe.build_instance import Fix, build_instance, draft_instance
from sandboxes.build import build_workspaces
from sandboxes.swe.environment import Environments
from sandboxes.swe.proof import prove
from sandboxes.swe.repository import RepositoryError, find_repository, git, resolve_commit

_PYTEST = "pytest>=8,<9"


def prepare_instances(cfg: PrepareConfig) -> None:
    """Make the instances, append them to `output`, and say what they are.

    Of a file of commits those that make no instance are listed and left out.

    Raises:
        ConfigError: The repository, a commit, the file or the output is not there, or nothing makes
            an instance.
    """
    output = Path(cfg.output)
    if not output.parent.is_dir():
        raise ConfigError(f"output={output}: the folder {output.parent} does not exist")
    known = _ids(output) if output.exists() else set()
    num_made = 0
    for place, fix in _fixes(cfg):
        try:
            instance = asyncio.run(_instance(cfg, _fix(cfg) if fix is None else _located(cfg, fix)))
        except ConfigError as error:
            if fix is None:
                raise
            print(f"left out  {place}: {error}")
            continue
        if instance.instance_id in known:
            raise ConfigError(f"output={output}: holds {instance.instance_id} already")
        known.add(instance.instance_id)
        num_made += 1
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(instance.to_json()) + "\n")
        print(
            f"{instance.instance_id}: {len(instance.fail_to_pass)} tests turn from failing to "
            f"passing, {len(instance.pass_to_pass)} go on passing; appended to {output}"
        )
    if not num_made:
        raise ConfigError(f"fixes={cfg.fixes}: no row of it makes an instance")


def _fixes(cfg: PrepareConfig) -> Iterator[tuple[str, FixRow | None]]:
    """Yield the commits of a file with their places, or one nothing for that of the settings."""
    if cfg.fixes is None:
        yield "", None
        return
    path = Path(cfg.fixes).expanduser()
    rows, places = local_rows(path, is_parquet=path.suffix == ".parquet")
    for row, place in zip(rows, places, strict=True):
        yield place, fix_from_row(row, place)


def _located(cfg: PrepareConfig, row: FixRow) -> Fix:
    """Find what a row names."""
    folder = cfg.sandbox.swe.repositories
    repository = find_repository(row.repo, Path(folder).expanduser() if folder else None)
    commit = resolve_commit(repository, row.fix_commit)
    base = resolve_commit(repository, row.base_commit or f"{commit}^1")
    return Fix(
        repository=repository,
        name=row.repo,
        base=base,
        commit=commit,
        issue=row.issue,
        setup=row.setup or _setup(cfg, repository, base, row.requirements),
        instance_id=row.instance_id,
        fail_to_pass=row.fail_to_pass,
        pass_to_pass=row.pass_to_pass,
    )


def _fix(cfg: PrepareConfig) -> Fix:
    """Find what the settings name."""
    assert cfg.repo is not None
    assert cfg.fix is not None
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
    return Fix(
        repository=repository,
        name=cfg.name or str(folder),
        base=base,
        commit=commit,
        issue=issue,
        setup=_setup(cfg, repository, base, ()),
    )


def _setup(cfg: PrepareConfig, repository: Path, base: str, more: tuple[str, ...]) -> Setup:
    requirements = tuple(dict.fromkeys((*cfg.requirements, *more)))
    has_pytest = any(requirement.startswith("pytest") for requirement in requirements)
    return Setup(
        requirements=requirements if has_pytest else (*requirements, _PYTEST),
        source_roots=tuple(cfg.source_roots) or _source_roots(repository, base),
        plugins=tuple(cfg.plugins),
    )


async def _instance(cfg: PrepareConfig, fix: Fix) -> Instance:
    """Make an instance; tests run only where nobody says which there are."""
    if fix.fail_to_pass:
        return draft_instance(fix)
    swe = cfg.sandbox.swe
    workspaces = build_workspaces(cfg.sandbox)
    try:
        environments = Environments.at(swe.cache, swe.repositories)
        await prove(workspaces, scratch=environments.cache / "proofs")
        return await build_instance(fix, workspaces, environments, swe, num_runs=cfg.num_runs)
    finally:
        await workspaces.close()


def _source_roots(repository: Path, commit: str) -> tuple[str, ...]:
    listed = git(repository, "ls-tree", "-d", "--name-only", commit).splitlines()
    return ("src",) if "src" in listed else (".",)


def _ids(path: Path) -> set[str]:
    lines: list[Mapping[str, str]] = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return {line["instance_id"] for line in lines}
