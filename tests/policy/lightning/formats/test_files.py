"""Files in the format of safetensors: sharded, in blocks, and refused where they are damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cispo.errors import ConfigError
from cispo.policy.lightning.checkpoint import is_lightning, load_lightning, save_lightning
from cispo.policy.lightning.formats.convert import write_model
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.parts import BLOCK_BYTES, in_memory
from cispo.policy.lightning.formats.read_safetensors import read_entries
from cispo.policy.lightning.formats.stored import open_model
from cispo.policy.lightning.formats.write_safetensors import Outgoing, write_shards

ROOT = Path(__file__).parents[4]


def outgoing(name, tensor, dtype="F32"):
    return Outgoing(name=name, dtype=dtype, shape=tuple(tensor.shape), parts=[in_memory(tensor)])


def read(entry):
    return torch.cat(list(entry.parts(1)[0].blocks())).view(entry.shape)


def test_files_are_read_and_written_as_by_the_formats_own_library(tmp_path):
    tensors = {
        "wide": torch.randn(3, 5),
        "narrow": torch.randn(7).bfloat16(),
        "half": torch.randn(2, 1, 2).half(),
        "double": torch.randn(3).double(),
    }
    names = {"wide": "F32", "narrow": "BF16", "half": "F16", "double": "F64"}
    write_shards(
        tmp_path,
        [outgoing(name, tensor, names[name]) for name, tensor in tensors.items()],
        max_shard_bytes=10**6,
    )
    theirs = load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == tensors.keys()
    assert all(torch.equal(theirs[name], tensors[name]) for name in tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    ours = read_entries(tmp_path)
    assert all(torch.equal(read(ours[name]), tensors[name]) for name in tensors)


def test_a_tensor_larger_than_a_block_is_read_and_cut_exactly(tmp_path):
    tensor = torch.arange(2 * BLOCK_BYTES // 4 + 6, dtype=torch.float32)
    write_shards(tmp_path, [outgoing("x", tensor)], max_shard_bytes=10)
    entry = read_entries(tmp_path)["x"]
    assert [len(block) * 4 for block in entry.parts(1)[0].blocks()] == [BLOCK_BYTES] * 2 + [24]
    assert torch.equal(read(entry), tensor)
    halves = [torch.cat(list(part.blocks())) for part in entry.parts(2)]
    assert torch.equal(torch.cat(halves), tensor)
    assert len(halves[0]) == len(halves[1])


def test_shards_stay_within_their_size_and_the_index_names_them(tmp_path):
    tensors = [
        outgoing(f"t{i}", torch.full((size,), float(i))) for i, size in enumerate((5, 3, 9, 2))
    ]
    write_shards(tmp_path, tensors, max_shard_bytes=32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    # 20 + 12 bytes fit together, 36 alone are too many, 8 are left
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 1, 2, 3)]
    assert index["weight_map"] == {f"t{i}": file for i, file in enumerate(files)}
    assert index["metadata"]["total_size"] == 4 * (5 + 3 + 9 + 2)
    assert {file.name for file in tmp_path.glob("*.safetensors")} == set(files)
    assert torch.equal(read(read_entries(tmp_path)["t2"]), torch.full((9,), 2.0))


def test_a_sharded_model_is_read_back_to_the_bit(lightning, tmp_path):
    model = lightning.model()
    save_lightning(model, tmp_path / "one")
    one = open_model(tmp_path / "one")
    (tmp_path / "many").mkdir()
    write_model(
        tmp_path / "many", one.config, one.parts, layout=Layout.RELEASED, max_shard_bytes=20_000
    )
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 10
    loaded = load_lightning(tmp_path / "many", dtype=torch.float32, logprob_chunk=16).state_dict()
    assert all(torch.equal(loaded[name], v) for name, v in model.state_dict().items())


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def no_header(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def other_text(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def integers(folder):
    save_file({"x": torch.arange(3)}, folder / "model.safetensors")


def index_of_more(folder):
    weight_map = {"x": "model.safetensors", "y": "model.safetensors"}
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


def index_of_less(folder):
    index = json.dumps({"weight_map": {"x": "model.safetensors"}})
    (folder / "model.safetensors.index.json").write_text(index)
    save_file({"x": torch.ones(3), "z": torch.ones(3)}, folder / "model.safetensors")


def bad_index(folder):
    (folder / "model.safetensors.index.json").write_text("{}")


def nothing(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "cut off: x should end"),
        (no_header, "not a safetensors file"),
        (other_text, "not a safetensors file"),
        (integers, "x is stored as I64"),
        (index_of_more, "says that y is in model.safetensors"),
        (index_of_less, "does not name z"),
        (bad_index, "no index with a weight_map"),
        (nothing, "model.safetensors is missing"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage, words):
    save_file({"x": torch.ones(3)}, tmp_path / "model.safetensors")
    damage(tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path}.*{words}"):
        read_entries(tmp_path)


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
    )


MEASURED = r"""
import re, sys
from pathlib import Path
import torch
from cispo.policy.lightning.checkpoint import load_lightning
from cispo.policy.lightning.formats.convert import write_model
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.stored import open_model

