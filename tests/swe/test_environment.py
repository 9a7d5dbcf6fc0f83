"""Environments: what is in them, what is not, and that they are built once."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cispo.data.swe.instance import Instance, Setup
from cispo.data.swe.patch import format_diff, reverse
from cispo.data.swe.read_patch import parse_diff
from sandboxes.swe.environment import Environments, UnbuildableError
from sandboxes.swe.paths import is_test_file, refusal
from sandboxes.swe.repository import diff
from tests.swe.repository import FAULTY, NEW_TESTS, OLD_TESTS, git, make_repository

TESTS = "tests/test_twice.py"


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str, str]:
    folder = tmp_path / "clones" / "me" / "twice"
    _, fault, fix = make_repository(folder)
    return folder, fault, fix


def instance_of(repository: tuple[Path, str, str]) -> Instance:
    folder, fault, fix = repository
    return Instance(
        instance_id="twice",
        repo="me/twice",
        base_commit=fault,
        problem_statement="double is one too many",
        patch=diff(folder, fault, fix, ["src/twice.py"]),
        test_patch=diff(folder, fault, fix, [TESTS]),
        fail_to_pass=(f"{TESTS}::test_double",),
        setup=Setup(source_roots=("src",)),
    )


def environments(cache: Path, repository: tuple[Path, str, str]) -> Environments:
    return Environments(cache, repositories=repository[0].parents[1])


async def test_a_policy_sees_one_commit_and_no_hidden_test(
    cache: Path, repository: tuple[Path, str, str]
) -> None:
    environment = await environments(cache, repository).get(instance_of(repository))
    repo = environment.repo
    assert (repo / "src/twice.py").read_text() == FAULTY
    assert (repo / TESTS).read_text() == OLD_TESTS  # also where archives would leave it out
    assert environment.tests == {TESTS: NEW_TESTS}
    owned = ("-c", "safe.directory=*")
    assert git(repo, *owned, "rev-list", "--all", "--count") == "1"
    assert (
        git(repo, *owned, "log", "--format=%an %ad %s") == "base Sat Jan 1 00:00:00 2000 +0000 base"
    )
    assert git(repo, *owned, "status", "--porcelain") == ""
    assert git(repo, *owned, "tag") == git(repo, *owned, "remote") == ""
    assert not (repo / "notes.txt").exists()
    objects = git(repo, *owned, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    assert "one too many" not in git(repo, *owned, "log", "--format=%B")
    assert objects.count("commit") == 1


async def test_a_test_that_is_part_of_the_repository_is_hidden_if_it_tells_the_fault(
    cache: Path, repository: tuple[Path, str, str]
) -> None:
    folder, fault, fix = repository
    fault_diff = format_diff(reverse(parse_diff(diff(folder, fault, fix, ["src/twice.py"]))))
    smith = replace(instance_of(repository), base_commit=fix, base_patch=fault_diff, test_patch="")
    environment = await environments(cache, repository).get(smith)
    assert (environment.repo / "src/twice.py").read_text() == FAULTY
    assert not (environment.repo / TESTS).exists()
    assert environment.tests == {TESTS: NEW_TESTS}


async def test_an_environment_is_built_once_by_whoever_comes_first(
    cache: Path, repository: tuple[Path, str, str]
) -> None:
    builders = [environments(cache, repository) for _ in range(3)]
    instance = instance_of(repository)
    built = await asyncio.gather(*(builder.get(instance) for builder in builders))
    assert built[0] == built[1] == built[2]
    changed = built[0].repo.stat().st_mtime_ns
    assert (await builders[0].get(instance)).repo.stat().st_mtime_ns == changed
    renamed = replace(instance, instance_id="other", problem_statement="?", patch="")
    assert (await builders[0].get(renamed)).key == built[0].key
    assert (await builders[0].get(replace(instance, test_patch=""))).key != built[0].key
    assert not list((cache / "environments").glob("building-*"))


async def test_the_reason_why_an_environment_cannot_be_built_is_named(
    cache: Path, repository: tuple[Path, str, str]
) -> None:
    good = instance_of(repository)
    setup = Setup(requirements=("no such requirement!",))
    for instance, message in (
        (replace(good, repo="me/absent"), "repository me/absent: no clone at .*absent"),
        (replace(good, base_commit="f" * 40), "git rev-parse failed"),
        (replace(good, test_patch="nothing"), "no diff in it"),
        (replace(good, test_patch=good.patch.replace("n + n", "n * n")), "its lines are not there"),
        (replace(good, fail_to_pass=("tests/absent.py::test_a",)), "tests/absent.py: "),
        (replace(good, setup=setup), "setup.requirements="),
    ):
        with pytest.raises(UnbuildableError, match=f"twice: .*{message}"):
            await environments(cache, repository).get(instance)
    with pytest.raises(UnbuildableError, match=r"swe\.repositories=null"):
        await Environments(cache).get(replace(good, repo="me/absent"))


async def test_links_out_of_a_repository_are_not_followed_on_this_machine(
    cache: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("SECRET = 1\n")
    folder = tmp_path / "clones" / "me" / "link"
    _, fault, _ = make_repository(folder)
    (folder / "tests" / "test_link.py").symlink_to(secret)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "link")
    instance = Instance(
        instance_id="link",
        repo=str(folder),
        base_commit="main",
        problem_statement="?",
        patch="",
        test_patch="",
        fail_to_pass=("tests/test_link.py::test_a",),
    )
    with pytest.raises(UnbuildableError, match="behind a symbolic link"):
        await Environments(cache).get(instance)
    assert fault


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("shop/prices.py", None),
        ("docs/conf.py", None),
        ("shop/latest.py", None),
        ("tests/test_a.py", "test"),
        ("shop/tests/data.json", "test"),
        ("shop/test_a.py", "test"),
        ("shop/a_test.py", "test"),
        ("conftest.py", "test"),
        ("pytest.ini", "configuration"),
        ("sub/pyproject.toml", "configuration"),
        ("SetUp.cfg", "configuration"),
        ("sitecustomize.py", "configuration"),
        ("x.pth", "compiled"),
        ("shop/__pycache__/a.cpython-311.pyc", "compiled"),
        ("shop/fast.so", "compiled"),
        (".git/config", "git"),
        (".GIT/hooks/x", "git"),
        (".gitattributes", "git"),
        ("shop.egg-info/entry_points.txt", "metadata"),
        ("json.py", "shadow"),
        ("src/random/__init__.py", "shadow"),
        ("_pytest/x.py", "shadow"),
        ("attrs.py", "shadow"),
    ],
)
def test_changes_that_decide_how_tests_run_are_dropped(path: str, reason: str | None) -> None:
    found = refusal(path, is_new=True, source_roots=("src",), known_modules={"attrs"})
    assert found == reason
    is_shadow = reason == "shadow"
    old = refusal(path, is_new=False, source_roots=("src",), known_modules={"attrs"})
    assert old == (None if is_shadow else reason)
    assert is_test_file(path) == (reason == "test")
