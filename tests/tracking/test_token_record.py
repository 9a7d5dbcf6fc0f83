from pathlib import Path

import pytest
from tokenizers import Tokenizer

from cispo.tracking.pieces import Pieces, pieces_of
from cispo.tracking.token_record import TokenRecord
from cispo.types import Lesson, PolicyVersion, Rollout, Sample, StopReason
from tests.fakes import make_rollout

BUNDLED = Path(__file__).parents[2] / "cispo" / "policy" / "tokenizers" / "bpe1024"

WITH_TOOL = Rollout(
    task_id="a",
    token_ids=(10, 11, 12, 13, 14),
    action_mask=(False, True, False, True, True),
    behaviour_logprobs=(0.0, -1.0, 0.0, -0.5, -2.0),
    text="",
    stop_reason=StopReason.END_OF_TURN,
    oldest_version=PolicyVersion(1),
    newest_version=PolicyVersion(1),
)


def lesson(logprobs: list[float]) -> Lesson:
    return Lesson(sample=Sample(rollout=WITH_TOOL, advantage=1.0, group_index=0), logprobs=logprobs)


def test_tokens_are_kept_from_the_first_action_on_with_what_belongs_to_each() -> None:
    found = TokenRecord(99).of(WITH_TOOL, lesson([0.0, -1.0, 0.0, -0.5 + 0.693147, -3.0]))
    assert found == {
        "pieces": ["⟨11⟩", "⟨12⟩", "⟨13⟩", "⟨14⟩"],
        "logprobs": [-1.0, None, -0.5, -2.0],
        "num_left_out": 0,
        "ratios": [1.0, None, 2.0, pytest.approx(0.3679)],
    }


def test_ratios_reach_as_far_as_they_were_measured() -> None:
    cut = TokenRecord(99).of(WITH_TOOL, lesson([0.0, -1.0, 0.0]))
    assert cut is not None
    assert cut["ratios"] == [1.0, None]
    unmeasured = TokenRecord(99).of(WITH_TOOL, lesson([]))
    assert unmeasured is not None
    assert "ratios" not in unmeasured


def test_the_budget_of_a_file_is_used_up_in_turn() -> None:
    record = TokenRecord(5)
    first, second, third = (record.of(make_rollout(num_action_tokens=3)) for _ in range(3))
    assert first is not None
    assert second is not None
    assert (len(first["pieces"]), first["num_left_out"]) == (3, 0)
    assert (len(second["pieces"]), second["num_left_out"]) == (2, 1)
    assert third is None


def test_pieces_add_up_to_the_text() -> None:
    pieces = pieces_of(str(BUNDLED))
    assert pieces is not None
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    text = " a tree, 12 + 3\n<think>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) > 5
    assert "".join(Pieces(tokenizer)(ids)) == "".join(pieces(ids)) == text


def test_a_policy_without_a_tokenizer_file_has_no_pieces(tmp_path: Path) -> None:
    assert pieces_of(str(tmp_path)) is None
    assert pieces_of(None) is None
    assert pieces_of("some/hub-id") is None
