"""The one way in which a bad value is refused."""

from enum import StrEnum

from cispo.errors import ConfigError


def require(condition: bool, key: str, value: object, advice: str) -> None:
    """Raise a `ConfigError` of the key, the value and the advice, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key}={value}: {advice}")


def require_member(kind: type[StrEnum], key: str, value: str) -> None:
    """Raise a `ConfigError` unless the value is one of the enum's."""
    names = [member.value for member in kind]
    require(value in names, key, value, f"choose one of {', '.join(names)}")
