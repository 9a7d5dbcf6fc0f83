"""One seed becomes independent streams that are told apart by name."""

import hashlib


def stream_seed(seed: int, *names: str | int) -> int:
    """Derive the seed of a named stream.

    Args:
        seed: The run's seed, or the seed of another stream.
        names: What the stream is for, for example `("rollout", 17)`.

    Returns:
        A number in 0 .. 2**63 - 1, the same on every machine.
    """
    text = "\0".join(map(repr, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
