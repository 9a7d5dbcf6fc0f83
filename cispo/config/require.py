"""The one way in which a bad value is refused."""

from cispo.errors import ConfigError


def require(condition: bool, key: str, value: object, advice: str) -> None:
    """Raise a `ConfigError` of the key, the value and the advice, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key}={value}: {advice}")
