"""The host that attempts are aimed at: secrets, listeners, a bystander, and what became of them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

SECRETS = {
    "file": "secret-of-a-file-8c1f",
    "environment": "secret-of-the-environment-77aa",
    "argument": "secret-of-an-argument-19bd",
    "memory": "secret-in-memory-c0ffee",
    "descriptor": "secret-of-a-descriptor-5e5e",
    "earlier": "secret-of-an-earlier-run-4d4d",
}
"""What no output may hold."""

SHARED_KEY = 4242
"""Of shared memory that attempts make."""

_BYSTANDER = """
import ctypes, sys, time
held = ctypes.create_string_buffer(b"secret-in-memory-" + b"c0ffee")
print(ctypes.addressof(held), flush=True)
time.sleep(3600)
"""


class Host:
    """What is at stake on this machine."""

    def __init__(self, *, jail_uid: int) -> None:
        """Set it all up.

        Args:
            jail_uid: User that programs run as here; the bystander runs as the same.
        """
        self._owned = ExitStack()
        self._received: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="cispo-hostile-"))
        self._owned.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._folder.chmod(0o755)
        self._secret = self._folder / "secret"
        self._secret.write_text(SECRETS["file"])
        self._secret.chmod(0o644)
        self._writable = self._folder / "writable"
        self._writable.mkdir()
        self._writable.chmod(0o777)
        self._leak()
        self._bystander, self._bystander_address = self._start_bystander(jail_uid)
        self._listen()
        self._before = self._facts()
        self._clock = time.time() - time.monotonic()

    @property
    def targets(self) -> Mapping[str, object]:
        """What `{names}` in the code of attempts stand for."""
        return {
            "secret": self._secret,
            "writable": self._writable,
            "pid": self._bystander.pid,
            "bystander_address": self._bystander_address,
            "address": self._address,
            "port": self._port,
            "udp_port": self._udp_port,
            "vsock_port": 5555,
            "unix": self._folder / "socket",
            "abstract": self._abstract,
            "earlier": SECRETS["earlier"],
            "needle": SECRETS["earlier"][:16][::-1],
            "key": SHARED_KEY,
        }

    def damage(self) -> list[str]:
        """Return what has become different, in words."""
        found = [f"something arrived at {name}" for name in self._received]
        self._received.clear()
        after = self._facts()
        found += [
            f"{name} changed: {self._before[name]} -> {value}"
            for name, value in after.items()
            if value != self._before[name]
        ]
        self._before = after
        if abs(time.time() - time.monotonic() - self._clock) > 30.0:
            found.append("the clock was set")
        return found

    def close(self) -> None:
        """Take it down."""
        self._owned.close()

    def _leak(self) -> None:
        """Put secrets where a careless worker has them: environment and open descriptors."""
        os.environ["CISPO_API_KEY"] = SECRETS["environment"]
        self._owned.callback(os.environ.pop, "CISPO_API_KEY")
        other = self._folder / "other"
        other.write_text(SECRETS["descriptor"])
        descriptor = os.open(other, os.O_RDWR)
        os.set_inheritable(descriptor, True)
        self._owned.callback(os.close, descriptor)

    def _start_bystander(self, uid: int) -> tuple[subprocess.Popen[str], int]:
        """Start a process of the sandbox's own user, with secrets in it."""
        code = [shutil.which("python3", path="/usr/bin") or "python3", "-c", _BYSTANDER]
        process = subprocess.Popen(
            [*code, SECRETS["argument"]],
            stdout=subprocess.PIPE,
            text=True,
            env={"SECRET": SECRETS["environment"]},
            user=uid if os.geteuid() == 0 else None,
            cwd="/",
        )
        self._owned.callback(process.wait)
        self._owned.callback(process.kill)
        assert process.stdout is not None
        address = int(process.stdout.readline())
        self._owned.callback(process.stdout.close)
        return process, address

    def _listen(self) -> None:
        self._port, self._udp_port = 0, 0
        self._abstract = f"cispo-hostile-{os.getpid()}"
        tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self._port = tcp.getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", 0))
        self._udp_port = udp.getsockname()[1]
        listeners = {"tcp": tcp, "udp": udp}
        for name, address in (
            ("a unix socket", str(self._folder / "socket")),
            ("an abstract unix socket", f"\0{self._abstract}"),
        ):
            listeners[name] = socket.socket(socket.AF_UNIX)
            listeners[name].bind(address)
            listeners[name].listen()
        (self._folder / "socket").chmod(0o777)
        with contextlib.suppress(OSError):
            listeners["vsock"] = socket.socket(socket.AF_VSOCK)
            listeners["vsock"].bind((socket.VMADDR_CID_ANY, 5555))
            listeners["vsock"].listen()
        self._address = _own_address()
        for name, listener in listeners.items():
            thread = threading.Thread(target=self._accept, args=(name, listener), daemon=True)
            thread.start()
            self._owned.callback(listener.close)
            self._owned.callback(_shut_down, listener)

    def _accept(self, name: str, listener: socket.socket) -> None:
        while True:
            try:
                if listener.type == socket.SOCK_DGRAM:
                    listener.recv(64)
                else:
                    listener.accept()[0].close()
            except OSError:
                return
            self._received.append(name)

    def _facts(self) -> dict[str, object]:
        pid = self._bystander.pid
        fields = dict(_status(pid))
        state = fields.get("State", "gone").strip().split(" ")[0]
        return {
            "the bystander": "dead"
            if state in "ZXgone"
            else "stopped"
            if state in "Tt"
            else "well",
            "its debugger": fields.get("TracerPid", ""),
            "its processors": fields.get("Cpus_allowed", ""),
            "its priority": _priority(pid),
            "files of the machine": sorted(os.listdir(self._writable)),
            "folders of the machine": [_entries(folder) for folder in ("/usr", "/usr/bin", "/etc")],
            "the secret": self._secret.read_text(),
            "the host name": socket.gethostname(),
            "core dumps": _read("/proc/sys/kernel/core_pattern"),
            "shared memory": _read("/proc/sysvipc/shm").count("\n"),
            "semaphores": _read("/proc/sysvipc/sem").count("\n"),
            "queues": _read("/proc/sysvipc/msg").count("\n"),
            "keys": _keys_of(SANDBOX_USERS),
        }


SANDBOX_USERS = (61000,)


def all_processes() -> set[int]:
    """Return the numbers of all processes of the machine."""
    return {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}


def processes_named(name: str, *, besides: Collection[int] = ()) -> list[int]:
    """Return the processes whose name a program has set to this.

    Args:
        name: As the kernel keeps it.
        besides: Processes that are not looked at, which would take most of the time.
    """
    return [
        pid
        for pid in sorted(all_processes().difference(besides))
        if _read(f"/proc/{pid}/comm").strip() == name
    ]


def wake(pids: list[int]) -> None:
    """Let programs that hold go on."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)


def _own_address() -> str:
    """Return the machine's address towards others, or its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _shut_down(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _status(pid: int) -> Iterator[tuple[str, str]]:
    for line in _read(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(":")
        yield name, value


def _priority(pid: int) -> int:
    try:
        return os.getpriority(os.PRIO_PROCESS, pid)
    except OSError:
        return 0


def _entries(folder: str) -> int:
    return len(os.listdir(folder))


def _keys_of(users: tuple[int, ...]) -> list[str]:
    lines = _read("/proc/key-users").splitlines()
    return [line for line in lines if int(line.split(":")[0]) in users]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
