"""Whatever way a model goes through the layouts, it comes back with the same bits."""

import itertools
import json

import pytest
import torch

from cispo.errors import ConfigError
from cispo.policy.lightning.checkpoint import load_lightning, save_lightning
from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.formats.config_json import refuse_other_logits
from cispo.policy.lightning.formats.convert import copy_beside, write_model
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.formats.stored import open_model

RELEASED, FOUR, FIVE = Layout
CHAINS = list(itertools.permutations(Layout))

SHAPES = {
    "experts": {},
    "dense": {"num_local_experts": 1, "num_experts_per_tok": 1},
    "tied": {"tie_word_embeddings": True},
    "linear_only": {"layer_types": (LINEAR,) * 4},
    "softmax_only": {"layer_types": (FULL,) * 4},
    "odd_heads": {"num_attention_heads": 6},
}


def convert(source, folder, layout, *, allow_other_logits=False, **options):
    model = open_model(source)
    if not allow_other_logits:
        refuse_other_logits(model.config, layout)
    folder.mkdir()
    write_model(folder, model.config, model.parts, layout=layout, source=model.fields, **options)
    copy_beside(model, folder, layout=layout)
    return folder


def full_rotary(lightning, **changes):
    return lightning.model(rotary_dim=16, **changes)


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_survives_every_chain_of_layouts(lightning, folders, tmp_path, shape, chain):
    model = full_rotary(lightning, **SHAPES[shape])
    source = tmp_path / "source"
    save_lightning(model, source, layout=chain[0])
    before = folders.stored(source)
    for index, layout in enumerate((*chain[1:], chain[0])):
        source = convert(source, tmp_path / str(index), layout)
        assert open_model(source).layout == layout
        loaded = load_lightning(source, dtype=torch.float32, logprob_chunk=16)
        ours, theirs = loaded.state_dict(), model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    after = folders.stored(source)
    if shape == "dense" and chain[0] == RELEASED:  # transformers has routers of one expert
        after = {k: v for k, v in after.items() if not k.endswith("block_sparse_moe.gate.weight")}
    assert folders.same_bits(after, before)
    first = json.loads((tmp_path / "source" / "config.json").read_text())
    assert json.loads((source / "config.json").read_text()) == first


