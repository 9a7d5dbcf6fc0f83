"""Real attacks from inside a jail; each prints HELD unless it got through."""

import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from sandboxes.base import ExecResult

Attack = Callable[[str], Awaitable[ExecResult]]
Targets = dict[str, object]

REFUSED = """
import ctypes, os, socket, sys
def refused(action):
    try:
        action()
    except OSError:
        return
    print("GOT THROUGH", action)
    os._exit(1)
def call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if libc.syscall(number, *arguments) >= 0:
        return
    raise OSError(ctypes.get_errno(), "refused")
"""

ATTACKS = {
    "tcp": "refused(lambda: socket.create_connection(('1.1.1.1', 53), 2))",
    "udp": "refused(lambda: socket.socket(2, 2).sendto(b'x', ('8.8.8.8', 53)))",
    "tcp to the machine": "refused(lambda: socket.create_connection(('127.0.0.1', {port}), 2))",
    "name look-up": "refused(lambda: socket.getaddrinfo('example.com', 80))",
    "vsock": "refused(lambda: socket.socket(40, 1))",
    "packet socket": "refused(lambda: socket.socket(17, 3))",
    "crypto socket": "refused(lambda: socket.socket(38, 5))",
    "raw socket": "refused(lambda: socket.socket(2, 3, 1))",
    "netlink audit": "refused(lambda: socket.socket(16, 3, 9))",
    "abstract unix socket": "s = socket.socket(1); refused(lambda: s.connect('\\0{abstract}'))",
    "unix socket in /tmp": "s = socket.socket(1); refused(lambda: s.connect('{unix}'))",
    "secret file": "refused(lambda: open('{secret}'))",
    "secret by symlink": (
        "os.symlink('{secret}', '/tmp/link'); refused(lambda: open('/tmp/link'))"
    ),
    "secret by a climb": "refused(lambda: open('/proc/1/root/../../{secret}'))",
    "shadow": "refused(lambda: open('/etc/shadow'))",
    "home": "refused(lambda: os.listdir('/root'))",
    "write to /usr": "refused(lambda: open('/usr/lib/x', 'w'))",
    "write to /": "refused(lambda: os.mkdir('/x'))",
    "write to /dev": "refused(lambda: open('/dev/x', 'w'))",
    "write to /proc/sys": "refused(lambda: open('/proc/sys/kernel/hostname', 'w'))",
    "sysrq": "refused(lambda: open('/proc/sysrq-trigger', 'w'))",
    "disk device": "refused(lambda: os.mknod('/tmp/disk', 0o60666, os.makedev(8, 0)))",
    "kernel memory": "refused(lambda: open('/dev/mem', 'rb'))",
    "kernel log": "refused(lambda: open('/dev/kmsg', 'rb'))",
    "kill the launcher": "refused(lambda: os.kill({pid}, 9))",
    "become root": "refused(lambda: os.setuid(0))",
    "mount": "refused(lambda: call(165, b'none', b'/tmp', b'tmpfs', 0, None))",
    "unmount": "refused(lambda: call(166, b'/proc', 2))",
    "chroot": "refused(lambda: os.chroot('/tmp'))",
    "user namespace": "refused(lambda: call(272, 0x10000000))",
    "user namespace by clone": "refused(lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0))",
    "clone3": "refused(lambda: call(435, 0, 0))",
    "ptrace": "refused(lambda: call(101, 16, os.getppid(), 0, 0))",
    "io_uring": "refused(lambda: call(425, 8, ctypes.create_string_buffer(256)))",
    "bpf": "refused(lambda: call(321, 0, ctypes.create_string_buffer(64), 64))",
    "userfaultfd": "refused(lambda: call(323, 0))",
    "keyring": "refused(lambda: call(250, 0, -3, 1))",
    "clock": "refused(lambda: call(227, 0, ctypes.create_string_buffer(16)))",
    "32-bit numbers": "refused(lambda: call(0x40000000 + 39))",
    "raise a limit": (
        "import resource as r\n"
        "try: r.setrlimit(r.RLIMIT_CPU, (999, 999)); print('GOT THROUGH')\n"
        "except (OSError, ValueError): pass"
    ),
    "more than the disk": (
        "f = open('/tmp/fill', 'wb', 0)\n"
        "refused(lambda: [f.write(bytes(65536)) for _ in range(1000)])"
    ),
    "more than shared memory": (
        "f = open('/dev/shm/fill', 'wb', 0)\n"
        "refused(lambda: [f.write(bytes(65536)) for _ in range(1000)])"
    ),
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    """What attacks aim at: a secret, a listening port and two sockets of the machine."""
    folder = tmp_path_factory.mktemp("targets")
    secret = folder / "secret"
    secret.write_text("the secret")
    tcp = socket.create_server(("127.0.0.1", 0))
    abstract = f"cispo-test-{os.getpid()}"
    listeners = [tcp]
    for address in (str(folder / "socket"), f"\0{abstract}"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        listeners.append(listener)
    yield {
        "port": tcp.getsockname()[1],
        "abstract": abstract,
        "unix": folder / "socket",
        "secret": secret,
        "pid": os.getpid(),
    }
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("name", list(ATTACKS))
async def test_an_attack_is_refused(attack: Attack, targets: Targets, name: str) -> None:
    if "call(" in ATTACKS[name] and os.uname().machine != "x86_64":
        pytest.skip("the attack uses x86_64 system call numbers")
    code = REFUSED + ATTACKS[name].format(**targets) + "\nprint('HELD')"
    result = await attack(code)
    assert result.stdout == b"HELD\n", result


async def test_the_environment_and_descriptors_of_the_worker_do_not_leak(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "the secret")
    result = await attack(
        "import json, os; print(json.dumps([sorted(os.environ), os.listdir('/proc/self/fd')]))",
    )
    names, descriptors = json.loads(result.stdout)
    assert names == [
        "HOME",
        "LANG",
        "PATH",
        "PWD",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONHASHSEED",
        "TZ",
    ]
    assert len(descriptors) == 4  # the three standard ones, and that of the listing


async def test_other_processes_cannot_be_seen(attack: Attack) -> None:
    code = "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))"
    assert int((await attack(code)).stdout) <= 2  # init and itself
