"""Where control groups are looked for, on made-up machines; the attacks try the real one."""

from pathlib import Path

import pytest

from sandboxes.base import Limits
from sandboxes.cgroups import Cgroups, Leaf, _find_version_1, _find_version_2

LIMITS = Limits(
    cpu_seconds=1, wall_seconds=1, memory_bytes=2**26, max_processes=7, output_bytes=1, cpus=0.5
)


def process_folder(folder: Path, *, groups: str, mounts: str) -> Path:
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text(mounts)
    return folder


def test_version_1_leaves_go_below_the_own_group_of_each_controller(tmp_path: Path) -> None:
    process = process_folder(
        tmp_path,
        groups="8:pids:/\n4:memory:/job/7\n2:cpu,cpuacct:/job\n0::/\n",
        mounts=(
            "35 31 0:32 / /cg/memory rw,relatime - cgroup cgroup rw,memory\n"
            "36 31 0:33 / /cg/cpu rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
            "39 31 0:36 / /cg/pids rw - cgroup cgroup rw,pids\n"
        ),
    )
    found = _find_version_1(process)
    assert found is not None
    assert found.parents == {
        "memory": Path("/cg/memory/job/7"),
        "pids": Path("/cg/pids"),
        "cpu": Path("/cg/cpu/job"),
        "cpuacct": Path("/cg/cpu/job"),
    }


def test_a_container_that_mounts_a_part_of_the_tree_finds_its_own_group(tmp_path: Path) -> None:
    process = process_folder(
        tmp_path,
        groups="8:pids:/docker/abc\n4:memory:/docker/abc/inner\n",
        mounts=(
            "35 31 0:32 /docker/abc /cg/memory rw - cgroup cgroup rw,memory\n"
            "39 31 0:36 /docker/abc /cg/pids rw - cgroup cgroup rw,pids\n"
        ),
    )
    found = _find_version_1(process)
    assert found is not None
    assert found.parents == {"memory": Path("/cg/memory/inner"), "pids": Path("/cg/pids")}


def test_version_1_without_a_process_limit_is_not_used(tmp_path: Path) -> None:
    process = process_folder(
        tmp_path,
        groups="4:memory:/\n",
        mounts="35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory\n",
    )
    assert _find_version_1(process) is None


def test_version_2_uses_the_nearest_ancestor_that_hands_controllers_on(tmp_path: Path) -> None:
    mount = tmp_path / "cg"
    own = mount / "user" / "session"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("")
    (mount / "user" / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (mount / "cgroup.subtree_control").write_text("cpu io memory pids\n")
    process = process_folder(
        tmp_path,
        groups="0::/user/session\n",
        mounts=f"31 23 0:28 / {mount} rw,relatime - cgroup2 cgroup2 rw\n",
    )
    found = _find_version_2(process)
    assert found is not None
    assert found.version == 2
    assert found.parents == dict.fromkeys(("cpu", "memory", "pids"), mount / "user")


def test_version_2_without_memory_control_is_not_used(tmp_path: Path) -> None:
    mount = tmp_path / "cg"
    mount.mkdir()
    (mount / "cgroup.subtree_control").write_text("hugetlb\n")
    process = process_folder(
        tmp_path, groups="0::/\n", mounts=f"31 23 0:28 / {mount} rw - cgroup2 cgroup2 rw\n"
    )
    assert _find_version_2(process) is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_leaf_gets_its_limits(tmp_path: Path, version: int) -> None:
    cgroups = Cgroups(version=version, parents={"memory": tmp_path, "pids": tmp_path})
    leaf = cgroups.leaf(LIMITS)
    folder = leaf.folders["memory"]
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    assert (folder / name).read_text() == str(2**26)
    assert (folder / "pids.max").read_text() == "8"  # and the jail's own process 1


def test_a_leaf_counts_cpu_time_and_kills_for_memory(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 1\n")
    leaf = Leaf(version=2, folders={"cpu": tmp_path, "memory": tmp_path})
    assert leaf.cpu_seconds() == 1.5
    assert leaf.num_memory_kills() == 1
    (tmp_path / "cpuacct.usage").write_text("2500000000\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    leaf = Leaf(version=1, folders={"cpuacct": tmp_path, "memory": tmp_path})
    assert leaf.cpu_seconds() == 2.5
    assert leaf.num_memory_kills() == 0


def test_a_leaf_whose_time_is_not_counted_says_so(tmp_path: Path) -> None:
    assert Leaf(version=1, folders={"memory": tmp_path}).cpu_seconds() is None


def test_reaping_spares_leaves_of_living_owners(tmp_path: Path) -> None:
    cgroups = Cgroups(version=1, parents={"memory": tmp_path})
    living = tmp_path / cgroups.leaf(LIMITS).folders["memory"].name
    namespace, _, rest = living.name.partition(".")
    dead = tmp_path / f"{namespace}.{2**22 + 1}.5-0"
    reused = tmp_path / f"{namespace}.{rest.split('.')[0]}.5-0"  # an earlier process of this number
    dead.mkdir()
    reused.mkdir()
    assert cgroups.reap() == 2
    assert living.exists()
    assert not dead.exists()
    assert not reused.exists()
