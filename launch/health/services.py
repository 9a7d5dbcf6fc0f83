"""What a run talks to: the sandbox and W&B."""

import asyncio
import os
import socket
from urllib.parse import urlsplit

from cispo.config import SandboxConfig
from launch.health.finding import Finding, Level
from sandboxes.base import Outcome, Program
from sandboxes.build import build_sandbox, sandbox_limits

_ANSWER = b"42"
_PROGRAM = Program(argv=("python3", "-c", "print(6 * 7)"))
_REACH_SECONDS = 5.0
_WANDB_URL = "https://api.wandb.ai"


def sandbox(settings: SandboxConfig) -> Finding:
    """Prove the sandbox, and run one program in it.

    Raises:
        SandboxUnavailableError: There is none; the message names the layer that refused.
    """
    return asyncio.run(_sandbox(settings))


async def _sandbox(settings: SandboxConfig) -> Finding:
    box = build_sandbox(settings)
    try:
        layers = await box.probe()
        result = await box.run(_PROGRAM, sandbox_limits(settings))
    finally:
        await box.close()
    if result.outcome is not Outcome.EXITED or result.stdout.strip() != _ANSWER:
        said = (result.stderr or result.stdout).decode(errors="replace").strip()[-200:]
        return Finding(
            level=Level.FAIL,
            text=f"sandbox.backend={settings.backend}: print(6 * 7) {result.outcome}: {said!r}",
            fix="see docs/security.md for what this backend needs",
        )
    return Finding(text=f"{settings.backend} ran a program; held by {', '.join(layers)}")


def tracking(mode: str) -> Finding:
    """Reach W&B where a run would, and look whether there are credentials.

    Args:
        mode: `online`, `offline` or `disabled`.
    """
    if mode == "disabled":
        return Finding(text="W&B is off; metrics go to files alone")
    if mode == "offline":
        return Finding(text="W&B is offline: runs are kept in files, `wandb sync` uploads them")
    url = os.environ.get("WANDB_BASE_URL", _WANDB_URL)
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        return Finding(
            level=Level.FAIL,
            text=f"{url} cannot be reached ({error})",
            fix="tracking=wandb_offline and `wandb sync` later, or set WANDB_BASE_URL or a proxy",
        )
    import wandb

    if not wandb.login(prompt=False):
        return Finding(
            level=Level.FAIL,
            text=f"{url} answers, and there are no credentials for it",
            fix="`wandb login`, or tracking=wandb_offline",
        )
    return Finding(text=f"{url} answers, with credentials")
