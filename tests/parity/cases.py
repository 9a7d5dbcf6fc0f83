"""What the parity matrix runs over: kernels, architectures and packed rows."""

import pytest

from cispo.policy.lightning.config import FULL, LINEAR

KERNELS = ("torch", "native")
DENSE = {"num_local_experts": 1, "num_experts_per_tok": 1}
ARCHITECTURES = {
    "dense": DENSE,
    "experts": {"num_local_experts": 12, "num_experts_per_tok": 3},
    "linear": {**DENSE, "layer_types": (LINEAR, LINEAR), "num_hidden_layers": 2},
    "softmax": {**DENSE, "layer_types": (FULL, FULL), "num_hidden_layers": 2},
    # vectors, caches and chunks filled, as in a model that somebody trains
    "wide": {
        **DENSE,
        "hidden_size": 256,
        "intermediate_size": 512,
        "head_dim": 64,
        "rotary_dim": 32,
        "block_size": 64,
        "vocab_size": 512,
    },
}
LENGTHS = (1, 2, 3, 15, 16, 17, 40, 63, 64, 65, 130, 300)

every_kernel = pytest.mark.parametrize("kernels", KERNELS)
every_architecture = pytest.mark.parametrize(
    "architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys()
)
