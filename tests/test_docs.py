"""Every command that the documentation shows is one that would start, and every link leads there.

Commands of `launch` are composed and validated as their `main` would do it; what they name beyond
that (a user's files, a cluster) is not looked for. Other programs are not run: where that leaves
something unchecked, the page says why and the test is skipped with that reason.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from launch.command import SCHEMAS, _store_schemas
from launch.typed import to_typed
from tests.docs_commands import Command, commands, shown_files

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS = [command for page in PAGES for command in commands(page)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PARSER = OverridesParser.create()
HARMLESS = {
    *("cd", "mkdir", "cp", "ls", "cat", "ln", "tail", "zcat", "export", "source", "ulimit", "git")
}
"""Of the shell, with nothing of ours in them to check."""

PREPARED = {"swe": "prepare", "tasks": "prepare_tasks"}
"""The configuration behind the first word after `launch.prepare`."""

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PLACEHOLDER = re.compile(r"\b(?:NAME|COMMAND|X)\b|\.\.\.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_would_start(page: Path) -> None:
    for command in COMMANDS:
        if command.page == page:
            check(command)


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.reason], ids=str)
def test_a_command_that_is_not_run_says_why(command: Command) -> None:
    pytest.skip(f"NOT RUN: {command}: {command.reason}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_test_sees_commands() -> None:
    seen = [command.words[:3] for command in COMMANDS if command.page.name == "README.md"]
    assert ("make", "smoke") in seen
    assert ("python", "-m", "launch.train") in seen


def check(command: Command) -> None:
    """Refuse a command that could not start.

    Raises:
        AssertionError, CispoError, HydraException: It names what does not exist or does not fit.
    """
    match command.words:
        case ("python", "-m", module, *arguments):
            check_module(module, arguments, command)
        case ("python", "-c", code, *_):
            compile(code, str(command), "exec")
        case ("python", script, *_):
            assert script in shown_files(command.page) or (ROOT / script).is_file(), command
        case ("make", *targets):
            known = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {target for target in targets if "=" not in target} <= set(known), command
        case (name, *arguments) if name.startswith("cispo-"):
            module = PROJECT["scripts"][name].partition(":")[0]
            check_module(module, arguments, command)
        case ("pip", "install", wanted) if wanted.startswith("cispo-rl["):
            assert wanted[len("cispo-rl[") : -1] in PROJECT["optional-dependencies"], command
        case ("sbatch" | "kubectl", *_):
            files = [word for word in command.words if word.startswith("launch/")]
            assert [file for file in files if not (ROOT / file).exists()] == [], command
            assert command.reason, f"{command}: mark it <!-- not run: why -->"
        case (name, *_):
            assert name in HARMLESS or command.reason, f"{command}: mark it <!-- not run: why -->"


def check_module(module: str, arguments: Sequence[str], command: Command) -> None:
    """Check a module of ours, and what a command of `launch` is asked to do."""
    if _PLACEHOLDER.search(module):
        return
    assert find_spec(module) is not None, command
    package, _, name = module.partition(".")
    if name == "prepare" and arguments:
        name, arguments = PREPARED[arguments[0]], arguments[1:]
    if package == "launch" and name in SCHEMAS:
        check_configuration(name, arguments)
    if module == "pytest":
        places = [word for word in arguments if not word.startswith("-") and "/" in word]
        assert [place for place in places if not (ROOT / place).exists()] == [], command


def check_configuration(name: str, arguments: Sequence[str]) -> None:
    """Compose a command's configuration and validate it."""
    overrides, folders = sorted_out(name, arguments)
    if any(_PLACEHOLDER.fullmatch(word) or word == "KEY=VALUE" for word in overrides):
        return
    is_choice = [
        (ROOT / "conf" / word.partition("=")[0].lstrip("+")).is_dir() for word in overrides
    ]
    choices = tuple(word for word, is_group in zip(overrides, is_choice, strict=True) if is_group)
    values = [word for word, is_group in zip(overrides, is_choice, strict=True) if not is_group]
    config = deepcopy(chosen(name, choices, tuple(folders)))
    ConfigLoaderImpl._apply_overrides_to_config(PARSER.parse_overrides(values), config)
    to_typed(config, SCHEMAS[name])


@cache
def chosen(name: str, choices: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """Compose members of groups, which takes most of the time, once for all commands that do."""
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"]
    return compose(config_name=name, overrides=[*choices, *(search if folders else [])])


def sorted_out(name: str, arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Return overrides, of sweeps the first job's, and folders of further configurations."""
    words = [*arguments]
    if name == "watch" and "=" not in words[0]:
        words[0] = f"run={words[0]}"
    overrides, folders = [], []
    while words:
        word = words.pop(0)
        match word:
            case "--help" | "-m" | "--multirun" | "...":
                pass
            case "--cfg":
                words.pop(0)
            case "--config-dir":
                folders.append(Path(words.pop(0)).absolute())
            case _ if word.startswith(("hydra.", "hydra/", "+hydra.")):
                pass
            case _:
                overrides.append(first_of_sweep(word))
    return overrides, folders


def first_of_sweep(word: str) -> str:
    """Return `seed=0` for `seed=0,1,2`."""
    override = PARSER.parse_override(word)
    if not override.is_sweep_override():
        return word
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


@pytest.fixture(autouse=True, scope="module")
def _reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stand where a reader does, who has written the files that pages show."""
    folder = tmp_path_factory.mktemp("reader")
    for page in PAGES:
        for name, text in shown_files(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    _store_schemas()
    with (
        pytest.MonkeyPatch.context() as here,
        initialize_config_module("conf", version_base="1.3"),
    ):
        here.chdir(folder)
        yield
