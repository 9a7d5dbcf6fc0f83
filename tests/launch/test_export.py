"""The export command: what it writes, and what it refuses in one message."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cispo.checkpoint import Checkpoints
from cispo.config import ExportConfig, PolicyConfig
from cispo.config.export import DTYPES, LAYOUTS
from cispo.errors import CispoError, ConfigError
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.parts import DTYPES as STORED
from cispo.policy.lightning.formats.stored import open_model
from cispo.policy.load import (
    bundled_tokenizer,
    load_policy,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)
from launch.exporting import run_export
from tests.launch.commands import call, check_refused, launch

ARCHITECTURE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "attn_type_list": [0, 1],
    "rotary_dim": 16,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}


def new_policy(**changes):
    return new_lightning_policy({**ARCHITECTURE, **changes}, "bpe1024", seed=1)


def load(folder):
    return load_policy(str(folder), backend="lightning", dtype=torch.float32, logprob_chunk=16)


def same_weights(ours, theirs):
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def export(source, target, **options):
    run_export(ExportConfig(source=str(source), target=str(target), **options))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(bundled_tokenizer("bpe1024")))


@pytest.fixture
def source(tmp_path, tokenizer):
    save_policy(new_policy(), tokenizer, tmp_path / "source")
    return tmp_path / "source"


def test_what_can_be_configured_is_what_there_is():
    assert tuple(Layout) == LAYOUTS
    stored = {str(dtype).removeprefix("torch.") for dtype in STORED.values()}
    assert set(DTYPES) - {"keep"} <= stored


def test_the_command_converts_a_model_with_its_tokenizer(source, tmp_path, tokenizer):
    target = tmp_path / "new" / "exported"
    ran = launch(f"source={source}", f"target={target}", "layout=transformers5", command="export")
    assert ran.returncode == 0, ran.stderr
    assert f"exported: {target}, 1 file(s)" in ran.stdout
    assert open_model(target).layout == Layout.TRANSFORMERS5
    assert same_weights(load(target), load(source))
    assert load_tokenizer(str(target)).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("target=new",), ("source: has no value",)),
        (("source=nowhere", "target=new"), ("source=nowhere", "neither a folder", "nor a run")),
        (("source=nowhere", "target=new", "layot=released"), ("layot", "did you mean layout?")),
        (("source=a", "target=b", "layout=gguf"), ("layout=gguf", "released, transformers4")),
    ],
)
def test_a_command_that_cannot_work_is_refused(tmp_path, overrides, words):
    check_refused(call(*overrides, command="export", folder=tmp_path), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value"), [("dtype", "int8"), ("max_shard_bytes", 0), ("layout", "Released")]
)
def test_a_bad_value_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=f"{key}={value}: "):
        ExportConfig(source="a", target="b", **{key: value})


def test_a_model_in_the_target_is_replaced_only_when_asked(source, tmp_path, tokenizer):
    target = tmp_path / "target"
    save_policy(new_policy(hidden_size=16), tokenizer, target)
    (target / "model.safetensors.index.json").write_text("stale")
    with pytest.raises(ConfigError, match="overwrite=true"):
        export(source, target)
    export(source, target, overwrite=True)
    assert same_weights(load(target), load(source))


def test_what_is_no_model_is_never_replaced(source, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for target, words in (
        (tmp_path / "home", "no model"),
        (tmp_path / "file", "is a file"),
        (source, "the source is in it"),
        (tmp_path, "the source is in it"),
    ):
        with pytest.raises(ConfigError, match=f"target={target}: .*{words}"):
            export(source, target, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_an_empty_folder_is_a_fine_target(source, tmp_path):
    (tmp_path / "target").mkdir()
    export(source, tmp_path / "target")
    assert same_weights(load(tmp_path / "target"), load(source))


def test_a_half_rotary_model_is_refused_and_leaves_nothing(tmp_path, tokenizer):
    save_policy(new_policy(rotary_dim=8), tokenizer, tmp_path / "half")
    with pytest.raises(ConfigError, match="allow_other_logits=true"):
        export(tmp_path / "half", tmp_path / "a" / "target", layout="transformers5")
    assert not (tmp_path / "a").exists()
    target = tmp_path / "target"
    export(tmp_path / "half", target, layout="transformers5", allow_other_logits=True)
    assert json.loads((target / "config.json").read_text())["cispo_rotary_dim"] == 8


def test_type_and_size_of_files_are_as_asked(source, tmp_path):
    export(source, tmp_path / "target", dtype="bfloat16", max_shard_bytes=20_000)
    assert len(list((tmp_path / "target").glob("*.safetensors"))) > 3
    expected = [p.bfloat16().float() if ".gate.weight" not in n else p
                for n, p in load(source).named_parameters()]  # fmt: skip
    found = list(load(tmp_path / "target").parameters())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class SavedLearner:
    """What `Checkpoints` needs of a learner whose backend is local."""

    def __init__(self, policy):
        self.policy = policy

    async def save(self, folder: Path) -> None:
        torch.save({"policy": self.policy.state_dict(), "optimizer": {}}, folder / "learner.pt")
        note = {"num_steps": 1, "shape": {"backend": "local", "dtype": "float32"}}
        (folder / "learner.json").write_text(json.dumps(note))


async def save_run(folder, policy, **policy_config):
    config = {"policy": asdict(PolicyConfig(**policy_config))}
    checkpoints = Checkpoints(folder / "checkpoints", keep=2, config=config)
    async with checkpoints:
        await checkpoints.save(
            iteration=1, version=2, next_task_index=3, learner=SavedLearner(policy)
        )


@pytest.mark.parametrize("tied", [False, True])
async def test_the_weights_of_a_run_are_taken_from_its_checkpoint(tmp_path, tokenizer, tied):
    save_policy(new_policy(tie_word_embeddings=tied), tokenizer, tmp_path / "start")
    trained = load(tmp_path / "start")
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.5)
    await save_run(tmp_path / "run", trained, path=str(tmp_path / "start"))
    export(tmp_path / "run", tmp_path / "target", layout="transformers4")
    assert same_weights(load(tmp_path / "target"), trained)
    assert (tmp_path / "target" / "tokenizer.json").is_file()


async def test_a_run_of_another_model_is_refused(tmp_path):
    await save_run(tmp_path / "run", new_policy(), backend="transformers", path="gpt2")
    with pytest.raises(CispoError, match=r"policy\.backend=transformers"):
        export(tmp_path / "run", tmp_path / "target")


async def test_a_run_whose_weights_are_broken_is_refused_and_leaves_nothing(tmp_path, tokenizer):
    save_policy(new_policy(), tokenizer, tmp_path / "start")
    await save_run(tmp_path / "run", new_policy(), path=str(tmp_path / "start"))
    file = tmp_path / "run" / "checkpoints" / "iteration-00000001" / "learner.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CispoError, match=r"iteration-00000001 is broken: learner\.pt has another"):
        export(tmp_path / "run", tmp_path / "target")
    assert not (tmp_path / "target").exists()
