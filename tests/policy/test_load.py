import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cispo.errors import ConfigError
from cispo.policy.load import (
    bundled_tokenizer,
    load_policy,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(bundled_tokenizer("bpe1024")))


def _load(folder, dtype=torch.float32):
    return load_policy(str(folder), backend="lightning", dtype=dtype, logprob_chunk=16)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"num_local_experts": 1, "num_experts_per_tok": 1}],
)
def test_a_saved_policy_is_read_back_to_the_bit(lightning, tokenizer, tmp_path, changes):
    model = lightning.model(**changes)
    save_policy(model, tokenizer, tmp_path)
    loaded = _load(tmp_path)
    assert loaded.config == model.config
    state, again = model.state_dict(), loaded.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    ids = torch.arange(30)
    mask = torch.arange(30) > 0
    ends = torch.tensor([0, 30])
    assert torch.equal(loaded(ids, ends, mask).logprobs, model(ids, ends, mask).logprobs)
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()


def test_saved_tensors_carry_the_released_names(lightning, tokenizer, tmp_path):
    save_policy(
        lightning.model(num_hidden_layers=2, layer_types=("linear_attention", "full_attention")),
        tokenizer,
        tmp_path,
    )
    moe = ["gate"] + [f"experts.{e}.w{w}" for e in range(3) for w in (1, 2, 3)]
    linear = ["qkv_proj", "output_gate", "norm", "out_proj"]
    full = ["q_proj", "k_proj", "v_proj", "o_proj"]
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer, attention in enumerate((linear, full)):
        names = ["input_layernorm", "post_attention_layernorm"]
        names += [f"self_attn.{name}" for name in attention]
        names += [f"block_sparse_moe.{name}" for name in moe]
        expected |= {f"model.layers.{layer}.{name}.weight" for name in names}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == expected
        assert file.get_slice("model.layers.0.self_attn.qkv_proj.weight").get_shape() == [192, 48]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "minimax_m1"
    assert config["attn_type_list"] == [0, 1]


def test_routers_stay_float32_in_a_bfloat16_policy(lightning, tokenizer, tmp_path):
    save_policy(lightning.model(), tokenizer, tmp_path)
    dtypes = {name: p.dtype for name, p in _load(tmp_path, torch.bfloat16).named_parameters()}
    routers = {name for name in dtypes if name.endswith("block_sparse_moe.gate.weight")}
    assert len(routers) == 4
    for name, dtype in dtypes.items():
        assert dtype == (torch.float32 if name in routers else torch.bfloat16)


def test_shards_named_by_an_index_are_read(lightning, tokenizer, tmp_path):
    model = lightning.model()
    save_policy(model, tokenizer, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    loaded = _load(tmp_path).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"b\.safetensors is missing"):
        _load(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit_the_config_are_refused_by_name(
    lightning, tokenizer, tmp_path, damage
):
    save_policy(lightning.model(), tokenizer, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.2.self_attn.norm.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "extra":
        name = "model.layers.9.self_attn.norm.weight"
        tensors[name] = torch.ones(2)
    else:
        tensors[name] = torch.ones(2)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        _load(tmp_path)


@pytest.mark.parametrize("backend", ["lightning", "transformers"])
def test_a_missing_folder_is_refused_with_its_name(backend, tmp_path):
    path = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"policy\.path=.*nothing"):
        load_policy(path, backend=backend, dtype=torch.float32, logprob_chunk=16)


def test_a_missing_tokenizer_is_refused_with_its_name(tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.tokenizer=.*bpe1024"):
        bundled_tokenizer("nonsense")
    with pytest.raises(ConfigError, match=r"policy\.path="):
        load_tokenizer(str(tmp_path))


def test_a_new_policy_takes_its_vocabulary_from_the_tokenizer(lightning):
    fields = lightning.config().to_dict()
    del fields["vocab_size"]
    policy = new_lightning_policy(fields, "bpe1024", seed=3)
    assert policy.config.vocab_size == 1024
    again = new_lightning_policy(fields, "bpe1024", seed=3).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in policy.state_dict().items())
    with pytest.raises(ConfigError, match="vocab_size=96"):
        new_lightning_policy({**fields, "vocab_size": 96}, "bpe1024", seed=3)
