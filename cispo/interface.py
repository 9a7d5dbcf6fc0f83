"""Through which network interface a machine meets others (Linux, stdlib only).

gloo binds to whatever the machine's own name resolves to, which on many systems is the loopback:
ranks on other hosts then wait for an address that is their own.
"""

import contextlib
import fcntl
import os
import socket
import struct

VARIABLE = "GLOO_SOCKET_IFNAME"
"""Environment variable that names the interface for gloo; what a user set stays."""

_GET_ADDRESS = 0x8915  # SIOCGIFADDR of <linux/sockios.h>
_NAME_BYTES = 16
_ADDRESS = slice(20, 24)  # of the answer: the name, then a sockaddr_in with its family and port


def meet_through(host: str) -> None:
    """Let gloo in this process use the interface that reaches a host.

    Args:
        host: IPv4 address or name of the machine where the processes meet, this one included.
            Where no interface is found, gloo goes on choosing by itself.
    """
    if name := interface_towards(host):
        os.environ.setdefault(VARIABLE, name)


def interface_towards(host: str) -> str | None:
    """Name of the interface through which this machine reaches a host, or None."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 1))  # sends nothing, but finds the way
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                if _address_of(probe, name) == own:
                    return name
    except OSError:
        return None
    return None


def _address_of(probe: socket.socket, name: str) -> str | None:
    """Its IPv4 address, where it has one."""
    request = struct.pack(f"{_NAME_BYTES}s16x", name.encode()[: _NAME_BYTES - 1])
    with contextlib.suppress(OSError):
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _GET_ADDRESS, request)[_ADDRESS])
    return None
