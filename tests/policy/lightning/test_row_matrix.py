import pytest
import torch

from cispo.policy.lightning.projection import Projection
from cispo.policy.lightning.row_matrix import RowMatrix, doubled

SHAPES = {
    "small": (96, 48),
    "odd": (131, 100),
    "more than a cache holds": (1300, 512),
    "of many inputs": (200, 2048),
}


def _numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def weight(request):
    return _numbers(*request.param)


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_rows_are_multiplied_as_in_float64(weight, rows):
    x = _numbers(rows, weight.shape[1], seed=1)
    expected = x.double() @ weight.double().t()
    actual = RowMatrix(weight)(x)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < 1e-6 * expected.abs().max()


def test_a_row_has_the_same_bits_in_any_company(weight):
    matrix, x = RowMatrix(weight), _numbers(300, weight.shape[1], seed=1)
    everyone = matrix(x)
    for start, stop in ((0, 1), (7, 8), (3, 5), (0, 3), (11, 27), (40, 140)):
        assert torch.equal(matrix(x[start:stop]), everyone[start:stop])
    assert torch.equal(matrix(doubled(x[4:5])), everyone[[4, 4]])


def test_joined_weights_give_what_each_gives(weight):
    other, x = _numbers(64, weight.shape[1], seed=2), _numbers(5, weight.shape[1], seed=1)
    expected = torch.cat((RowMatrix(weight)(x), RowMatrix(other)(x)), dim=1)
    torch.testing.assert_close(RowMatrix(weight, other)(x), expected, rtol=1e-5, atol=1e-4)


def test_bfloat16_weights_round_the_rows_and_not_the_result(weight):
    projection = Projection(weight.shape[1], weight.shape[0]).bfloat16()
    x = _numbers(20, weight.shape[1], seed=1)
    with torch.no_grad():
        expected = projection(x)
        actual = RowMatrix(projection.weight)(x)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(actual, actual.bfloat16().float())


def test_a_matrix_is_a_copy(weight):
    matrix, x = RowMatrix(weight), _numbers(3, weight.shape[1], seed=1)
    before = matrix(x)
    weight.zero_()
    assert torch.equal(matrix(x), before)
