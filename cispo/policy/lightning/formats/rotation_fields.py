"""How a model rotates its heads according to config.json, which must never be guessed."""

from collections.abc import Mapping
from typing import Any

from cispo.errors import ConfigError

ROTARY_KEY = "cispo_rotary_dim"
"""Our own field of a transformers config.json: how much of a head the weights expect to be rotated,
whatever transformers computes."""

ROTATION_FIELDS = frozenset(
    {
        "rotary_dim",
        "partial_rotary_factor",
        "rope_theta",
        "rope_parameters",
        "rope_scaling",
        ROTARY_KEY,
    }
)
"""Fields of config.json that this module reads."""

_M1_SIZES = {"hidden_size": 6144, "num_hidden_layers": 80, "head_dim": 128}
_M1_NAMES = ("minimax-m1", "minimaxm1", "text-01", "text01")


def rope_theta(values: Mapping[str, Any], *, where: str) -> float:
    """Base of the rotary angles.

    Raises:
        ConfigError: It is missing, said twice in different ways, or scaled.
    """
    nested = values.get("rope_parameters") or {}
    scaling = values.get("rope_scaling") or {}
    for kind in (nested.get("rope_type"), scaling.get("rope_type"), scaling.get("type")):
        if kind not in (None, "default"):
            raise ConfigError(f"{where}: rope_type={kind}: only default is implemented")
    found = {v for v in (values.get("rope_theta"), nested.get("rope_theta")) if v is not None}
    if not found:
        raise ConfigError(
            f"{where}: rope_theta is missing; set it to the base of the rotary angles that the "
            "weights were trained with (10000000 for MiniMax-M1)"
        )
    if len(found) > 1:
        raise ConfigError(
            f"{where}: rope_theta={values['rope_theta']}, but rope_parameters.rope_theta="
            f"{nested['rope_theta']}: transformers 4 reads the first and 5 the second; set both "
            "to the one that the weights were trained with"
        )
    return float(found.pop())


def rotary_dim(
    values: Mapping[str, Any], head_dim: int | None, *, is_native: bool, where: str
) -> int | None:
    """Leading dimensions of a head that are rotated; None where there is no head_dim either.

    The released code reads `rotary_dim`. transformers ignores that and `partial_rotary_factor` and
    rotates the whole head (measured with 4.53 and 5.23), so that its config.json may say what its
    model does not do; then only `ROTARY_KEY` can tell what the weights expect.

    Args:
        values: Content of config.json.
        head_dim: Dimensions of a head.
        is_native: Whether it is transformers' own model type.
        where: What errors begin with.

    Raises:
        ConfigError: The fields do not decide it; the message says what to set.
    """
    if values.get(ROTARY_KEY) is not None:
        return int(values[ROTARY_KEY])
    nested = values.get("rope_parameters") or {}
    declared = {"rotary_dim": values.get("rotary_dim")}
    for name, place in (
        ("partial_rotary_factor", values),
        ("rope_parameters.partial_rotary_factor", nested),
    ):
        factor = place.get("partial_rotary_factor")
        declared[name] = None if factor is None else round(factor * (head_dim or 0))
    said = {name: dims for name, dims in declared.items() if dims is not None}
    if not is_native:
        return _released_rotary_dim(said, where)
    if not said and _is_m1(values):
        raise ConfigError(
            f"{where}: rotary_dim is missing, and this is MiniMax's release, which rotates 64 of "
            f"128 dimensions while transformers rotates all; set {ROTARY_KEY}=64 if the weights "
            "come from the release, or 128 if transformers trained them"
        )
    for name, dims in said.items():
        if dims != head_dim:
            raise ConfigError(
                f"{where}: {name} makes {dims} rotated dimensions, but transformers rotates the "
                f"whole head_dim={head_dim} whatever this says; set {ROTARY_KEY}={dims} if the "
                f"weights come from MiniMax's release, or {head_dim} if transformers trained them"
            )
    return head_dim


def _released_rotary_dim(said: Mapping[str, int], where: str) -> int:
    if "rotary_dim" not in said:
        raise ConfigError(
            f"{where}: rotary_dim is missing; set it to the leading dimensions of a head that are "
            "rotated (64 for MiniMax-M1)"
        )
    if len(set(said.values())) > 1:
        named = ", ".join(f"{name} makes {dims}" for name, dims in said.items())
        raise ConfigError(
            f"{where}: {named} rotated dimensions; keep rotary_dim, which the released code reads, "
            "at the right one and take the others out"
        )
    return said["rotary_dim"]


def _is_m1(values: Mapping[str, Any]) -> bool:
    if all(values.get(key) == size for key, size in _M1_SIZES.items()):
        return True
    said = str([values.get(key) for key in ("_name_or_path", "architectures", "auto_map")]).lower()
    return any(name in said for name in _M1_NAMES)
