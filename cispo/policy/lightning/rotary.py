"""Rotary position embedding of the first `rotary_dim` dimensions of a head (half-split pairs)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines of the angles of each token, [N, 1, rotary_dim / 2] float32."""

    cos: Tensor
    sin: Tensor


def rotation(positions: Tensor, *, rotary_dim: int, theta: float) -> Rotation:
    """Angles position / theta^(2i / rotary_dim), i < rotary_dim / 2, of positions [N]."""
    frequency = frequencies(rotary_dim, theta=theta, device=positions.device)
    angle = positions.view(-1, 1, 1).float() * frequency
    return Rotation(angle.cos(), angle.sin())


def frequencies(rotary_dim: int, *, theta: float, device: torch.device | str = "cpu") -> Tensor:
    """Radians a token of each pair, [rotary_dim / 2] float32."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device)
    return theta ** (-exponent / max(rotary_dim, 1))


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate pairs (i, i + rotary_dim / 2) of heads x [N, H, D]; the dimensions behind stay."""
    half = by.cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    left = first * by.cos - second * by.sin
    right = second * by.cos + first * by.sin
    return torch.cat((left.to(x.dtype), right.to(x.dtype), rest), dim=-1)
