"""Runs hidden tests with pytest and tells twice what became of each; untrusted from its start on.

The order comes as JSON on standard input, results go as JSON lines to the descriptor that the first
argument names. Code under test is imported into this very process, so nothing that it says is
believed by itself: see `rewards.swe.verdict`.

This file is never imported by a reward worker: its source is sent into the sandbox.
"""

import json
import os
import sys
from typing import Any


class Reporter:
    """A plugin of pytest: selects tests and reports on them by two ways."""

    def __init__(self, descriptor: int, nonce: str, selected: list[str] | None) -> None:
        self._descriptor = descriptor
        self._nonce = nonce
        self._selected = None if selected is None else set(selected)

    def tell(self, *what: object) -> None:
        """Send one line."""
        data = json.dumps([self._nonce, *what]).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Keep the selected tests, in their own order."""
        kept = [item for item in items if self._is_selected(item.nodeid)]
        others = [item for item in items if not self._is_selected(item.nodeid)]
        config.hook.pytest_deselected(items=others)
        items[:] = kept
        self.tell("collected", [item.nodeid for item in kept])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Tell what pytest made of one phase of a test."""
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        self.tell("report", report.nodeid, report.when, outcome)

    def _is_selected(self, nodeid: str) -> bool:
        wanted = self._selected
        return wanted is None or nodeid in wanted or nodeid.partition("[")[0] in wanted


def call_hook(reporter: Reporter, pytest: Any) -> Any:
    """Return a plugin that tells how the call of each test ended, before pytest judges it."""

    class CallReporter:
        @pytest.hookimpl(hookwrapper=True, trylast=True)  # type: ignore[untyped-decorator]
        def pytest_runtest_call(self, item: Any) -> Any:
            outcome = yield
            raised = [outcome.excinfo[0]] if outcome.excinfo else []
            raised += [info.type for info in getattr(item, "_excinfo", None) or ()]  # unittest's
            if not raised:
                reporter.tell("call", item.nodeid, "passed")
            else:
                is_skip = all(issubclass(kind, pytest.skip.Exception) for kind in raised)
                reporter.tell("call", item.nodeid, "skipped" if is_skip else "failed")

    return CallReporter()


def main() -> None:
    """Run the tests of the order."""
    order = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    own = sys.path[:]
    sys.path += [order["packages"]]
    import pytest

    sys.path[:] = [*own, *order["source_roots"], order["packages"]]
    os.environ["PYTHONPATH"] = os.pathsep.join([*order["source_roots"], order["packages"]])
    sys.argv = ["pytest"]
    reporter = Reporter(descriptor, order["nonce"], order["selected"])
    reporter.tell("start")
    options = ["-q", "--tb=line", "--assert=plain", "-o", "addopts=", "-p", "no:cacheprovider"]
    options += [word for name in order["plugins"] for word in ("-p", name)]
    options += ["--rootdir", order["repo"], *order["files"]]
    status = pytest.main(options, plugins=[reporter, call_hook(reporter, pytest)])
    reporter.tell("finish", int(status))


if __name__ == "__main__":
    main()
