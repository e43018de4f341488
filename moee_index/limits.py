"""How many processors and how much memory this process may use: what the machine has, what it is
bound to, and the quotas of its control groups and of all above them (Linux, versions 1 and 2).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class Limit:
    """The most that may be used, and what says so."""

    value: int
    reason: str


def bound_processors() -> Limit:
    """Processors that the process may run on; all of the machine's unless it is bound to fewer."""
    machine = os.cpu_count() or 1
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    if bound < machine:
        return Limit(bound, "the process is bound to these")
    return Limit(machine, "all that the machine has")


def processor_limit(root: Path = ROOT) -> Limit:
    """Processors that may be used, quotas rounded up; of equal limits the machine's own."""
    found = [bound_processors()]
    for folder in control_groups("cpu", root):
        quota = _quota(folder)
        if quota is not None:
            reason = f"a quota of {quota:g} processors in {_shown(folder, root)}"
            found.append(Limit(max(1, math.ceil(quota)), reason))
    return min(found, key=lambda limit: limit.value)


def memory_limit(root: Path = ROOT) -> Limit | None:
    """Bytes of memory that may be used, swap aside; None where nothing tells."""
    found = []
    total = _machine_memory(root)
    if total is not None:
        found.append(Limit(total, "all that the machine has"))
    for folder in control_groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _number(folder / name)
            if value is not None:
                found.append(Limit(value, f"the limit in {_shown(folder, root)}"))
    return min(found, key=lambda limit: limit.value, default=None)


def control_groups(controller: str, root: Path = ROOT) -> list[Path]:
    """Directories of this process's control groups for a controller, each before the one above
    it."""
    own = _own_groups(root)
    found = []
    for kind, options, inside, mounted in _mounts(root):
        if kind == "cgroup2":
            path = own.get("")
        elif kind == "cgroup" and controller in options:
            path = own.get(controller)
        else:
            continue
        if path is None:
            continue
        # In a container only a part of the tree is mounted, and the path may be of the whole one.
        below = path.removeprefix(inside) if inside != "/" else path
        top = root / mounted.lstrip("/")
        folder = top / below.strip("/") if ".." not in below.split("/") else top
        while True:
            found.append(folder)
            if folder == top:
                break
            folder = folder.parent
    return found


def _own_groups(root: Path) -> dict[str, str]:
    """This process's control group by controller; version 2's under the empty name."""
    groups = {}
    for line in _lines(root / "proc/self/cgroup"):
        fields = line.split(":", 2)
        if len(fields) == 3:
            groups.update(dict.fromkeys(fields[1].split(","), fields[2]))
    return groups


def _mounts(root: Path) -> Iterator[tuple[str, list[str], str, str]]:
    """(kind, options, the part of it that is mounted, where) of each file system that is."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) >= 5 and len(kinds) >= 3:
            inside, mounted = (re.sub(r"\\040", " ", field) for field in fields[3:5])
            yield kinds[0], kinds[2].split(","), inside, mounted


def _quota(folder: Path) -> float | None:
    """Processors that a group's tasks may use together, or None."""
    words = [*_lines(folder / "cpu.max"), ""][0].split()
    if not words:
        words = [
            *_lines(folder / "cpu.cfs_quota_us")[:1],
            *_lines(folder / "cpu.cfs_period_us")[:1],
        ]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", one file alone, or nothing
        return None
    return quota / period if quota > 0 and period > 0 else None


def _machine_memory(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if match := re.match(r"MemTotal:\s+(\d+) kB", line):
            return int(match[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _number(file: Path) -> int | None:
    word = [*_lines(file), ""][0].strip()
    return int(word) if word.isdecimal() else None


def _lines(file: Path) -> list[str]:
    """Lines of a file; none where it is missing or cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _shown(folder: Path, root: Path) -> str:
    return f"/{folder.relative_to(root).as_posix()}"
