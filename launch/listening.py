"""Takes the port and reads the key of a server, before anything heavy is loaded."""

import os
import socket

from cispo.errors import ConfigError


def bound_socket(host: str, port: int) -> socket.socket:
    """Take the port before a model is loaded.

    Raises:
        ConfigError: It is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"port={port}: cannot listen on {host}: {error.strerror}; choose another port, or "
            "port=0 for any free one"
        ) from error


def read_api_key(variable: str | None) -> str | None:
    """Read the key.

    Raises:
        ConfigError: The variable is not set; its name is not repeated, as it may be the key itself.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            "api_key: there is no environment variable of this name; set it to the key, and "
            "api_key= to the variable's name"
        )
    return key
