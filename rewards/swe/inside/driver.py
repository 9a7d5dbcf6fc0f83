"""The trusted process of a grading jail: patches, starts the tests, and alone tells the host.

The host believes only what comes through descriptor 3. The driver hides itself before anything
untrusted runs, so that no other process of its user can open that descriptor or its memory, closes
it to those that it starts, and writes one report when all of them are dead.

This file is never imported by a reward worker: its source is sent into the sandbox.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_DUMPABLE = 4
HOST = 3
TAIL_BYTES = 8192
CHUNK_BYTES = 65536


def become_unreadable() -> None:
    """Close this process's memory and descriptors to all others of the same user.

    Raises:
        OSError: The kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def load(path: str) -> Any:
    """Import one file by its path."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def apply_patch(repo: Path, patches: list[dict[str, Any]]) -> str | None:
    """Change files of the repository; return why that cannot be done, or None."""
    hunks = load("/tmp/hunks.py")
    for patch in patches:
        old, new = patch["old_path"], patch["new_path"]
        for path in filter(None, (old, new)):
            place = repo / path
            if any(folder.is_symlink() for folder in (place, *place.parents)):
                return f"{path} lies behind a symbolic link"
        try:
            if old is None and os.path.lexists(repo / new):
                return f"{new} is there already"
            before = "" if old is None else (repo / old).read_bytes().decode()
            after = hunks.apply_hunks(before, patch["hunks"])
            if old is not None and old != new:
                (repo / old).unlink()
            if new is not None:
                (repo / new).parent.mkdir(parents=True, exist_ok=True)
                (repo / new).write_bytes(after.encode())
                if patch["mode"] is not None:
                    (repo / new).chmod(int(patch["mode"][-3:], 8))
        except (OSError, UnicodeError, hunks.DoesNotApplyError) as error:
            return f"{old or new}: {error}"
    return None


def run_tests(job: dict[str, Any], repo: Path) -> dict[str, Any]:
    """Run the tests in a process of their own and return its lines, exit status and last words."""
    events, events_end = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "/tmp/runner.py", str(events_end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[events_end],
        cwd=repo,
        env={**os.environ, **job["environment"]},
        start_new_session=True,
    ) as process:
        os.close(events_end)
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job["runner"]).encode())
            process.stdin.close()
        output = process.stdout.fileno()
        told, said, has_overflowed = listen(process.pid, events, output, job["max_event_bytes"])
        kill_everything()
        status = process.wait()
    return {
        "events": told.decode(errors="replace").splitlines(),
        "has_overflowed": has_overflowed,
        "status": status,
        "output": said.decode(errors="replace"),
    }


def listen(pid: int, events: int, output: int, max_bytes: int) -> tuple[bytes, bytes, bool]:
    """Read both pipes until the process has ended, whoever else may hold them open."""
    told, said, has_overflowed = bytearray(), bytearray(), False
    handle = os.pidfd_open(pid)
    with selectors.DefaultSelector() as selector:
        for descriptor in (events, output):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        selector.register(handle, selectors.EVENT_READ)
        has_ended = False
        while not has_overflowed:
            ready = [key.fd for key, _ in selector.select(0 if has_ended else None)]
            has_ended |= handle in ready
            if has_ended and not {events, output} & set(ready):
                break
            for descriptor in ready:
                if descriptor == handle:
                    continue
                if not (chunk := os.read(descriptor, CHUNK_BYTES)):
                    selector.unregister(descriptor)
                elif descriptor == events:
                    told += chunk
                    has_overflowed = len(told) > max_bytes
                else:
                    said = (said + chunk)[-TAIL_BYTES:]
    os.close(handle)
    os.close(events)
    return bytes(told), bytes(said), has_overflowed


def kill_everything() -> None:
    """Kill all other processes of the jail; nothing untrusted lives when the report goes out."""
    own = {"1", str(os.getpid())}
    for _ in range(1000):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)
        alive = [name for name in os.listdir("/proc") if name.isdigit() and name not in own]
        if all(is_dead(name) for name in alive):
            return
        time.sleep(0.001)


def is_dead(pid: str) -> bool:
    """Whether a process is gone or waits only to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def main() -> None:
    """Do the job that lies beside this file."""
    become_unreadable()
    os.set_inheritable(HOST, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    place = Path("/tmp/job.json")
    job = json.loads(place.read_bytes())
    place.unlink()
    repo = Path(job["repo"])
    failure = apply_patch(repo, job["patches"])
    report = {"failure": failure} if failure else run_tests(job, repo)
    message = json.dumps(report).encode()
    while message:
        message = message[os.write(HOST, message) :]


if __name__ == "__main__":
    main()
