import math

import torch

from cispo.policy.lightning.rotary import rotate, rotation


def test_only_the_first_rotary_dimensions_turn():
    x = torch.randn(5, 2, 16)
    turned = rotate(x, rotation(torch.arange(5), rotary_dim=6, theta=100.0))
    assert torch.equal(turned[..., 6:], x[..., 6:])
    assert torch.equal(turned[0], x[0])
    assert (turned[1:, :, :6] != x[1:, :, :6]).all()


def test_pairs_are_half_a_rotary_size_apart():
    x = torch.tensor([[[1.0, 0.0, 0.0, 2.0, 9.0]]])
    by = rotation(torch.tensor([3]), rotary_dim=4, theta=100.0)
    # pair (0, 2) turns by 3, pair (1, 3) by 3 / 100^(2/4) = 0.3
    expected = [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3), 9.0]
    torch.testing.assert_close(rotate(x, by)[0, 0], torch.tensor(expected))


def test_scores_depend_on_the_distance_alone():
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def score(i, j):
        at = [rotation(torch.tensor([p]), rotary_dim=8, theta=1e4) for p in (i, j)]
        return (rotate(q, at[0]) * rotate(k, at[1])).sum()

    torch.testing.assert_close(score(7, 3), score(104, 100))


def test_a_rotary_size_of_zero_changes_nothing():
    x = torch.randn(3, 2, 4)
    assert torch.equal(rotate(x, rotation(torch.arange(3), rotary_dim=0, theta=1e4)), x)
