"""What does a sandbox cost over a bare process? Starts, processor time, throughput, workspaces.

    python -m benchmarks.sandboxes [--image NAME]    # two minutes; writes results/sandboxes.json
    python -m benchmarks.sandboxes --quick           # two rounds, stores nothing

Every round runs all variants one after the other, so that a busy
machine harms them alike; ratios are medians of rounds. Processor time is what the kernel charged:
to this process, to its children, and to the control groups of jails; without control groups there
is only wall time. `--image` adds containers. The packages that `preload` names must be readable by
the sandbox's own user.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.processor_meter import Meter
from benchmarks.targets import Target, as_rows, show_targets
from benchmarks.workspaces import measure_workspaces
from sandboxes.base import Limits, Outcome, Program, Sandbox
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.packages import package_mounts
from sandboxes.warm import WarmSandbox

RESULT = Path(__file__).parent / "results" / "sandboxes.json"
PYTHON = "/usr/bin/python3"
LIMITS = Limits(
    cpu_seconds=20.0, wall_seconds=120.0, memory_bytes=2**29, max_processes=16, output_bytes=2**16
)
PRINT = "print(1)"
IMPORT = "import numpy, sympy; print(1)"
PACKAGES = ("numpy", "sympy")
ROUNDS = 8
STARTS_A_ROUND = 20
AT_ONCE = 2

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


async def measure(
    starts: Mapping[str, Start], meter: Meter, *, rounds: int, counts: Mapping[str, int]
) -> dict:
    """Return milliseconds of wall and processor time of one start, and starts per second.

    Args:
        starts: The variants.
        meter: Counts processor time.
        rounds: How often the variants take turns.
        counts: Starts a round of each.
    """
    walls: dict[str, list[float]] = {name: [] for name in starts}
    cpus: dict[str, list[float]] = {name: [] for name in starts}
    rates: dict[str, list[float]] = {name: [] for name in starts}
    for start in starts.values():  # so many that each server is warm
        await asyncio.gather(*(start() for _ in range(AT_ONCE)))
    for _ in range(rounds):
        for name, start in starts.items():
            before = meter.seconds()
            for _ in range(counts[name]):
                began = time.perf_counter()
                await start()
                walls[name].append(1e3 * (time.perf_counter() - began))
            cpus[name].append(1e3 * (meter.seconds() - before) / counts[name])
        for name, start in starts.items():
            each = counts[name] // AT_ONCE
            began = time.perf_counter()
            await asyncio.gather(*(_repeat(start, each) for _ in range(AT_ONCE)))
            rates[name].append(each * AT_ONCE / (time.perf_counter() - began))
    return {
        name: {
            "wall_ms_p50": round(statistics.median(walls[name]), 2),
            "wall_ms_p99": round(_percentile(walls[name], 0.99), 2),
            "cpu_ms": round(statistics.median(cpus[name]), 2),
            "cpu_ms_by_round": [round(value, 2) for value in cpus[name]],
            "starts_per_second": round(statistics.median(rates[name]), 1),
            "starts_per_second_by_round": [round(value, 2) for value in rates[name]],
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
    counts = dict.fromkeys(starts, STARTS_A_ROUND)
    measured = await measure(starts, meter, rounds=rounds, counts=counts)
    await warm.close()
    if image:
        from sandboxes.container import ContainerSandbox

        container = {"container": jailed(ContainerSandbox(image), PRINT)}
        counts = {"container": STARTS_A_ROUND // 2}
        measured |= await measure(container, meter, rounds=1, counts=counts)
    return measured


async def measure_imports(meter: Meter, *, rounds: int) -> dict:
    """Compare programs that need large packages."""
    jails = BubblewrapSandbox(cgroups=meter.counted())
    folders = {path.parent for path in package_mounts(PACKAGES, python=jails.python).values()}
    path = {"PYTHONPATH": ":".join(map(str, folders))}
    warm = WarmSandbox(jails, num_servers=AT_ONCE, runs_per_server=10**6, preload=PACKAGES)
    starts = {
        "bare import": bare("-c", IMPORT, environment=path),
        "warm, preloaded": jailed(warm, IMPORT),
    }
    counts = {"bare import": 2 * AT_ONCE, "warm, preloaded": 2 * STARTS_A_ROUND}
    measured = await measure(starts, meter, rounds=rounds, counts=counts)
    await warm.close()
    return measured


async def run(*, rounds: int, image: str) -> dict:
    """Measure everything."""
    meter = Meter()
    return {
        "machine": describe() | {"kernel": os.uname().release},
        "starts": await measure_starts(meter, rounds=rounds, image=image),
        "imports": await measure_imports(meter, rounds=max(rounds // 2, 2)),
        "workspace": await measure_workspaces(meter, LIMITS, rounds=rounds),
    }


def judge(result: Mapping[str, dict]) -> list[Target]:
    """Compare with what is asked for."""
    starts, imports, workspace = (result[part] for part in ("starts", "imports", "workspace"))
    view = workspace["copy-on-write view"]
    return [
        Target(
            name="full one-shot jail over bare python3, ms of CPU",
            value=extra_cpu(starts, "one-shot jail", "bare python3 -I -S -c"),
            at_most=15.0,
        ),
        Target(
            name="warm pool's rate over bare python3 -c",
            value=ratio(starts, "warm server", "bare python3 -c"),
            at_least=1.5,
        ),
        Target(
            name="the same where programs import numpy and sympy",
            value=ratio(imports, "warm, preloaded", "bare import"),
            at_least=50.0,
        ),
        Target(name="copy-on-write view of 50 MB, p50 ms", value=view["ms_p50"], at_most=20.0),
        Target(name="copy-on-write view of 50 MB, p99 ms", value=view["ms_p99"], at_most=20.0),
    ]


def show(result: Mapping[str, dict]) -> None:
    """Print tables."""
    print(f"{'':24} {'p50 ms':>8} {'p99 ms':>8} {'cpu ms':>8} {'per s':>8}")
    for name, row in (result["starts"] | result["imports"]).items():
        words = [row[key] for key in ("wall_ms_p50", "wall_ms_p99", "cpu_ms", "starts_per_second")]
        print(f"{name:24}", *(f"{word:8}" for word in words))
    for name, row in result["workspace"].items():
        if isinstance(row, dict):
            print(f"{name:24} {row['ms_p50']:8} {row['ms_p99']:8}")


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, stores nothing")
    parser.add_argument("--image", default="", help="image with python3, to measure containers")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else ROUNDS
    result = asyncio.run(run(rounds=rounds, image=arguments.image))
    show(result)
    targets = judge(result)
    show_targets(targets)
    if not arguments.quick:
        RESULT.write_text(json.dumps(result | {"targets": as_rows(targets)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
