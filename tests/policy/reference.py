"""The hybrid in float64, token by token and head by head, from the equations of the released code.

It shares nothing with `cispo.policy.lightning` but the names and shapes of weights.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cispo.policy.lightning.config import LINEAR, LightningConfig

Weights = Callable[[str], Tensor]


def named_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the released checkpoint's names, from a model's `state_dict`, in float64.

    The model stacks its experts: w1 above w3 in `gate_up_proj` [E, 2 I, d], w2 in `down_proj`.
    """
    named = {}
    for name, tensor in state.items():
        prefix, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            inner = tensor.shape[1] // 2
            for expert, stacked in enumerate(tensor.double()):
                named[f"{prefix}.{expert}.w1.weight"] = stacked[:inner]
                named[f"{prefix}.{expert}.w3.weight"] = stacked[inner:]
        elif last == "down_proj":
            for expert, matrix in enumerate(tensor.double()):
                named[f"{prefix}.{expert}.w2.weight"] = matrix
        else:
            named[name] = tensor.double()
    return named


def alibi(heads: int) -> list[float]:
    """2^(-8 h / H) for h = 1..H; where H is no power of two, the next lower power's, then every
    other one of the next higher power's."""
    below = 1
    while 2 * below <= heads:
        below *= 2
    slopes = [2 ** (-8 * h / below) for h in range(1, below + 1)]
    between = [2 ** (-8 * h / (2 * below)) for h in range(1, 2 * below + 1, 2)]
    return slopes + between[: heads - below]


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = lambda S_{t-1} + k_t v_t^T, o_t = S_t^T q_t; q, k, v [T, H, D], state [H, D, D]."""
    decay = torch.exp(-slopes).view(-1, 1, 1)
    outputs = []
    for t in range(len(q)):
        state = decay * state + k[t].unsqueeze(-1) * v[t].unsqueeze(-2)
        outputs.append((q[t].unsqueeze(-1) * state).sum(-2))
    return torch.stack(outputs), state


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _lightning(x: Tensor, w: Weights, c: LightningConfig, layer: int) -> Tensor:
    H, D, L = c.num_attention_heads, c.head_dim, c.num_hidden_layers
    slopes = torch.tensor(alibi(H), dtype=torch.float64) * (1 - layer / (L - 1) + 1e-5)
    heads = _silu(x @ w("qkv_proj.weight").T).reshape(len(x), H, 3 * D)
    q, k, v = heads[..., :D], heads[..., D : 2 * D], heads[..., 2 * D :]
    o, _ = recurrence(q, k, v, slopes, torch.zeros(H, D, D, dtype=torch.float64))
    gate = 1 / (1 + torch.exp(-(x @ w("output_gate.weight").T)))
    return (gate * _norm(o.reshape(len(x), H * D), w("norm.weight"), 1e-6)) @ w("out_proj.weight").T


def _rotate(vector: Tensor, position: int, c: LightningConfig) -> Tensor:
    out = vector.clone()
    half = c.rotary_dim // 2
    for i in range(half):
        angle = position * c.rope_theta ** (-2 * i / c.rotary_dim)
        a, b = vector[..., i], vector[..., i + half]
        out[..., i] = a * math.cos(angle) - b * math.sin(angle)
        out[..., i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def _softmax(x: Tensor, w: Weights, c: LightningConfig) -> Tensor:
    T, H, G, D = len(x), c.num_attention_heads, c.num_key_value_heads, c.head_dim
    q = (x @ w("q_proj.weight").T).reshape(T, H, D)
    k = (x @ w("k_proj.weight").T).reshape(T, G, D)
    v = (x @ w("v_proj.weight").T).reshape(T, G, D)
    q = torch.stack([_rotate(q[t], t, c) for t in range(T)])
    k = torch.stack([_rotate(k[t], t, c) for t in range(T)])
    heads = []
    for h in range(H):
        group = h // (H // G)
        scores = q[:, h] @ k[:, group].T / math.sqrt(D)
        future = torch.ones(T, T).triu(1).bool()
        heads.append(torch.softmax(scores.masked_fill(future, -math.inf), -1) @ v[:, group])
    return torch.cat(heads, -1) @ w("o_proj.weight").T


def _experts(x: Tensor, w: Weights, c: LightningConfig) -> Tensor:
    def expert(e: int) -> Tensor:
        w1, w2, w3 = (w(f"experts.{e}.{n}.weight") for n in ("w1", "w2", "w3"))
        return (_silu(x @ w1.T) * (x @ w3.T)) @ w2.T

    if c.num_local_experts == 1:
        return expert(0)
    probabilities = torch.softmax(x @ w("gate.weight").T, -1)
    kept, chosen = probabilities.topk(c.num_experts_per_tok, -1)
    share = torch.zeros_like(probabilities).scatter(1, chosen, kept / kept.sum(-1, keepdim=True))
    return sum(share[:, e : e + 1] * expert(e) for e in range(c.num_local_experts))  # type: ignore[return-value]


def reference_logits(tensors: Mapping[str, Tensor], c: LightningConfig, ids: Tensor) -> Tensor:
    """Logits [T, V] of one sequence in float64, from tensors by the released checkpoint's names."""
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    x = wide["model.embed_tokens.weight"][ids]
    for layer, kind in enumerate(c.layer_types):
        prefix = f"model.layers.{layer}."
        x = _norm(x, wide[prefix + "input_layernorm.weight"], c.rms_norm_eps)
        attention = lambda name, p=prefix: wide[p + "self_attn." + name]  # noqa: E731
        if kind == LINEAR:
            y = _lightning(x, attention, c, layer)
            x = c.linear_attn_alpha_factor * x + c.linear_attn_beta_factor * y
        else:
            x = c.full_attn_alpha_factor * x + c.full_attn_beta_factor * _softmax(x, attention, c)
        x = _norm(x, wide[prefix + "post_attention_layernorm.weight"], c.rms_norm_eps)
        moe = lambda name, p=prefix: wide[p + "block_sparse_moe." + name]  # noqa: E731
        x = c.mlp_alpha_factor * x + c.mlp_beta_factor * _experts(x, moe, c)
    x = _norm(x, wide["model.norm.weight"], c.rms_norm_eps)
    return x @ wide["lm_head.weight"].T
