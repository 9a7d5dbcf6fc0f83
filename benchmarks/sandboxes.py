"""What does a sandbox cost over a bare process? Starts, processor time, throughput, workspaces.

    python -m benchmarks.sandboxes [--rounds N] [--image NAME]    # about two minutes

Writes results/sandboxes.json. Every round runs all variants one after the other, so that a busy
machine harms them alike; ratios are medians of rounds. Processor time is what the kernel charged:
to this process, to its children, and to the control groups of jails; without control groups there
is only wall time. `--image` adds containers. The packages that `preload` names must be readable by
the sandbox's own user.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.processor_meter import Meter
from sandboxes.base import Limits, Outcome, Program, Sandbox
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.packages import package_mounts
from sandboxes.warm import WarmSandbox
from sandboxes.workspace import Workspace, give_away, open_workspace

RESULT = Path(__file__).parent / "results" / "sandboxes.json"
PYTHON = "/usr/bin/python3"
LIMITS = Limits(
    cpu_seconds=20.0, wall_seconds=120.0, memory_bytes=2**29, max_processes=16, output_bytes=2**16
)
PRINT = "print(1)"
IMPORT = "import numpy, sympy; print(1)"
PACKAGES = ("numpy", "sympy")
STARTS_A_ROUND = 20
AT_ONCE = 2
_COPIES = 3
FILES, FILE_BYTES = 2400, 21845  # 50 MB

Start = Callable[[], Awaitable[None]]


def bare(*words: str, environment: Mapping[str, str] | None = None) -> Start:
    """Start a process as a reward function without a sandbox does."""

    async def start() -> None:
        process = await asyncio.create_subprocess_exec(
            PYTHON, *words, stdout=asyncio.subprocess.PIPE, env=dict(environment or {})
        )
        output, _ = await process.communicate()
        assert output == b"1\n", output

    return start


def jailed(sandbox: Sandbox, code: str) -> Start:
    """Run the same in a sandbox."""
    program = Program(argv=("python3", "-I", "-S", "-c", code))

    async def start() -> None:
        result = await sandbox.run(program, LIMITS)
        assert (result.outcome, result.stdout) == (Outcome.EXITED, b"1\n"), result

    return start


async def measure(starts: Mapping[str, Start], meter: Meter, *, rounds: int, count: int) -> dict:
    """Return milliseconds of wall and processor time of one start, and starts per second."""
    walls: dict[str, list[float]] = {name: [] for name in starts}
    cpus: dict[str, list[float]] = {name: [] for name in starts}
    rates: dict[str, list[float]] = {name: [] for name in starts}
    for start in starts.values():
        await start()
    for _ in range(rounds):
        for name, start in starts.items():
            before = meter.seconds()
            for _ in range(count):
                began = time.perf_counter()
                await start()
                walls[name].append(1e3 * (time.perf_counter() - began))
            cpus[name].append(1e3 * (meter.seconds() - before) / count)
        for name, start in starts.items():
            began = time.perf_counter()
            await asyncio.gather(*(_repeat(start, count // AT_ONCE) for _ in range(AT_ONCE)))
            rates[name].append(count // AT_ONCE * AT_ONCE / (time.perf_counter() - began))
    return {
        name: {
            "wall_ms_p50": round(statistics.median(walls[name]), 2),
            "wall_ms_p99": round(_percentile(walls[name], 0.99), 2),
            "cpu_ms": round(statistics.median(cpus[name]), 2),
            "cpu_ms_by_round": [round(value, 2) for value in cpus[name]],
            "starts_per_second": round(statistics.median(rates[name]), 1),
            "starts_per_second_by_round": [round(value, 1) for value in rates[name]],
        }
        for name in starts
    }


async def _repeat(start: Start, count: int) -> None:
    for _ in range(count):
        await start()


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def ratio(measured: Mapping[str, dict], name: str, base: str) -> float:
    """Return the median over rounds of one variant's rate over another's."""
    key = "starts_per_second_by_round"
    pairs = zip(measured[name][key], measured[base][key], strict=True)
    return round(statistics.median(ours / theirs for ours, theirs in pairs), 2)


def extra_cpu(measured: Mapping[str, dict], name: str, base: str) -> float:
    """Return the median over rounds of one variant's processor time less another's, in ms."""
    pairs = zip(measured[name]["cpu_ms_by_round"], measured[base]["cpu_ms_by_round"], strict=True)
    return round(statistics.median(ours - theirs for ours, theirs in pairs), 2)


async def measure_starts(meter: Meter, *, rounds: int, image: str) -> dict:
    """Compare small programs."""
    jails = BubblewrapSandbox(cgroups=meter.counted())
    warm = WarmSandbox(jails, num_servers=AT_ONCE, runs_per_server=10**6)
    starts = {
        "bare python3 -c": bare("-c", PRINT),
        "bare python3 -I -S -c": bare("-I", "-S", "-c", PRINT),
        "one-shot jail": jailed(jails, PRINT),
        "warm server": jailed(warm, PRINT),
    }
    measured = await measure(starts, meter, rounds=rounds, count=STARTS_A_ROUND)
    await warm.close()
    if image:
        from sandboxes.container import ContainerSandbox

        container = {"container": jailed(ContainerSandbox(image), PRINT)}
        measured |= await measure(container, meter, rounds=1, count=STARTS_A_ROUND // 2)
    measured["ratios"] = {
        "jail_cpu_ms_over_bare": extra_cpu(measured, "one-shot jail", "bare python3 -I -S -c"),
        "jail_rate_over_bare": ratio(measured, "one-shot jail", "bare python3 -c"),
        "warm_rate_over_bare": ratio(measured, "warm server", "bare python3 -c"),
    }
    return measured


async def measure_imports(meter: Meter, *, rounds: int) -> dict:
    """Compare programs that need large packages."""
    jails = BubblewrapSandbox(cgroups=meter.counted())
    folders = {path.parent for path in package_mounts(PACKAGES, python=jails.python).values()}
    path = {"PYTHONPATH": ":".join(map(str, folders))}
    warm = WarmSandbox(jails, num_servers=AT_ONCE, runs_per_server=10**6, preload=PACKAGES)
    theirs = {"bare import": bare("-c", IMPORT, environment=path)}
    ours = {"warm, preloaded": jailed(warm, IMPORT)}
    measured: dict = {}
    rounds_of: dict[str, list[dict]] = {"bare import": [], "warm, preloaded": []}
    for _ in range(rounds):
        rounds_of["bare import"].append(await measure(theirs, meter, rounds=1, count=2))
        rounds_of["warm, preloaded"].append(await measure(ours, meter, rounds=1, count=40))
    for name, results in rounds_of.items():
        measured[name] = {
            key: round(statistics.median(result[name][key] for result in results), 2)
            for key in ("wall_ms_p50", "wall_ms_p99", "cpu_ms", "starts_per_second")
        }
    pairs = zip(rounds_of["warm, preloaded"], rounds_of["bare import"], strict=True)
    measured["ratios"] = {
        "warm_rate_over_bare": round(
            statistics.median(
                w["warm, preloaded"]["starts_per_second"] / b["bare import"]["starts_per_second"]
                for w, b in pairs
            ),
            1,
        )
    }
    await warm.close()
    return measured


def make_folder(parent: Path) -> Path:
    """Make 50 MB in files that the sandbox's own user may read."""
    parent.chmod(0o755)
    folder = parent / "large"
    for number in range(FILES):
        place = folder / f"d{number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(os.urandom(FILE_BYTES))
    give_away(parent)
    return folder


