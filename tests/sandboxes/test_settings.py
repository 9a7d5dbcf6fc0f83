"""Which sandbox a configuration asks for, and which settings are refused."""

import pytest

from cispo.config import SandboxConfig
from cispo.errors import ConfigError, SandboxUnavailableError
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.build import build_sandbox, sandbox_limits
from sandboxes.pool import SandboxPool
from sandboxes.warm import WarmSandbox

TOKEN = "a token for these tests only"


def test_bubblewrap_is_warm_unless_each_program_is_to_have_its_jail() -> None:
    try:
        assert isinstance(build_sandbox(SandboxConfig()), WarmSandbox)
        assert isinstance(build_sandbox(SandboxConfig(runs_per_server=0)), BubblewrapSandbox)
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, security is untested: {error}")


def test_limits_are_those_of_the_configuration() -> None:
    limits = sandbox_limits(SandboxConfig(cpu_seconds=3.0, max_processes=5, output_bytes=7))
    assert (limits.cpu_seconds, limits.max_processes, limits.output_bytes) == (3.0, 5, 7)


def test_without_the_variable_the_remote_backend_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CISPO_SANDBOX_TOKEN", raising=False)
    config = SandboxConfig(backend="remote", hosts=["http://127.0.0.1:9"])
    with pytest.raises(SandboxUnavailableError, match="CISPO_SANDBOX_TOKEN"):
        build_sandbox(config)
    monkeypatch.setenv("CISPO_SANDBOX_TOKEN", TOKEN)
    assert isinstance(build_sandbox(config), SandboxPool)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"backend": "none"}, "sandbox.backend=none"),
        ({"backend": "remote"}, "sandbox.hosts"),
        ({"hosts": ["http://a"]}, "needs sandbox.backend=remote"),
        ({"backend": "remote", "hosts": ["a:1"]}, "sandbox.hosts=a:1"),
        ({"backend": "remote", "hosts": ["http://a", "http://a"]}, "twice"),
        ({"backend": "remote", "hosts": ["http://a"], "preload": ["numpy"]}, "sandbox.preload"),
        ({"backend": "container"}, "sandbox.image"),
        ({"image": "x"}, "needs sandbox.backend=container"),
        ({"runtime": "runc"}, "sandbox.runtime=runc"),
        ({"backend": "container", "image": "x", "engine": "lxc"}, "sandbox.engine=lxc"),
        ({"runs_per_server": -1}, "sandbox.runs_per_server=-1"),
        ({"runs_per_server": 0, "preload": ["numpy"]}, "sandbox.preload"),
        ({"output_bytes": 0}, "sandbox.output_bytes=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace("[", r"\[")):
        SandboxConfig(**fields)  # type: ignore[arg-type]
