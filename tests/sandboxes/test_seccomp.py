"""The filters as programs: well formed, and no jump leaves them."""

import struct

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes import seccomp
from sandboxes.syscalls import PROCESSORS

BUILDERS = [seccomp.jail_filter, seccomp.compute_only_filter]


def run_filter(program: bytes, number: int, *arguments: int, arch: int) -> int:
    """An interpreter of the instructions that the filters use; returns the verdict."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", program))
    position, value = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[position]
        position += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = struct.unpack_from("=I", data, operand)[0]
            continue
        holds = {0x15: value == operand, 0x45: bool(value & operand), 0x35: value >= operand}[code]
        position += if_true if holds else if_false


ALLOW, KILL = 0x7FFF0000, 0x80000000


@pytest.mark.parametrize("machine", list(PROCESSORS))
@pytest.mark.parametrize("build", BUILDERS)
def test_every_named_call_gets_a_verdict(monkeypatch, machine, build) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    cpu, program = PROCESSORS[machine], build()
    for number in range(500):
        assert run_filter(program, number, arch=cpu.audit_arch) is not None
    assert run_filter(program, 0, arch=0x40000003) == KILL


@pytest.mark.parametrize("machine", list(PROCESSORS))
def test_the_jail_refuses_what_namespaces_do_not_contain(monkeypatch, machine) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    cpu, program = PROCESSORS[machine], seccomp.jail_filter()

    def verdict(name: str, *arguments: int) -> int:
        return run_filter(program, cpu.numbers[name], *arguments, arch=cpu.audit_arch)

    assert all(verdict(name) != ALLOW for name in ("mount", "ptrace", "bpf", "keyctl", "clone3"))
    assert all(verdict(name) == ALLOW for name in ("read", "execve", "openat", "kill"))
    assert [verdict("socket", domain) == ALLOW for domain in (1, 2, 10)] == [True] * 3
    assert [verdict("socket", domain) == ALLOW for domain in (40, 17, 38)] == [False] * 3
    assert verdict("socket", 16, 3, 0) == ALLOW  # the list of interfaces
    assert verdict("socket", 16, 3, 9) != ALLOW  # the audit log
    assert verdict("clone", 17) == ALLOW  # fork
    assert verdict("clone", 0x10000000 | 17) != ALLOW  # a user namespace
    assert verdict("ioctl", 0, 0x5401) == ALLOW
    assert verdict("ioctl", 0, 0x5412) != ALLOW  # typing into the terminal


@pytest.mark.parametrize("machine", list(PROCESSORS))
def test_a_process_that_only_computes_reads_but_does_not_write(monkeypatch, machine) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    cpu, program = PROCESSORS[machine], seccomp.compute_only_filter()

    def verdict(name: str, *arguments: int) -> int:
        return run_filter(program, cpu.numbers[name], *arguments, arch=cpu.audit_arch)

    assert verdict("openat", 0, 0, 0o2000000) == ALLOW  # O_RDONLY | O_CLOEXEC
    assert all(verdict("openat", 0, 0, flags) != ALLOW for flags in (1, 2, 0o100, 0o1000))
    assert all(verdict(name) != ALLOW for name in ("execve", "clone", "socket", "kill"))


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc64")
    with pytest.raises(SandboxUnavailableError, match=r"layer seccomp.*sparc64"):
        seccomp.jail_filter()
