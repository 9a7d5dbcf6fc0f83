"""Turns a process into an untrusted program: limits, no privileges, a filter, then the program.

A `Start` says what to become. It travels as one line of JSON with the contents of its files behind
it. A Python program is evaluated in the process itself where that is the same as starting Python,
which saves the start of an interpreter.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Mapping
from typing import NoReturn

from sandboxes.inside import kernel

RESULT = 3
"""Descriptor of the private result pipe, where there is one."""

_BROKEN = 125
_ISOLATED = {"-I", "-S", "-IS", "-SI"}


class Start:
    """What to run and how; see `sandboxes.bootstrap.encode_start` for the other side."""

    def __init__(self, message: bytes) -> None:
        """Read a message.

        Raises:
            ValueError: It is not one.
        """
        header, _, rest = message.partition(b"\n")
        fields = json.loads(header)
        self.argv: list[str] = fields["argv"]
        self.environment: dict[str, str] = fields["environment"]
        self.cwd: str = fields["cwd"]
        self.limits: dict[str, int] = fields["limits"]
        self.tmp_bytes: int = fields["tmp_bytes"]
        self.files: dict[str, bytes] = {}
        for name, length in fields["files"]:
            self.files[name], rest = rest[:length], rest[length:]


def write_files(folder: str, files: Mapping[str, bytes]) -> None:
    """Write files below a folder, replacing whatever lies in their way, links included.

    Raises:
        OSError: A file does not fit.
    """
    for name, content in files.items():
        path = folder
        *parents, last = name.split("/")
        for parent in parents:
            path = f"{path}/{parent}"
            if not os.path.isdir(path) or os.path.islink(path):
                _remove(path)
                os.mkdir(path)
        path = f"{path}/{last}"
        _remove(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o644), "wb") as file:
            file.write(content)


def become(start: Start, *, seccomp: bytes, descriptors: list[int], begun: int) -> NoReturn:
    """Become the program; leaves by the exit of the process.

    Args:
        start: What to run.
        seccomp: Filter.
        descriptors: What become descriptors 0, 1, 2 and, if there is a fourth, `RESULT`.
        begun: Pipe that gets one byte when all our own work is done.
    """
    try:
        os.setsid()
        kernel.unhide()
        kernel.name_process("cispo-program")
        _arrange([*descriptors, begun])
        begun = len(descriptors)
        script = _script(start.argv)
        os.chdir(start.cwd)
        os.environ.clear()
        os.environ.update(start.environment)
        _limit(start.limits, is_evaluated=script is not None)
        kernel.drop_capabilities()
        kernel.filter_calls(seccomp)
        os.write(begun, b"1")
        os.close(begun)
        if script is None:
            _execute(start.argv)
        _evaluate(script, start.argv)
    except BaseException as error:  # our own code failed before the program's began
        os.write(2, f"sandbox: {error}\n".encode())
    finally:
        os._exit(_BROKEN)


def _arrange(descriptors: list[int]) -> None:
    """Give the descriptors their numbers and close all others."""
    high = [os.dup2(descriptor, 64 + index) for index, descriptor in enumerate(descriptors)]
    for index, descriptor in enumerate(high):
        os.dup2(descriptor, index, inheritable=True)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))


def _limit(limits: Mapping[str, int], *, is_evaluated: bool) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        if name == "as" and is_evaluated:  # what the fork server itself maps is not the program's
            with open("/proc/self/statm") as file:
                value += int(file.read().split()[0]) * resource.getpagesize()
        hard = value + 1 if name == "cpu" else value
        resource.setrlimit(number, (value, hard))


def _execute(argv: list[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _script(argv: list[str]) -> tuple[str, str | None, list[str]] | None:
    """Return what Python would run: a file's name, or the code; and its `sys.argv`.

    None where a new interpreter is needed: another command, or flags that this one was not started
    with.
    """
    if argv[0] != "python3":
        return None
    flags = []
    rest = argv[1:]
    while rest and rest[0] in _ISOLATED:
        flags.append(rest.pop(0))
    if not {"I", "S"} <= set("".join(flags)):
        return None
    if len(rest) >= 2 and rest[0] == "-c":
        return "<string>", rest[1], ["-c", *rest[2:]]
    if rest and not rest[0].startswith("-"):
        return rest[0], None, rest
    return None


def _evaluate(script: tuple[str, str | None, list[str]], argv: list[str]) -> NoReturn:
    """Run Python code as its own interpreter would, and leave as it would, without tearing down."""
    name, code, sys.argv = script
    sys.orig_argv[:] = argv
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # else all programs would draw the same numbers
    main = types.ModuleType("__main__")
    main.__dict__.update({"__builtins__": builtins, "__annotations__": {}})
    sys.modules["__main__"] = main
    _forget_own_modules()
    status = 1
    try:
        source: str | bytes | None = code
        if source is None:
            main.__file__ = name
            source = _read(name)
        exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)
        status = 0
    except SystemExit as end:
        status = _exit_status(end.code)
    except BaseException as error:
        traceback = error.__traceback__
        if traceback is not None:
            traceback = traceback.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
    finally:
        _leave(status, main)


def _forget_own_modules() -> None:
    """Leave the program modules of its own alone.

    Ours are found below their packages: a look at every name would write to, and so copy, a page of
    memory for each module that is preloaded.
    """
    for package in ("sandboxes.inside", "sandboxes"):
        for name, member in vars(sys.modules.pop(package)).items():
            if isinstance(member, types.ModuleType):
                sys.modules.pop(f"{package}.{name}", None)


def _read(name: str) -> str | bytes:
    try:
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        number, reason = error.errno, error.strerror
        sys.stderr.write(f"python3: can't open file '{name}': [Errno {number}] {reason}\n")
        raise SystemExit(2) from None


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _leave(status: int, main: types.ModuleType) -> NoReturn:
    """Exit as the interpreter does, but without taking it apart, which costs 3 ms."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
        _flush()
        main.__dict__.clear()  # files that the program left open flush as they go
        gc.collect()
        _flush()
    finally:
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


def _remove(path: str) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if os.path.islink(path) or not os.path.isdir(path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        return
    for name in os.listdir(path):
        _remove(f"{path}/{name}")
    os.rmdir(path)
