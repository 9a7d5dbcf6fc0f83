"""The tutorial's own files do what it says, as far as that takes no training."""

import runpy
from collections.abc import Mapping
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from cispo.config import RunConfig, SftConfig
from cispo.data.build import training_tasks
from launch.command import _store_schemas
from launch.preflight import check_tasks
from launch.typed import to_typed
from rewards.extract import after_thought
from rewards.own_function import load
from tests.docs_commands import shown_files

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
MOST_LINES = 60


@pytest.fixture(scope="module")
def files() -> Mapping[str, str]:
    return shown_files(PAGE)


@pytest.fixture
def folder(files: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands after step 5, before any training."""
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    runpy.run_path("mine/make_tasks.py")
    return tmp_path


def composed(folder: Path, name: str, *overrides: str) -> object:
    _store_schemas()
    schema = {"train": RunConfig, "sft": SftConfig}[name]
    with initialize_config_module("conf", version_base="1.3"):
        search = f"hydra.searchpath=[file://{folder / 'mine'}]"
        return to_typed(compose(name, overrides=[search, *overrides]), schema)


def test_a_reader_writes_few_lines(files: Mapping[str, str]) -> None:
    assert len(files) == 4
    lines = [line for text in files.values() for line in text.splitlines() if line.strip()]
    assert len(lines) < MOST_LINES
    assert f"You write {len(lines)} lines" in PAGE.read_text(encoding="utf-8")


def test_its_solutions_earn_everything_and_guesses_little(folder: Path) -> None:
    cfg = composed(folder, "sft", "experiment=bills_start")
    assert isinstance(cfg, SftConfig)
    tasks = training_tasks(cfg.tasks, seed=0)
    bill = load(str(folder / "mine/my_rewards.py:bill"))
    for index in range(50):
        task = tasks.task(index)
        assert task.solution is not None
        assert bill(after_thought(task.solution), task.truth) == {"correct": 1.0, "score": 1.0}
        assert bill("about 20", task.truth) == {"correct": 0.0, "score": 0.0}


def test_its_run_passes_all_checks_that_come_before_it(folder: Path) -> None:
    cfg = composed(folder, "train", "experiment=bills")
    assert isinstance(cfg, RunConfig)
    checked = check_tasks(cfg)
    assert len(checked.held_out) == cfg.evaluation.num_tasks
    assert cfg.policy.path == "runs/bills_start/policy"
