"""Which container engine there is, and the command lines that it is given."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits
from sandboxes.cgroups import owner_name
from sandboxes.jail_command import SANDBOX_UID

ENGINES = ("podman", "docker")

_PREFIX = "cispo-box"
_OWN_PROCESSES = 1  # process 1 of the container
_TMP_SHARE = 4  # of the memory: a full /tmp and /dev/shm leave half of it to process 1
_ADVICE = (
    ("hybrid mode not supported", "runtime", "install runc and set sandbox.runtime=runc"),
    ("image not known", "image", "pull or build {image} on this host first"),
    ("No such image", "image", "pull or build {image} on this host first"),
    ("Unable to find image", "image", "pull or build {image} on this host first"),
    ("docker daemon", "daemon", "start it, or set sandbox.engine=podman"),
    ("docker.sock", "daemon", "let this user use it, or set sandbox.engine=podman"),
    ("rlimit", "resource limits", "let this user raise its limits"),
    ("cgroup", "control groups", "delegate memory, pids and cpu to this user"),
    ("newuidmap", "user namespaces", "install uidmap and give this user a range in /etc/subuid"),
    ("Permission denied: '/tmp", "image", "make /tmp of {image} writable by all (mode 1777)"),
    ("python3", "interpreter", "use an image with python3 3.9 or later"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A container engine.

    Attributes:
        kind: `podman` or `docker`.
        command: It, with its global options.
        runtime: What it starts containers with; empty for its default.
        owner: Name of this process, unlike that of any other now or later on this host.
    """

    kind: str
    command: tuple[str, ...]
    runtime: str
    owner: str

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.kind} with {self.runtime}" if self.runtime else self.kind

    def container_name(self, number: int) -> str:
        """Return a name that tells whose container it is."""
        return f"{_PREFIX}-{self.owner}-{number}"

    def is_orphan(self, name: str) -> bool:
        """Whether a container belongs to a process of this namespace that is dead."""
        owner = name.removeprefix(f"{_PREFIX}-").rpartition("-")[0]
        namespace, _, rest = owner.partition(".")
        pid = rest.partition(".")[0]
        is_ours = namespace == self.owner.partition(".")[0] and pid.isdigit()
        return is_ours and owner_name(int(pid)) != owner


def find_engine(kind: str, *, runtime: str) -> Engine:
    """Return the engine of this name, or the first that is installed.

    Raises:
        SandboxUnavailableError: There is none.
    """
    for candidate in (kind,) if kind else ENGINES:
        path = shutil.which(candidate)
        if path is not None:
            chosen = runtime or _default_runtime(candidate)
            command = [path, *_global_options(candidate, chosen)]
            owner = owner_name(os.getpid())
            return Engine(kind=candidate, command=tuple(command), runtime=chosen, owner=owner)
    raise SandboxUnavailableError(
        f"sandbox layer engine: no {kind or ' or '.join(ENGINES)} on this machine; "
        "install one, or set sandbox.backend=bubblewrap"
    )


def run_command(
    engine: Engine,
    image: str,
    inside: Sequence[str],
    *,
    name: str,
    limits: Limits,
    scratch: Mapping[str, int] = MappingProxyType({}),
    shown: Mapping[str, Path] = MappingProxyType({}),
) -> list[str]:
    """Return the command that runs one container to its end.

    Args:
        engine: The engine.
        image: Name of an image, or with podman the absolute path of a root folder.
        inside: Command of process 1.
        name: Name of the container.
        limits: Of the program.
        scratch: Folders in memory beside `/tmp`, with their sizes in bytes.
        shown: Folders and files of the machine that it sees, read-only, by their place.
    """
    tmp_bytes = min(limits.tmp_bytes, limits.memory_bytes // _TMP_SHARE)
    in_memory = {"/tmp": tmp_bytes, **scratch}
    mounts = [word for place in in_memory.items() for word in _tmpfs(engine, *place)]
    mounts += [word for to, path in shown.items() for word in ("--volume", f"{path}:{to}:ro")]
    memory = str(limits.memory_bytes)
    user = f"{SANDBOX_UID}:{SANDBOX_UID}"
    words = [
        *engine.command,
        *("run", "--rm", "--interactive", "--name", name, "--hostname", "sandbox"),
        *("--network", "none", "--ipc", "private", "--cgroupns", "private", "--user", user),
        *("--read-only", *mounts, "--shm-size", str(tmp_bytes), "--workdir", "/tmp"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--log-driver", "none"),
        *("--memory", memory, "--memory-swap", memory, "--cpus", str(limits.cpus)),
        *("--pids-limit", str(limits.max_processes + _OWN_PROCESSES)),
        *("--ulimit", "nofile=1024:1024", "--ulimit", "core=0:0", "--entrypoint", inside[0]),
    ]
    if engine.kind == "podman":
        words += [
            "--read-only-tmpfs=false",
            "--image-volume",
            "ignore",
            "--ulimit",
            "nproc=512:512",
        ]
    if engine.runtime and engine.kind == "docker":
        words += ["--runtime", engine.runtime]
    if engine.kind == "podman" and image.startswith("/"):
        return [*words, "--rootfs", image, *inside[1:]]
    return [*words, "--pull", "never", image, *inside[1:]]


def _tmpfs(engine: Engine, place: str, size: int) -> tuple[str, str]:
    options = f"rw,nosuid,nodev,exec,size={size},mode=1777"
    if engine.kind == "podman":
        options += ",notmpcopyup"  # nothing of what the image has there
    return "--tmpfs", f"{place}:{options}"


def list_command(engine: Engine) -> list[str]:
    """Return the command that prints the names of our containers."""
    return [*engine.command, "ps", "-a", "--filter", f"name={_PREFIX}", "--format", "{{.Names}}"]


def remove_command(engine: Engine, names: Sequence[str]) -> list[str]:
    """Return the command that kills and removes containers."""
    return [*engine.command, "rm", "--force", *names]


def refusal(message: str, *, engine: Engine, image: str) -> str:
    """Name the layer that kept a container from starting, from the engine's message."""
    for sign, layer, advice in _ADVICE:
        if sign in message:
            return f"sandbox layer {layer}: {advice.format(image=image)} ({engine.name}: {message})"
    return f"{engine.name}: {message}"


def _default_runtime(kind: str) -> str:
    """Choose runc where control groups are not version 2 alone, which crun refuses."""
    is_unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return "runc" if kind == "podman" and not is_unified and shutil.which("runc") else ""


def _global_options(kind: str, runtime: str) -> list[str]:
    if kind != "podman":
        return []
    words = [f"--runtime={runtime}"] if runtime else []
    if not Path("/run/systemd/system").exists():
        words += ["--cgroup-manager=cgroupfs"]
    return [*words, "--events-backend=none"]