@pytest.mark.parametrize("layout", [FOUR, FIVE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_transformers_saved_comes_back_to_the_bit(folders, tmp_path, dtype, layout):
    network = folders.network(layer_types=[LINEAR, LINEAR, FULL]).to(dtype)
    network.save_pretrained(tmp_path / "theirs")
    theirs = folders.stored(tmp_path / "theirs")
    other = convert(tmp_path / "theirs", tmp_path / "other", layout)
    back = convert(other, tmp_path / "back", FOUR)
    assert folders.same_bits(folders.stored(back), theirs)
    released = convert(other, tmp_path / "released", RELEASED)
    weights = {k: v for k, v in theirs.items() if "decay" not in k and "slope" not in k}
    assert folders.same_bits(folders.stored(released), weights)
    again = folders.stored(convert(released, tmp_path / "again", FOUR))
    assert folders.same_bits({k: again[k] for k in weights}, weights)
    if dtype == torch.float32:
        assert folders.same_bits(again, theirs)


@pytest.mark.parametrize("num_heads", [1, 3, 4, 12, 16])
def test_decays_are_those_that_transformers_computes(folders, tmp_path, num_heads):
    network = folders.network(num_attention_heads=num_heads, num_key_value_heads=1)
    network.save_pretrained(tmp_path / "theirs")
    released = convert(tmp_path / "theirs", tmp_path / "a", RELEASED, allow_other_logits=True)
    again = folders.stored(convert(released, tmp_path / "b", FOUR))
    assert folders.same_bits(again, folders.stored(tmp_path / "theirs"))


def test_the_names_of_version_five_are_those_in_its_memory(folders, tmp_path):
    network = folders.network()
    network.save_pretrained(tmp_path / "theirs")
    five = convert(tmp_path / "theirs", tmp_path / "five", FIVE)
    assert folders.same_bits(folders.stored(five), dict(network.state_dict()))


def test_routers_keep_float32_and_all_others_their_own_type(lightning, folders, tmp_path):
    model = full_rotary(lightning).to(torch.bfloat16)
    for layer in model.model.layers:
        layer.block_sparse_moe.gate.float()
    save_lightning(model, tmp_path / "source")
    source = tmp_path / "source"
    before = folders.stored(source)
    for layout in (FOUR, FIVE, RELEASED):
        source = convert(source, tmp_path / layout, layout)
        dtypes = {name: tensor.dtype for name, tensor in folders.stored(source).items()}
        for name, dtype in dtypes.items():
            is_wide = name.endswith((".gate.weight", "_decay", ".slope_rate"))
            assert dtype == (torch.float32 if is_wide else torch.bfloat16), name
    assert folders.same_bits(folders.stored(source), before)
    assert json.loads((source / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_narrower_type_is_rounded_once_and_leaves_routers_alone(lightning, folders, tmp_path):
    model = full_rotary(lightning)
    save_lightning(model, tmp_path / "source")
    before = folders.stored(tmp_path / "source")
    narrow = convert(tmp_path / "source", tmp_path / "narrow", FIVE, dtype=torch.bfloat16)
    after = folders.stored(convert(narrow, tmp_path / "back", RELEASED))
    for name, tensor in before.items():
        dtype = torch.float32 if name.endswith(".gate.weight") else torch.bfloat16
        assert torch.equal(after[name], tensor.to(dtype))


def test_fields_that_mean_nothing_here_are_carried_over(lightning, tmp_path):
    save_lightning(full_rotary(lightning), tmp_path / "source")
    config = tmp_path / "source" / "config.json"
    carried = {"eos_token_id": 7, "bos_token_id": None, "router_jitter_noise": 0.0}
    text01 = {"model_type": "minimax_text_01", "architectures": ["MiniMaxText01ForCausalLM"]}
    config.write_text(json.dumps({**json.loads(config.read_text()), **carried, **text01}))
    same = convert(tmp_path / "source", tmp_path / "same", RELEASED)
    five = convert(tmp_path / "source", tmp_path / "five", FIVE)
    read = [json.loads((folder / "config.json").read_text()) for folder in (same, five)]
    for fields in read:
        assert {key: fields[key] for key in carried} == carried
    assert {key: read[0][key] for key in text01} == text01
    assert read[1]["model_type"] == "minimax"


def test_a_half_rotary_model_goes_to_transformers_only_when_asked(lightning, folders, tmp_path):
    model = lightning.model()  # rotates 8 of 16 dimensions
    save_lightning(model, tmp_path / "source")
    for layout in (FOUR, FIVE):
        folder = tmp_path / layout
        with pytest.raises(ConfigError, match=r"rotary_dim=8.*head_dim=16.*allow_other_logits"):
            convert(tmp_path / "source", folder, layout)
        convert(tmp_path / "source", folder, layout, allow_other_logits=True)
        assert open_model(folder).config == model.config
        assert json.loads((folder / "config.json").read_text())["cispo_rotary_dim"] == 8
        back = convert(folder, tmp_path / f"{layout}-back", RELEASED)
        assert folders.same_bits(folders.stored(back), folders.stored(tmp_path / "source"))
        assert open_model(back).config == model.config


def test_other_slopes_go_to_the_released_layout_only_when_asked(folders, tmp_path):
    folders.network().save_pretrained(tmp_path / "theirs")  # ends with lightning attention
    with pytest.raises(ConfigError, match=r"slopes.*allow_other_logits"):
        convert(tmp_path / "theirs", tmp_path / "refused", RELEASED)
    released = convert(tmp_path / "theirs", tmp_path / "asked", RELEASED, allow_other_logits=True)
    assert open_model(released).config == open_model(tmp_path / "theirs").config
    assert open_model(released).config.slope_rule == "transformers"


def test_files_beside_the_weights_go_along(lightning, tmp_path):
    save_lightning(full_rotary(lightning), tmp_path / "source")
    for name in ("tokenizer.json", "chat_template.jinja", "modeling_minimax_m1.py", ".secret"):
        (tmp_path / "source" / name).write_text(name)
    five = convert(tmp_path / "source", tmp_path / "five", FIVE)
    same = convert(tmp_path / "source", tmp_path / "same", RELEASED)
    beside = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert {file.name for file in five.iterdir()} == beside
    assert {file.name for file in same.iterdir()} == beside | {"modeling_minimax_m1.py"}


def test_slopes_that_nobody_implements_are_refused(folders, tmp_path):
    network = folders.network()
    for layer in (0, 2):
        network.model.layers[layer].self_attn.slope_rate.mul_(1.05)
    network.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"layers\.2\.self_attn\.slope_rate=.*differs by"):
        open_model(tmp_path)


def test_decays_for_another_block_size_are_refused_by_shape(folders, tmp_path):
    folders.network().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "block_size": 64}))
    with pytest.raises(ConfigError, match=r"decay is .*16.* but config\.json makes it .*64"):
        open_model(tmp_path)
