"""What a node sees is compared with what the driver sees."""

from dataclasses import replace
from pathlib import Path

import pytest

from cispo.config import PolicyConfig
from launch import shared_folders
from launch.shared_folders import Sight, anywhere, look
from tests.launch.test_nodes import node

NODE = node("far")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A policy, and the mark that a driver leaves in the run's folder."""
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").touch()
    mark = tmp_path / "run" / ".seen"
    mark.parent.mkdir()
    mark.touch()
    return policy, mark


def fault(sight: Sight | str, own: Sight, policy: Path, mark: Path) -> str:
    return shared_folders._fault(
        NODE, sight, own, marks={"run_dir": mark}, read={"policy.path": policy}
    )


def test_a_node_that_sees_the_same_has_no_fault(folders: tuple[Path, Path]) -> None:
    policy, mark = folders
    own = look([policy], [mark])
    assert own.entries == {policy: ("config.json",)}
    assert own.marks == {mark: True}
    assert fault(look([policy], [mark]), own, policy, mark) == ""


def test_each_difference_names_the_node_and_what_to_do(folders: tuple[Path, Path]) -> None:
    policy, mark = folders
    own = look([policy], [mark])
    expected = {
        f"run_dir={mark.parent}: far (10": replace(own, marks={mark: False}),
        f"policy.path={policy}: far (10.0.0.3: 8 CPUs, 0 GPUs) sees no such": replace(
            own, entries={policy: None}
        ),
        f"policy.path={policy}: far (10.0.0.3: 8 CPUs, 0 GPUs) sees other files": replace(
            own, entries={policy: ("old.json",)}
        ),
        "far (10.0.0.3: 8 CPUs, 0 GPUs) has torch 1.0, ": replace(
            own, versions={**own.versions, "torch": "1.0"}
        ),
        "far (10.0.0.3: 8 CPUs, 0 GPUs) has deepspeed none, ": replace(
            own, versions={**own.versions, "deepspeed": ""}
        ),
        "far (10.0.0.3: 8 CPUs, 0 GPUs) has other code in ": replace(own, code="other"),
        "far (10.0.0.3: 8 CPUs, 0 GPUs) cannot run this project (No module": "No module",
    }
    for words, sight in expected.items():
        assert fault(sight, own, policy, mark).startswith(words)


def test_what_is_not_there_is_seen_as_such(tmp_path: Path) -> None:
    sight = look([tmp_path / "absent"], [tmp_path / "absent" / "mark"])
    assert sight.entries == {tmp_path / "absent": None}
    assert sight.marks == {tmp_path / "absent" / "mark": False}


def test_a_folder_gets_its_full_path_and_the_name_of_a_hub_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy").mkdir()
    monkeypatch.chdir(tmp_path)
    assert anywhere(PolicyConfig(path="policy")).path == str(tmp_path / "policy")
    assert anywhere(PolicyConfig(path="org/model")).path == "org/model"
    assert anywhere(PolicyConfig()).path is None
