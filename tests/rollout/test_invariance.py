"""What the engines' promise of equal bits rests on."""

import pytest
import torch


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="MKL is not there")
def test_matrix_products_in_this_process_do_not_depend_on_the_number_of_rows() -> None:
    # MKL_CBWR does it, which `tests/conftest.py` sets here and `rollout.roster` in actors
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 1024, generator=generator)
    rows = torch.randn(300, 1024, generator=generator)
    whole = torch.nn.functional.linear(rows, weight)
    for count in (1, 2, 7, 15, 16, 100):
        assert torch.equal(torch.nn.functional.linear(rows[:count], weight), whole[:count])
