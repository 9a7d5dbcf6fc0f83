"""One software-engineering task in the words of SWE-bench, as plain JSON values (stdlib only)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

Runner = Literal["pytest", "functions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the tests of an instance need besides the repository.

    Attributes:
        requirements: Packages, as pip reads them; only wheels are installed, so that nothing of a
            stranger's runs outside the sandbox.
        source_roots: Folders of the repository that Python imports from.
        plugins: Plugins of pytest that are loaded; none is loaded by itself.
        runner: `pytest`, or `functions`, which calls every `test_*` function of a file and needs no
            package at all.
    """

    requirements: tuple[str, ...] = ()
    source_roots: tuple[str, ...] = (".",)
    plugins: tuple[str, ...] = ()
    runner: Runner = "pytest"

    def __post_init__(self) -> None:
        if self.runner not in get_args(Runner):
            raise ValueError(f"runner={self.runner!r}: choose {' or '.join(get_args(Runner))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A fault in a repository, the issue that tells of it, and the tests that prove it mended.

    Attributes:
        instance_id: Unique name.
        repo: `owner/name`, or the folder of a git repository; empty where `tree` is the repository.
        base_commit: Commit that has the fault.
        problem_statement: The issue.
        patch: The reference solution, a unified diff without tests.
        test_patch: Unified diff that adds the hidden tests.
        fail_to_pass: Tests that fail before the solution and pass after it,
            `file::[class::]function[parameters]`.
        pass_to_pass: Tests that pass before and after.
        setup: What the tests need.
        base_patch: Diff that is applied to the commit first: the fault, where it was made on
            purpose.
        tree: Contents of all files by path, instead of a commit.
        shown_files: Files that a prompt may show, by path.
    """

    instance_id: str
    repo: str = ""
    base_commit: str = ""
    problem_statement: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...] = ()
    setup: Setup = field(default_factory=Setup)
    base_patch: str = ""
    tree: Mapping[str, str] = field(default_factory=dict)
    shown_files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("instance_id", "problem_statement", "fail_to_pass"):
            if not getattr(self, name):
                raise ValueError(f"{name!r} is empty")
        if bool(self.tree) == bool(self.repo and self.base_commit):
            raise ValueError("give either 'repo' with 'base_commit', or 'tree'")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, which `from_json` reads."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: A key is missing, unknown, or has the wrong type of value.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(document) - known):
            raise ValueError(f"{unknown[0]!r} is no key of an instance")
        values = dict(document)
        values["setup"] = setup_from(document.get("setup", {}))
        for name in ("fail_to_pass", "pass_to_pass"):
            values[name] = _texts(document.get(name, ()), name)
        for name in ("tree", "shown_files"):
            values[name] = _files(document.get(name, {}), name)
        for name in known - {"setup", "fail_to_pass", "pass_to_pass", "tree", "shown_files"}:
            if not isinstance(values.get(name, ""), str):
                raise ValueError(f"{name!r} must be text, not {values[name]!r}")
        for name in ("instance_id", "problem_statement", "patch", "test_patch"):
            if name not in document:
                raise ValueError(f"{name!r} is missing")
        return cls(**values)

    @property
    def content_hash(self) -> str:
        """Hash of all that decides a verdict; equal for equal tasks, whatever they are called."""
        document = self.to_json()
        for name in ("instance_id", "problem_statement", "shown_files"):
            del document[name]
        return digest(document)


def digest(value: object) -> str:
    """Hash JSON values, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def setup_from(document: object) -> Setup:
    """Read a setup from JSON values.

    Raises:
        ValueError: A key is unknown or has the wrong type of value.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"'setup' must be an object, not {document!r}")
    known = {item.name for item in fields(Setup)}
    if unknown := sorted(set(document) - known):
        raise ValueError(f"'setup.{unknown[0]}' does not exist; there are {', '.join(known)}")
    values: dict[str, Any] = {
        name: value if name == "runner" else _texts(value, f"setup.{name}")
        for name, value in document.items()
    }
    return Setup(**values)


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name!r} must be a list of texts, not {value!r}")
    return tuple(value)


def _files(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{name!r} must hold texts by path, not {value!r}")
    return dict(value)
