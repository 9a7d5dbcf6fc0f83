import pytest

from tests.policy.models import make_config, make_model, pack
from tests.policy.reference import recurrence, reference_logits


class Lightning:
    """What the tests of the hybrid share."""

    config = staticmethod(make_config)
    model = staticmethod(make_model)
    pack = staticmethod(pack)
    recurrence = staticmethod(recurrence)
    reference_logits = staticmethod(reference_logits)


@pytest.fixture(scope="session")
def lightning() -> Lightning:
    return Lightning()
