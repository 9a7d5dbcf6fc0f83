"""Environments: the files that a policy sees, the tests that it does not, and installed packages.

An environment is built once for all instances with the same commit, fault and setup, in a folder
that is named by the hash of what went into it, and is never written to again.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cispo.data.swe.instance import Instance, digest
from cispo.data.swe.patch import BadPatchError, FilePatch
from cispo.data.swe.read_patch import parse_diff
from cispo.errors import ConfigError
from sandboxes.interpreter import others_can_reach
from sandboxes.swe.inside.hunks import DoesNotApplyError, apply_hunks
from sandboxes.swe.packages import PackagesError, install_packages, python_version
from sandboxes.swe.repository import (
    RepositoryError,
    find_repository,
    resolve_commit,
    squash,
    write_tree,
)
from sandboxes.workspace import give_away

_FORMAT = 1


class UnbuildableError(ConfigError):
    """The environment of an instance cannot be made; the message names instance and reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A built environment; nothing of it may be written to.

    Attributes:
        key: Hash of what it was built from.
        repo: Folder with the repository as a policy sees it, one squashed commit.
        packages: Folder with the installed packages.
        tests: Contents of all files that the tests need by path, as hidden tests have them.
        modules: Names of the top-level modules in `packages`.
    """

    key: str
    repo: Path
    packages: Path
    tests: Mapping[str, str]
    modules: frozenset[str]


class Environments:
    """Builds environments on demand and keeps them."""

    def __init__(self, cache: Path | None = None, *, repositories: Path | None = None) -> None:
        """Take the places.

        Args:
            cache: Where environments are kept; None takes the user's cache.
            repositories: Folder of git clones that instances name by `owner/name`.
        """
        self._cache = default_cache() if cache is None else cache
        self._repositories = repositories
        self._building: dict[str, asyncio.Lock] = {}

    @classmethod
    def at(cls, cache: str | None, repositories: str | None) -> Self:
        """Take the places as they are configured."""
        return cls(
            Path(cache).expanduser() if cache else None,
            repositories=Path(repositories).expanduser() if repositories else None,
        )

    @property
    def cache(self) -> Path:
        """Where environments are kept."""
        return self._cache

    async def get(self, instance: Instance) -> Environment:
        """Return the environment of an instance, built now if it is not there yet.

        Raises:
            UnbuildableError: It cannot be built.
        """
        lock = self._building.setdefault(instance.content_hash, asyncio.Lock())
        async with lock:
            try:
                return await asyncio.to_thread(self._get, instance)
            except (RepositoryError, BadPatchError, DoesNotApplyError, PackagesError) as error:
                raise UnbuildableError(f"{instance.instance_id}: {error}") from error
            except OSError as error:
                raise UnbuildableError(f"{instance.instance_id}: {self._cache}: {error}") from error

    def _get(self, instance: Instance) -> Environment:
        key = self._key(instance)
        folder = self._cache / "environments" / key
        if not (folder / "environment.json").is_file():
            self._build(instance, folder)
        document = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        return Environment(
            key=key,
            repo=folder / "repo",
            packages=self._packages(instance),
            tests=document["tests"],
            modules=frozenset(document["modules"]),
        )

    def _key(self, instance: Instance) -> str:
        document = instance.to_json()
        used = ("repo", "base_commit", "base_patch", "tree", "test_patch", "setup")
        tests = (document["fail_to_pass"], document["pass_to_pass"])
        return digest([_FORMAT, python_version(), tests, *(document[name] for name in used)])[:32]

    def _packages(self, instance: Instance) -> Path:
        return install_packages(instance.setup.requirements, self._cache / "packages")

    def _build(self, instance: Instance, folder: Path) -> None:
        """Build in a folder beside and rename; of two builders at once the first one wins."""
        packages = self._packages(instance)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as scratch:
            made = Path(scratch) / "made"
            repo = made / "repo"
            repo.mkdir(parents=True)
            self._write_base(instance, repo)
            tests = _test_files(instance, repo)
            if not instance.test_patch:  # they are part of the repository, where all can see them
                for test in instance.fail_to_pass:
                    (repo / test.partition("::")[0]).unlink(missing_ok=True)
            squash(repo)
            document = {"tests": tests, "modules": _top_level_modules(packages)}
            (made / "environment.json").write_text(json.dumps(document), encoding="utf-8")
            _open_up(made)
            Path(scratch).chmod(0o755)
            try:
                made.rename(folder)
            except OSError:
                if not (folder / "environment.json").is_file():
                    raise

    def _write_base(self, instance: Instance, repo: Path) -> None:
        if instance.tree:
            for path, content in instance.tree.items():
                FilePatch(old_path=None, new_path=path)  # refuses paths that leave the folder
                (repo / path).parent.mkdir(parents=True, exist_ok=True)
                (repo / path).write_text(content, encoding="utf-8", newline="")
        else:
            repository = find_repository(instance.repo, self._repositories)
            write_tree(repository, resolve_commit(repository, instance.base_commit), repo)
        if instance.base_patch:
            for path, changed in patched_files(instance.base_patch, repo).items():
                _replace(repo / path, changed)


def default_cache() -> Path:
    """Return the folder of the user's cache, or one that jails can see where that is closed."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    nearest = next(folder for folder in (root, *root.parents) if folder.is_dir())
    if os.geteuid() == 0 and not others_can_reach(nearest):
        root = Path("/var/cache")
    return root / "cispo-rl" / "swe"


def patched_files(diff: str, repo: Path) -> dict[str, str | None]:
    """Return what trusted changes make of files, None for deleted ones.

    Raises:
        BadPatchError: It is no diff.
        DoesNotApplyError: The folder does not hold what it changes.
    """
    changed: dict[str, str | None] = {}
    for patch in parse_diff(diff):
        before = "" if patch.old_path is None else read_text(repo, patch.old_path)
        hunks = [{"old": h.old, "new": h.new, "start": h.start} for h in patch.hunks]
        after = apply_hunks(before, hunks)
        if patch.old_path is not None and patch.old_path != patch.new_path:
            changed[patch.old_path] = None
        if patch.new_path is not None:
            changed[patch.new_path] = after
    return changed


def read_text(repo: Path, path: str) -> str:
    """Read a file of a repository, which must not lie behind a symbolic link.

    Raises:
        DoesNotApplyError: It is not there, or is no regular file of UTF-8 text.
    """
    place = repo / path
    if any(folder.is_symlink() for folder in (place, *place.parents[: len(Path(path).parts)])):
        raise DoesNotApplyError(f"{path} lies behind a symbolic link")
    try:
        return place.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DoesNotApplyError(f"{path}: {error}") from error


def _test_files(instance: Instance, repo: Path) -> dict[str, str]:
    """Return the files that the tests need, as they are after the test patch."""
    files: dict[str, str] = {}
    if instance.test_patch:
        changed = patched_files(instance.test_patch, repo)
        files |= {path: text for path, text in changed.items() if text is not None}
    for test in (*instance.fail_to_pass, *instance.pass_to_pass):
        path = test.partition("::")[0]
        if path not in files:
            files[path] = read_text(repo, path)
    return files


def _replace(place: Path, content: str | None) -> None:
    if content is None:
        place.unlink()
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8", newline="")


def _top_level_modules(packages: Path) -> list[str]:
    return sorted(
        path.name.partition(".")[0]
        for path in packages.iterdir()
        if path.suffix in ("", ".py", ".so") and not path.name.startswith("bin")
    )


def _open_up(folder: Path) -> None:
    """Let jails read a folder, and change their copies of it."""
    give_away(folder)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
