"""Refuses ranks that cannot share out a model's heads, before anything is started."""

from pathlib import Path

from cispo.config import PolicyConfig


def check_sharing(policy: PolicyConfig, sequence_parallel: int) -> None:
    """Check that so many ranks can compute rows of the policy together.

    Args:
        policy: A lightning model in a folder.
        sequence_parallel: Ranks that share a row.

    Raises:
        ConfigError: They cannot, or the folder's config.json is bad.
    """
    if sequence_parallel == 1 or policy.backend != "lightning" or policy.path is None:
        return
    from cispo.policy.lightning.formats.stored import stored_config  # loads torch

    stored_config(Path(policy.path).expanduser()).require_shareable(sequence_parallel)
