"""The watch page of one run, from its configuration to the signal that ends it."""

import asyncio
import signal
from pathlib import Path

from cispo.config.watch import WatchConfig
from cispo.errors import ConfigError
from cispo.watch.run_view import RunView
from cispo.watch.server import serve_watch
from launch.listening import bound_socket


def run_watch(cfg: WatchConfig) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: There is no run in the folder, or the port is taken.
    """
    folder = Path(cfg.run).expanduser()
    if not any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl")):
        raise ConfigError(
            f"run={cfg.run}: no such run; name a folder with a config.yaml or metrics.jsonl, "
            "for example runs/smoke"
        )
    with bound_socket(cfg.host, cfg.port) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{port}/"

        async def serve() -> None:
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await serve_watch(
                RunView(folder),
                listener,
                stop,
                on_ready=lambda: print(f"watching {folder} at {address} until Ctrl-C", flush=True),
            )

        asyncio.run(serve())
