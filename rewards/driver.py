"""Runs a program once a test, inside the sandbox; whoever reads its output trusts nothing here.

Standard input holds frames: a decimal length, a newline, that many bytes. The first frame is the
program, each further one is a test: its standard input, or the arguments of a call. For each test a
line `index status length` goes out, then what it printed, or the call's result as JSON; status is
that of `waitpid`, turned into an exit code. What is expected is not here.

Arguments: the most bytes of one output, and the function that is called, empty for none.

A test runs in a fork of this process, in which the program is compiled already. This file is never
imported by the reward worker: its source is sent into the sandbox.
"""

import atexit
import builtins
import gc
import os
import signal
import sys
import types


def read_frames() -> list[bytes]:
    """Return the frames of standard input."""
    frames = []
    with open(0, "rb", closefd=False) as stream:
        while header := stream.readline():
            frames.append(stream.read(int(header)))
    return frames


def run(compiled: types.CodeType, name: str) -> types.ModuleType:
    """Run the program as a module; standard input and output are in place."""
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    module = types.ModuleType(name)
    module.__file__ = "/tmp/program.py"
    sys.modules[name] = module
    sys.argv = ["program.py"]
    exec(compiled, module.__dict__)
    return module


def call(compiled: types.CodeType, function: str, arguments: bytes, result: int) -> None:
    """Call a function, or a method of a new object, and write its result as JSON."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import json

    values = __import__("values")
    given = json.loads(arguments)
    target: object = run(compiled, "program")
    for part in function.split("."):
        target = getattr(target() if isinstance(target, type) else target, part)
    assert callable(target)
    args = [values.decode(value) for value in given["args"]]
    returned = target(*args, **{key: values.decode(v) for key, v in given["kwargs"].items()})
    with open(result, "w") as stream:
        json.dump(values.encode(returned), stream)


def leave() -> None:
    """Exit as the interpreter does, but without taking it apart, which costs 3 ms."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not getattr(stream, "closed", False):
            stream.flush()
    sys.modules["__main__"].__dict__.clear()  # files that the program left open flush as they go
    gc.collect()
    os._exit(0)


def child_call(compiled: types.CodeType, function: str, arguments: bytes, result: int) -> None:
    """Run one call and leave; what it prints goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    call(compiled, function, arguments, result)
    os._exit(0)


def child(compiled: types.CodeType, stdin: bytes, stdout: int) -> None:
    """Run one test and leave; returns only by an exception."""
    source = os.memfd_create("stdin")
    os.write(source, stdin)
    os.lseek(source, 0, os.SEEK_SET)
    os.dup2(source, 0)
    os.dup2(stdout, 1)
    os.close(source)
    os.close(stdout)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    run(compiled, "__main__")
    leave()


def collect(descriptor: int, max_bytes: int) -> bytes | None:
    """Return everything up to the end of a pipe, or None as soon as that is too much."""
    output = bytearray()
    while chunk := os.read(descriptor, 65536):
        output += chunk
        if len(output) > max_bytes:
            return None
    return bytes(output)


def report(index: int, status: int, output: bytes) -> None:
    """Write one test's frame."""
    data = b"%d %d %d\n" % (index, status, len(output)) + output
    while data:
        data = data[os.write(1, data) :]


def drive() -> None:
    """Run the tests, up to one that uses up its processor time or writes too much."""
    max_bytes, function = int(sys.argv[1]), sys.argv[2]
    source, *inputs = read_frames()
    compiled = compile(source, "/tmp/program.py", "exec")
    gc.freeze()
    for index, test in enumerate(inputs):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            if function:
                child_call(compiled, function, test, write_end)
            child(compiled, test, write_end)
        os.close(write_end)
        output = collect(read_end, max_bytes)
        os.close(read_end)
        if output is None:
            os.kill(pid, signal.SIGKILL)
            return
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        report(index, status, output)
        if status == -signal.SIGXCPU:
            return


if __name__ == "__main__":
    drive()
