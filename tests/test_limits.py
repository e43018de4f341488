"""Processors and memory that a process may use, on control groups made up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moee_index.limits import Limit, control_groups, memory_limit, processor_limit

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "".join(
    f"{number} 31 0:{number} / /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}\n"
    for number, name in ((32, "cpu,cpuacct"), (35, "memory"))
)
GB = 2**30

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with 8 processors and 16 GB: its own groups, its mounts, and files by path."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def made(groups: str, mounts: str, files: dict[str, str]) -> Path:
        written = {
            "proc/self/cgroup": groups,
            "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts,
            "proc/meminfo": f"MemTotal: {16 * GB // 1024} kB\nMemFree: 1 kB\n",
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        }
        for name, text in written.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return made


def test_without_control_groups_the_machine_counts(machine: Machine) -> None:
    root = machine("", "", {})
    assert processor_limit(root) == Limit(8, "all that the machine has")
    assert memory_limit(root) == Limit(16 * GB, "all that the machine has")
    (root / "proc/self/cgroup").unlink()
    (root / "proc/self/mountinfo").unlink()
    assert processor_limit(root).value == 8


def test_affinity_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert processor_limit(machine("", "", {})) == Limit(2, "the process is bound to these")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processor_limit(machine("", "", {})).value == 8


@pytest.mark.parametrize(
    ("quota", "value"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("max 100000", 8),
        ("1600000 100000", 8),
        ("800000 100000", 8),
        ("", 8),
        ("nonsense", 8),
        ("0 100000", 8),
        ("100000 0", 8),
    ],
)
def test_a_quota_is_rounded_up(machine: Machine, quota: str, value: int) -> None:
    root = machine("0::/job\n", V2, {"job/cpu.max": f"{quota}\n"})
    found = processor_limit(root)
    assert found.value == value
    if value == 2:
        processors = int(quota.split()[0]) / 100000
        assert found.reason == f"a quota of {processors:g} processors in /sys/fs/cgroup/job"


def test_the_smallest_of_all_groups_above_counts(machine: Machine) -> None:
    files = {
        "a/b/c/cpu.max": "max 100000\n",
        "a/b/cpu.max": "600000 100000\n",
        "a/cpu.max": "300000 100000\n",
        "cpu.max": "500000 100000\n",
        "a/b/c/memory.max": "max\n",
        "a/b/memory.max": f"{4 * GB}\n",
        "a/memory.max": f"{8 * GB}\n",
    }
    root = machine("0::/a/b/c\n", V2, files)
    assert processor_limit(root) == Limit(3, "a quota of 3 processors in /sys/fs/cgroup/a")
    assert memory_limit(root) == Limit(4 * GB, "the limit in /sys/fs/cgroup/a/b")


def test_version_1(machine: Machine) -> None:
    files = {
        "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
        "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/docker/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
        "memory/docker/x/memory.limit_in_bytes": f"{2 * GB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    root = machine("4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n0::/\n", V1, files)
    where = "/sys/fs/cgroup/cpu,cpuacct/docker/x"
    assert processor_limit(root) == Limit(3, f"a quota of 2.5 processors in {where}")
    assert memory_limit(root) == Limit(2 * GB, "the limit in /sys/fs/cgroup/memory/docker/x")


def test_both_versions_at_once(machine: Machine) -> None:
    files = {
        "unified/s/cpu.max": "400000 100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    mounts = V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    root = machine("4:cpu,cpuacct:/\n0::/s\n", mounts, files)
    assert processor_limit(root).value == 3


def test_in_a_container_a_part_of_the_tree_is_mounted(machine: Machine) -> None:
    inside = V2.replace(" / /sys", " /docker/x /sys")
    root = machine("0::/docker/x/sub\n", inside, {"sub/cpu.max": "200000 100000\n"})
    assert processor_limit(root).value == 2
    root = machine("0::/../elsewhere\n", V2, {"cpu.max": "500000 100000\n"})
    assert processor_limit(root).value == 5


def test_what_cannot_be_read_does_not_count(machine: Machine) -> None:
    root = machine("0::/job\nbroken\n", V2 + "broken - line\n\n", {})
    (root / "sys/fs/cgroup/job/cpu.max").mkdir(parents=True)
    (root / "sys/fs/cgroup/job/memory.max").mkdir()
    assert processor_limit(root).value == 8
    assert memory_limit(root) == Limit(16 * GB, "all that the machine has")
    assert [str(folder.relative_to(root)) for folder in control_groups("cpu", root)] == [
        "sys/fs/cgroup/job",
        "sys/fs/cgroup",
    ]


def test_without_proc_the_system_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = memory_limit(tmp_path)
    assert found is None or found.value > GB / 4
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert memory_limit(tmp_path) is None


def test_this_machine_has_limits() -> None:
    assert 1 <= processor_limit().value <= (os.cpu_count() or 1)