async def measure_workspaces(meter: Meter, *, rounds: int) -> dict:
    """Compare a jail with a copy-on-write view of 50 MB, one without, and a copy in memory."""
    jails = BubblewrapSandbox(cgroups=meter.counted())
    walls: dict[str, list[float]] = {"jail": [], "jail with workspace": [], "copy": []}
    with tempfile.TemporaryDirectory() as name:
        large = make_folder(Path(name))
        for _ in range(rounds):
            for variant, base in (("jail", None), ("jail with workspace", large)):
                began = time.perf_counter()
                if base is None:
                    server = jails.start_server(LIMITS, shown={})
                    await server.ready()
                    server.close()
                else:
                    async with open_workspace(jails, Workspace(base=base), LIMITS):
                        pass
                walls[variant].append(1e3 * (time.perf_counter() - began))
        for _ in range(_COPIES):
            with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
                began = time.perf_counter()
                shutil.copytree(large, Path(memory) / "copy")
                walls["copy"].append(1e3 * (time.perf_counter() - began))
    return {
        **{f"{name} ms": round(statistics.median(times), 2) for name, times in walls.items()},
        "snapshot ms": round(min(walls["jail with workspace"]) - min(walls["jail"]), 2),
        "bytes": FILES * FILE_BYTES,
        "files": FILES,
    }


async def run(*, rounds: int, image: str) -> dict:
    """Measure everything."""
    meter = Meter()
    return {
        "machine": describe() | {"kernel": os.uname().release},
        "starts": await measure_starts(meter, rounds=rounds, image=image),
        "imports": await measure_imports(meter, rounds=max(rounds // 2, 2)),
        "workspace": await measure_workspaces(meter, rounds=2 * rounds),
    }


def show(result: Mapping[str, dict]) -> None:
    """Print a table."""
    print(f"{'':24} {'p50 ms':>8} {'p99 ms':>8} {'cpu ms':>8} {'per s':>8}")
    for name, row in (result["starts"] | result["imports"]).items():
        if name != "ratios":
            words = [row[key] for key in ("wall_ms_p50", "wall_ms_p99", "cpu_ms")]
            print(f"{name:24}", *(f"{word:8}" for word in (*words, row["starts_per_second"])))
    for part in ("starts", "imports"):
        for name, value in result[part]["ratios"].items():
            print(f"{part}: {name} {value}")
    for name, value in result["workspace"].items():
        print(f"workspace: {name} {value}")


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--image", default="", help="image with python3, to measure containers")
    arguments = parser.parse_args()
    result = asyncio.run(run(rounds=arguments.rounds, image=arguments.image))
    show(result)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
