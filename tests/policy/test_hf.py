import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from cispo.errors import ConfigError
from cispo.policy.hf import TransformersPolicy
from cispo.policy.load import bundled_tokenizer, load_policy, load_tokenizer, save_policy

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen2_tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}


def _network(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=CONFIGS)
def network(request):
    return _network(CONFIGS[request.param])


def _packed(lightning):
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(0, 64, (n,), generator=generator) for n in (9, 21, 2, 14)]
    ids, ends = lightning.pack(sequences)
    mask = torch.rand(len(ids), generator=generator) < 0.7
    mask[ends[:-1].long()] = False
    return sequences, ids, ends, mask


def _own_logprobs(network, sequences, mask, temperature):
    rows = []
    for ids in sequences:
        logits = network(input_ids=ids.unsqueeze(0)).logits[0, :-1].float() / temperature
        log_p = torch.log_softmax(logits, -1).gather(1, ids[1:].unsqueeze(1)).squeeze(1)
        rows += [torch.zeros(1), log_p]
    return torch.cat(rows) * mask


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_a_packed_row_scores_as_the_models_own_forward(lightning, network, temperature):
    sequences, ids, ends, mask = _packed(lightning)
    policy = TransformersPolicy(network, logprob_chunk=5)
    scores = policy(ids, ends, mask, temperature=temperature)
    expected = _own_logprobs(network, sequences, mask, temperature)
    torch.testing.assert_close(scores.logprobs, expected, rtol=0, atol=1e-5)
    assert float(scores.aux_loss) == 0.0


def test_gradients_are_those_of_the_models_own_forward(lightning, network):
    sequences, ids, ends, mask = _packed(lightning)
    policy = TransformersPolicy(network, logprob_chunk=5)
    policy(ids, ends, mask).logprobs.sum().backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    _own_logprobs(network, sequences, mask, 1.0).sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen2_tied"])
def test_recomputed_layers_keep_fewer_tensors_and_give_the_same_bits(lightning, name):
    _, ids, ends, mask = _packed(lightning)
    gradients, kept = [], []
    for recompute in (False, True):
        policy = TransformersPolicy(_network(CONFIGS[name]), logprob_chunk=5).eval()
        if recompute:
            policy.recompute_layers()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            loss = policy(ids, ends, mask).logprobs.sum()
        loss.backward()
        gradients.append([p.grad for p in policy.parameters()])
        kept.append(sum(sizes))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 2


def test_a_model_with_dropout_is_not_recomputed():
    policy = TransformersPolicy(_network(CONFIGS["gpt2"]), logprob_chunk=5)
    with pytest.raises(ConfigError, match=r"resid_pdrop=0\.1"):
        policy.recompute_layers()


def test_a_saved_model_is_read_back_to_the_bit(lightning, network, tmp_path):
    tokenizer = load_tokenizer(str(bundled_tokenizer("bpe1024")))
    policy = TransformersPolicy(network, logprob_chunk=5)
    save_policy(policy, tokenizer, tmp_path)
    loaded = load_policy(
        str(tmp_path), backend="transformers", dtype=torch.float32, logprob_chunk=5
    )
    _, ids, ends, mask = _packed(lightning)
    assert torch.equal(loaded(ids, ends, mask).logprobs, policy(ids, ends, mask).logprobs)
    assert len(load_tokenizer(str(tmp_path))) == 1024


def test_a_model_that_changes_its_logits_after_the_head_is_refused():
    network = _network(CONFIGS["llama"])
    network.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        TransformersPolicy(network, logprob_chunk=5)
