"""Runs hidden tests that are plain functions, without any package; otherwise as `pytest_runner`.

A file's functions whose names begin with `test_` are called in their order; one passes by returning
and fails by raising.

This file is never imported by a reward worker: its source is sent into the sandbox.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

PASSED, FAILED = 0, 1  # as pytest's exit status


def tell(descriptor: int, nonce: str, *what: object) -> None:
    """Send one line."""
    data = json.dumps([nonce, *what]).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def functions(path: str, number: int) -> dict[str, Callable[[], object]]:
    """Import a file and return its tests by name; none where it cannot be imported."""
    spec = importlib.util.spec_from_file_location(f"hidden_{number}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the code under test raises, its tests do not run
        print(f"{path}: {error!r}", file=sys.stderr)
        return {}
    return {n: f for n, f in vars(module).items() if n.startswith("test_") and callable(f)}


def main() -> None:
    """Run the tests of the order."""
    order: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    descriptor, nonce, selected = int(sys.argv[1]), order["nonce"], order["selected"]
    os.set_inheritable(descriptor, False)
    sys.path += [*order["source_roots"], order["packages"]]
    sys.argv = ["tests"]
    tell(descriptor, nonce, "start")
    found = {
        f"{path}::{name}": function
        for number, path in enumerate(order["files"])
        for name, function in functions(path, number).items()
    }
    tests = {n: test for n, test in found.items() if selected is None or n in selected}
    tell(descriptor, nonce, "collected", list(tests))
    outcomes = {}
    for name, test in tests.items():
        try:
            test()
        except Exception as error:  # a test fails by whatever is raised
            print(f"{name}: {error!r}", file=sys.stderr)
            outcomes[name] = "failed"
            tell(descriptor, nonce, "call", name, "failed")
        else:
            outcomes[name] = "passed"
            tell(descriptor, nonce, "call", name, "passed")
    for name, outcome in outcomes.items():
        for when in ("setup", "call", "teardown"):
            tell(descriptor, nonce, "report", name, when, outcome if when == "call" else "passed")
    tell(descriptor, nonce, "finish", FAILED if "failed" in outcomes.values() else PASSED)


if __name__ == "__main__":
    main()
