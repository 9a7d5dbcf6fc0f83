"""How our own code gets into a sandbox: as text on the command line of a Python in there."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent
_BOOT = """
import sys, types
for name, text in {sources!r}.items():
    module = types.ModuleType(name)
    module.__path__ = []
    sys.modules[name] = module
    exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
sys.modules["sandboxes.{module}"].{function}({arguments})
"""


def inside_command(modules: tuple[str, ...], function: str, arguments: str) -> tuple[str, ...]:
    """Return a command that calls one of our functions in a Python that has none of our files.

    Args:
        modules: Names in `sandboxes`, each after those that it imports; the function is in the
            last.
        function: Its name.
        arguments: Its arguments, as Python code.
    """
    code = _BOOT.format(
        sources=_sources(modules), module=modules[-1], function=function, arguments=arguments
    )
    return ("python3", "-I", "-S", "-c", code)


@functools.cache
def _sources(modules: tuple[str, ...]) -> dict[str, str]:
    files = {name: _FOLDER / f"{name.replace('.', '/')}.py" for name in modules}
    texts = {f"sandboxes.{name}": file.read_text() for name, file in files.items()}
    return {"sandboxes": "", "sandboxes.inside": "", **texts}


def encode_start(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: str,
    limits: Mapping[str, int],
    tmp_bytes: int,
    files: Mapping[str, bytes],
) -> bytes:
    """Return the message that `sandboxes.inside.payload.Start` reads.

    Args:
        argv: The program's command.
        environment: All its variables.
        cwd: Where it starts.
        limits: Resource limits by the name of their `RLIMIT_` constant, in small letters.
        tmp_bytes: Size of `/tmp` and of `/dev/shm`.
        files: Contents by path below `/tmp`.
    """
    header = {
        "argv": list(argv),
        "environment": dict(environment),
        "cwd": cwd,
        "limits": dict(limits),
        "tmp_bytes": tmp_bytes,
        "files": [(name, len(content)) for name, content in files.items()],
    }
    return b"".join([json.dumps(header).encode(), b"\n", *files.values()])
