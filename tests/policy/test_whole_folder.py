import pytest

from cispo.policy.whole_folder import whole_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with whole_folder(tmp_path / "a" / "new") as folder:
        (folder / "file").write_text("1")
        assert not (tmp_path / "a" / "new").exists()
    assert names(tmp_path / "a") == ["new"]
    assert (tmp_path / "a" / "new" / "file").read_text() == "1"


def test_it_takes_the_place_of_an_older_one(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "stale").touch()
    with whole_folder(tmp_path / "old") as folder:
        (folder / "file").touch()
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["file"]


def test_a_failure_leaves_the_older_one_alone(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept").touch()

    def fail():
        with whole_folder(tmp_path / "old") as folder:
            (folder / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == ["kept"]


def test_what_a_crash_left_is_cleared_away(tmp_path):
    for leftover in ("unfinished-new", "unfinished-replaced-new"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "half").touch()
    with whole_folder(tmp_path / "new") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["new"]
