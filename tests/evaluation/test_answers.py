"""Answers on disk: what is whole stays, what is half or without a verdict is asked again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cispo.errors import ConfigError
from cispo.evaluation.answers import ANSWERS, Answer, AnswerFile
from cispo.evaluation.results import compare_results, describe_set

RIGHT = Answer(
    set_name="sums",
    task_id="a",
    member=0,
    text="7",
    vote="7",
    parts={"correct": 1.0},
    cause=None,
    num_tokens=3,
    num_prompt_tokens=5,
    stop_reason="end_of_turn",
)
WRONG = replace(RIGHT, member=1, text="8", vote="8", parts={"correct": 0.0}, stop_reason="length")
LOST = replace(RIGHT, task_id="b", parts=None, cause="the sandbox was lost")


def test_what_is_whole_and_judged_is_found_again(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path, {"seed": 1}, overwrite=False)
    assert file.group("sums", "a", size=2) == ()
    file.append([RIGHT, WRONG])
    file.append([LOST])
    again = AnswerFile(tmp_path, {"seed": 1}, overwrite=False)
    assert again.group("sums", "a", size=2) == [RIGHT, WRONG]
    assert again.group("sums", "a", size=3) == ()
    assert again.group("sums", "a", size=1) == [RIGHT]
    assert again.group("sums", "b", size=1) == ()
    again.append([replace(LOST, parts={"correct": 0.0}, cause=None)])
    assert len(AnswerFile(tmp_path, {"seed": 1}, overwrite=False).group("sums", "b", size=1)) == 1


def test_a_line_that_was_cut_is_dropped_and_written_again(tmp_path: Path) -> None:
    AnswerFile(tmp_path, {}, overwrite=False).append([RIGHT, WRONG])
    path = tmp_path / ANSWERS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    file = AnswerFile(tmp_path, {}, overwrite=False)
    assert file.group("sums", "a", size=2) == ()
    file.append([RIGHT, WRONG])
    assert AnswerFile(tmp_path, {}, overwrite=False).group("sums", "a", size=2) == [RIGHT, WRONG]


def test_answers_of_other_settings_are_refused_and_new_sets_may_join(tmp_path: Path) -> None:
    AnswerFile(tmp_path, {"seed": 1, "sets.a": [1]}, overwrite=False).append([RIGHT])
    AnswerFile(tmp_path, {"seed": 1, "sets.b": [2]}, overwrite=False)
    with pytest.raises(ConfigError, match=r"sets.a=\[1\], this is \[3\].*overwrite=true"):
        AnswerFile(tmp_path, {"seed": 1, "sets.a": [3]}, overwrite=False)
    with pytest.raises(ConfigError, match="seed=1"):
        AnswerFile(tmp_path, {"seed": 2}, overwrite=False)
    assert AnswerFile(tmp_path, {"seed": 2}, overwrite=True).group("sums", "a", size=1) == ()


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    AnswerFile(tmp_path, {}, overwrite=False).append([RIGHT])
    with (tmp_path / ANSWERS).open("a") as file:
        file.write(json.dumps({"task_id": "x"}) + "\n")
    with pytest.raises(ConfigError, match="line 2: no answer"):
        AnswerFile(tmp_path, {}, overwrite=False)


def test_a_set_is_described_by_hand() -> None:
    other = [replace(RIGHT, task_id="b", member=i, vote=None) for i in range(2)]
    found = describe_set([RIGHT, WRONG, *other], num_rollouts=2, metric="correct", seed=0)
    means = {name: metric["mean"] for name, metric in found["metrics"].items()}
    # a: one of two right; b: both right, but nothing to vote for.
    assert means == {"avg@2": 0.75, "pass@1": 0.75, "pass@2": 1.0, "maj@2": 0.25}
    assert found["problems"]["a"] == {"avg@2": 0.5, "pass@1": 0.5, "pass@2": 1.0, "maj@2": 0.5}
    assert (found["tokens_mean"], found["prompt_tokens_mean"]) == (3.0, 5.0)
    assert found["truncated_fraction"] == 0.25


def test_answers_without_a_verdict_count_for_nothing_but_are_counted() -> None:
    found = describe_set([RIGHT, LOST], num_rollouts=1, metric="correct", seed=0)
    assert found["metrics"]["avg@1"]["mean"] == 1.0
    assert found["metrics"]["avg@1"]["num_problems"] == 1
    assert found["num_problems"] == 2
    assert found["ungraded"] == {"the sandbox was lost": 1}


def test_shares_are_averaged_where_a_set_is_scored_by_them() -> None:
    near = replace(RIGHT, parts={"correct": 0.0, "score": 0.75})
    found = describe_set([near], num_rollouts=1, metric="score", seed=0)
    assert found["metrics"]["avg@1"]["mean"] == 0.75
    assert found["metrics"]["pass@1"]["mean"] == 0.0


def test_runs_are_compared_on_the_problems_that_both_have() -> None:
    def results(name: str, values: dict[str, float], tokens: int = 100) -> dict[str, object]:
        problems = {task_id: {"avg@1": value} for task_id, value in values.items()}
        source = {"name": f"/data of {name}/sums.jsonl", "options": {"tokens": tokens}}
        settings = {"sets.sums.source": source}
        return {"name": name, "settings": settings, "sets": {"sums": {"problems": problems}}}

    ours = results("ours", {"a": 1.0, "b": 0.5, "only ours": 0.0})
    theirs = results("theirs", {"a": 0.0, "b": 0.5, "only theirs": 1.0})
    apart = compare_results(ours, theirs, seed=0)["sums"]["avg@1"].estimate
    assert (apart.mean, apart.num_problems) == (0.5, 2)
    with pytest.raises(ConfigError, match="no problem"):
        compare_results(ours, {"name": "x", "sets": {"logic": {"problems": {}}}}, seed=0)
    with pytest.raises(ConfigError, match=r"set sums is another one.*'tokens': 200"):
        compare_results(ours, results("longer", {"a": 1.0}, tokens=200), seed=0)