torch.set_num_threads(1)
def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])

small, large, target = map(Path, sys.argv[1:])

def convert(source, folder, layout):
    folder.mkdir()
    model = open_model(source)
    write_model(folder, model.config, model.parts, layout=layout, max_shard_bytes=25_000_000)

convert(small, target / "warm", Layout.TRANSFORMERS5)  # loads all code
before = peak()
convert(large, target / "five", Layout.TRANSFORMERS5)
convert(target / "five", target / "back", Layout.RELEASED)
print(peak() - before)
before = peak()
load_lightning(large, dtype=torch.float32, logprob_chunk=16)
print(peak() - before)
"""


def test_memory_is_bounded_however_large_the_model(lightning, folders, tmp_path):
    save_lightning(lightning.model(rotary_dim=16), tmp_path / "small")
    large = lightning.model(
        rotary_dim=16, hidden_size=512, intermediate_size=1280, num_local_experts=5
    )
    save_lightning(large, tmp_path / "large")
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert size > 150e6
    ran = run(MEASURED, tmp_path / "small", tmp_path / "large", tmp_path)
    assert ran.returncode == 0, ran.stderr
    converting, loading = map(int, ran.stdout.split())
    assert converting < size / 3
    assert loading < size * 4 / 3
    assert len(list((tmp_path / "five").glob("*.safetensors"))) >= 6
    before, after = (folders.stored(tmp_path / name) for name in ("large", "back"))
    assert folders.same_bits(after, before)


KILLED = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from cispo.policy.lightning.formats.convert import write_model
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.stored import open_model
from cispo.policy.whole_folder import whole_folder

model = open_model(Path(sys.argv[1]))
def die():
    os.kill(os.getpid(), signal.SIGKILL)
parts = {**model.parts}
name = "model.layers.3.post_attention_layernorm.weight"
parts[name] = replace(parts[name], blocks=die)
with whole_folder(Path(sys.argv[2])) as folder:
    write_model(folder, model.config, parts, layout=Layout.RELEASED, max_shard_bytes=20_000)
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_a_killed_conversion_leaves_nothing_that_looks_complete(lightning, tmp_path, is_there):
    save_lightning(lightning.model(), tmp_path / "source")
    if is_there:
        save_lightning(lightning.model(seed=5), tmp_path / "target")
    before = (tmp_path / "target" / "config.json").read_text() if is_there else None
    ran = run(KILLED, tmp_path / "source", tmp_path / "target")
    assert ran.returncode == -9, ran.stderr
    assert list((tmp_path / "unfinished-target").glob("*.safetensors"))
    assert not is_lightning(tmp_path / "unfinished-target")
    assert (tmp_path / "target").exists() == is_there
    if is_there:
        assert (tmp_path / "target" / "config.json").read_text() == before
        open_model(tmp_path / "target")
