"""What tests of engines share."""

import pytest

from cispo.policy.lightning.native.build import native_library


@pytest.fixture(params=["torch", "native"])
def kernels(request: pytest.FixtureRequest) -> str:
    """Who does it; native ones only where they can be built."""
    if request.param == "native" and native_library() is None:
        pytest.skip("native kernels cannot be built")
    return str(request.param)
