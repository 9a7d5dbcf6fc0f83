"""Takes one commit out of a git repository: its files alone, without history, remotes or hooks."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cispo.errors import ConfigError

_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
}
_SAFE = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_NOBODY = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (
        ("NAME", "base"),
        ("EMAIL", "base@localhost"),
        ("DATE", "2000-01-01T00:00:00Z"),
    )
}
_SECONDS = 600.0


class RepositoryError(ConfigError):
    """A repository or a commit is not to be had; the message says where it was sought."""


def find_repository(repo: str, folder: Path | None) -> Path:
    """Return the git repository that an instance names.

    Args:
        repo: A path, or `owner/name` of a clone in `folder`.
        folder: Where clones lie, as `owner/name` or `owner__name`, with or without `.git`.

    Raises:
        RepositoryError: It is not there.
    """
    if (path := Path(repo).expanduser()).is_absolute() or repo.startswith("."):
        candidates = [path]
    elif folder is None:
        raise RepositoryError(f"swe.repositories=null: name the folder with a clone of {repo}")
    else:
        names = (repo, repo.replace("/", "__"))
        candidates = [folder / f"{name}{end}" for name in names for end in ("", ".git")]
    for candidate in candidates:
        if (candidate / "HEAD").is_file() or (candidate / ".git").exists():
            return candidate
    raise RepositoryError(
        f"repository {repo}: no clone at {' or '.join(map(str, candidates))}; bring one there with"
        f" `git clone --bare`, or set swe.repositories"
    )


def resolve_commit(repository: Path, name: str) -> str:
    """Return the full name of a commit.

    Raises:
        RepositoryError: There is no such commit.
    """
    spelled = f"{name}^{{commit}}"
    return git(repository, "rev-parse", "--verify", "--end-of-options", spelled).strip()


def write_tree(repository: Path, commit: str, target: Path) -> None:
    """Write the files of a commit into an empty folder.

    Not by `git archive`, which leaves out what a repository marks as `export-ignore`: often tests.

    Raises:
        RepositoryError: git fails.
    """
    index = target.with_name(f"{target.name}.index")
    environment = {
        "GIT_INDEX_FILE": str(index.absolute()),
        "GIT_DIR": git(repository, "rev-parse", "--absolute-git-dir").strip(),
        "GIT_WORK_TREE": str(target.absolute()),
    }
    git(repository, "read-tree", commit, environment=environment)
    git(repository, "checkout-index", "--all", "--force", environment=environment)
    index.unlink(missing_ok=True)


def squash(folder: Path) -> None:
    """Make the folder a repository with one commit, the same on every machine.

    Raises:
        RepositoryError: git fails.
    """
    git(folder, "init", "--quiet", "--initial-branch=main", "--template=")
    git(folder, "add", "--all", "--force")
    message = ("--quiet", "--allow-empty", "--no-verify", "--no-gpg-sign", "--message=base")
    git(folder, "commit", *message, environment=_NOBODY)


def changed_paths(repository: Path, base: str, fix: str) -> tuple[str, ...]:
    """Return the paths that differ between two commits.

    Raises:
        RepositoryError: git fails.
    """
    listed = git(repository, "diff", "--name-only", "--no-renames", "-z", base, fix)
    return tuple(path for path in listed.split("\0") if path)


def diff(repository: Path, base: str, fix: str, paths: Sequence[str]) -> str:
    """Return the unified diff of some paths between two commits; empty for no path.

    Raises:
        RepositoryError: git fails, or a file is not UTF-8.
    """
    if not paths:
        return ""
    options = ("--no-renames", "--no-color", "--no-ext-diff", "--full-index")
    return git(repository, "diff", *options, base, fix, "--", *paths)


def git(
    repository: Path, command: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> str:
    """Run git without the configuration of this machine and return what it prints.

    Raises:
        RepositoryError: It fails; with its message.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *_SAFE, command, *arguments],
            env={"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT, **(environment or {})},
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
        return done.stdout.decode()
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise RepositoryError(f"{repository}: git {command} failed: {said}") from error
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{repository}: git {command}: a file is not UTF-8") from error
    except OSError as error:
        raise RepositoryError(f"git cannot be run: {error}; install it") from error
