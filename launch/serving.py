"""One server from its configuration to the signal that ends it."""

import asyncio
import functools
import signal
import socket
from pathlib import Path

from cispo.config.serve import ServeConfig
from cispo.errors import ConfigError
from rollout.driver import EngineDriver
from rollout.engines import build_engine
from rollout.server.app import serve
from rollout.server.service import Service


def run_server(cfg: ServeConfig, listener: socket.socket, api_key: str | None) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for running requests.

    Args:
        cfg: The whole configuration, checked.
        listener: Bound socket.
        api_key: Key that clients must bring; None lets all in.

    Raises:
        ConfigError: The model cannot be loaded, or has no chat template.
    """
    asyncio.run(_serve(cfg, listener, api_key))


async def _serve(cfg: ServeConfig, listener: socket.socket, api_key: str | None) -> None:
    stop = _stop_on_signals()
    driver = await EngineDriver.start(functools.partial(build_engine, cfg.policy, cfg.rollout))
    try:
        if cfg.chat and driver.tokenizer.chat_template is None:
            raise ConfigError(
                f"chat=true: the tokenizer of policy.path={cfg.policy.path} has no chat template; "
                "put a chat_template.jinja beside its tokenizer.json, or set chat=false to "
                "complete texts only"
            )
        service = Service(
            driver=driver,
            model=cfg.name or Path(str(cfg.policy.path)).name,
            context_length=driver.context_length,
            defaults=cfg.rollout.sampling,
            has_chat=cfg.chat,
        )
        await serve(
            service,
            listener,
            stop,
            api_key=api_key,
            drain_seconds=cfg.drain_seconds,
            on_ready=lambda: print(_greeting(service, listener, cfg), flush=True),
        )
    finally:
        driver.close()


def _stop_on_signals() -> asyncio.Event:
    """Return an event that a signal sets; the next signal ends the process as it always does."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    return stop


def _greeting(service: Service, listener: socket.socket, cfg: ServeConfig) -> str:
    """One line with the address and a first request to try."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(cfg.host, cfg.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
    path, content = "completions", '"prompt":"1 + 1 ="'
    if cfg.chat:
        path, content = "chat/completions", '"messages":[{"role":"user","content":"1 + 1 = ?"}]'
    key = f' -H "Authorization: Bearer ${cfg.api_key}"' if cfg.api_key else ""
    return (
        f"serving {service.model} at {url} until Ctrl-C; try: curl {url}/{path}{key} "
        f"-H 'Content-Type: application/json' -d '{{\"model\":\"{service.model}\",{content}}}'"
    )
