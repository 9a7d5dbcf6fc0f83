"""Which experts an engine chose, token by token, laid together for a whole rollout."""

from collections.abc import Sequence

from cispo.errors import ConfigError
from cispo.policy.lightning.config import LightningConfig
from cispo.types import UNROUTED


def require_routes(config: LightningConfig) -> int:
    """Return how many experts a token passes through in all layers.

    Raises:
        ConfigError: There are no routers, or more experts than one byte can name.
    """
    experts = config.num_local_experts
    if not 1 < experts <= UNROUTED:
        raise ConfigError(
            f"rollout.routing_replay=true: num_local_experts={experts} of the model is not in "
            f"2..{UNROUTED}; set it to false"
        )
    return config.num_routes


def joined_routes(parts: Sequence[tuple[int, bytes | None]]) -> bytes | None:
    """Return the routed experts of parts of a rollout, end to end; None where no part has any.

    Args:
        parts: Tokens and routed experts of each, see `cispo.types.Rollout`; None leaves the choice
            to the learner.
    """
    width = max(len(routes or b"") // max(count, 1) for count, routes in parts)
    if width == 0:
        return None
    unknown = bytes([UNROUTED]) * width
    return b"".join(unknown * count if routes is None else routes for count, routes in parts)
