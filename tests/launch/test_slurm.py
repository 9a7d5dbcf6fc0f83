"""The batch script for Slurm, with stand-ins for the commands of Slurm, Ray and Python."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.commands import ROOT
from tests.waiting import PATIENCE_SECONDS, wait_until

SCRIPT = ROOT / "launch" / "slurm" / "train.sbatch"

STAND_INS = {
    # Both nodes of the job, side by side.
    "srun": """
        printf '%s\\n' "$@" > "$TRACE/srun"
        while [[ "$1" != bash ]]; do shift; done
        trap 'kill $(jobs -p)' TERM
        SLURM_NODEID=0 "$@" & SLURM_NODEID=1 "$@" & wait
    """,
    "scontrol": """
        if [[ "$1" == show ]]; then printf 'node-1\\nnode-2\\n'; exit; fi
        echo "$@" > "$TRACE/scontrol"
    """,
    "ray": """
        if [[ "$1" == health-check ]]; then [[ -e "$TRACE/ray-0" ]]; exit; fi
        echo "$@" > "$TRACE/ray-$SLURM_NODEID.new"
        echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" > "$TRACE/token-$SLURM_NODEID"
        mv "$TRACE/ray-$SLURM_NODEID.new" "$TRACE/ray-$SLURM_NODEID"
        exec sleep 600
    """,
    "python": """
        trap 'exit 143' TERM
        printf '%s\\n' "$@" > "$TRACE/run.new"
        mv "$TRACE/run.new" "$TRACE/run"
        until [[ -e "$TRACE/end" ]]; do sleep 0.02; done
        exit "$(cat "$TRACE/end")"
    """,
}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Where the stand-ins write what they were asked for."""
    for name, body in STAND_INS.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/usr/bin/env bash\n{body}")
        command.chmod(0o755)
    return tmp_path


@pytest.fixture
def job(trace: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A job on two nodes that has come as far as its run."""
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "experiment=gsm8k", "name=x"],
        env={
            "PATH": f"{trace / 'bin'}:{os.environ['PATH']}",
            "TRACE": str(trace),
            "SLURM_JOB_ID": "123456",
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_CPUS_ON_NODE": "64",
            "SLURM_GPUS_ON_NODE": "8",
            "CISPO_HEAD_ADDRESS": "10.0.0.1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: (trace / "run").exists(), what="the run starts")
        wait_until(lambda: (trace / "ray-1").exists(), what="the second node starts")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(job: "subprocess.Popen[bytes]") -> int:
    return job.wait(timeout=PATIENCE_SECONDS)


def test_ray_starts_on_every_node_and_the_run_on_the_first(
    trace: Path, job: "subprocess.Popen[bytes]"
) -> None:
    head, worker = ((trace / f"ray-{node}").read_text() for node in (0, 1))
    here = "--num-cpus=64 --num-gpus=8 --temp-dir=/tmp/ray-123456 --disable-usage-stats --block\n"
    assert head == (
        "start --head --node-ip-address=10.0.0.1 --port=23456 --include-dashboard=false " + here
    )
    assert worker == "start --address=10.0.0.1:23456 " + here
    assert (trace / "run").read_text().splitlines() == [
        "-u",
        "-m",
        "launch.train",
        "cluster=existing",
        "cluster.address=10.0.0.1:23456",
        "cluster.hosts=[node-1,node-2]",
        "resume=auto",
        "experiment=gsm8k",
        "name=x",
    ]
    assert "--cpus-per-task=64" in (trace / "srun").read_text().splitlines()


def test_all_nodes_know_the_same_secret(trace: Path, job: "subprocess.Popen[bytes]") -> None:
    tokens = {(trace / f"token-{node}").read_text() for node in (0, 1)}
    (only,) = tokens
    mode, token = only.split()
    assert mode == "token"
    assert len(token) == 64


@pytest.mark.parametrize("code", [0, 2])
def test_the_job_ends_as_its_run_does(
    trace: Path, job: "subprocess.Popen[bytes]", code: int
) -> None:
    (trace / "end").write_text(str(code))
    assert finish(job) == code
    assert not (trace / "scontrol").exists()


def test_a_run_that_is_out_of_time_goes_back_to_the_queue(
    trace: Path, job: "subprocess.Popen[bytes]"
) -> None:
    job.send_signal(signal.SIGUSR1)
    assert finish(job) == 143
    assert (trace / "scontrol").read_text() == "requeue 123456\n"


def test_a_run_that_is_cancelled_does_not_come_back(
    trace: Path, job: "subprocess.Popen[bytes]"
) -> None:
    job.send_signal(signal.SIGTERM)
    assert finish(job) == 143
    assert not (trace / "scontrol").exists()
