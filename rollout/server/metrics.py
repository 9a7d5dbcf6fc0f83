"""The state of a server in Prometheus' text format."""

from collections.abc import Iterator
from dataclasses import fields

from rollout.driver import Load
from rollout.server.traffic import Traffic

CONTENT_TYPE = "text/plain; version=0.0.4"
_STATES = frozenset({"prefix_bytes", "pages_used", "pages_peak"})
"""Statistics of an engine that go up and down."""


def metrics_text(load: Load, traffic: Traffic) -> str:
    """Write all numbers, one a line, each with its type."""
    return "\n".join([*_engine(load), *_server(traffic), ""])


def _engine(load: Load) -> Iterator[str]:
    yield from _sample("cispo_engine_active_sequences", "gauge", load.num_active)
    for field in fields(load.statistics):
        value = getattr(load.statistics, field.name)
        if field.name in _STATES:
            yield from _sample(f"cispo_engine_{field.name}", "gauge", value)
        else:
            yield from _sample(f"cispo_engine_{field.name}_total", "counter", value)


def _server(traffic: Traffic) -> Iterator[str]:
    yield from _sample("cispo_server_open_requests", "gauge", traffic.num_open)
    yield from _sample("cispo_server_stopping", "gauge", traffic.is_stopping)
    yield "# TYPE cispo_server_responses_total counter"
    for (path, status), count in sorted(traffic.answered.items()):
        yield f'cispo_server_responses_total{{path="{path}",status="{status}"}} {count}'


def _sample(name: str, kind: str, value: float) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    yield f"{name} {float(value):.15g}"
