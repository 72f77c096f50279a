"""What a submission may use, and what holds it to that: rlimits, a control group, or a watchdog.

An rlimit bounds one process. A submission can start several, and several can share memory that no rlimit
counts, so the *total* is bounded by a control group (version 1 or 2) where this user may make one, and
elsewhere by a watchdog that adds up what all processes of the sandbox hold.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds of one submission.

    Example:
        >>> Limits(cell_seconds=5).cell_seconds
        5
    """

    cell_seconds: float = 60  # one cell, and one call of a student's function from a test
    notebook_seconds: float = 600  # the whole notebook, wall clock
    memory_mb: int = (
        2048  # all processes together, beyond the warm process; includes files with a control group
    )
    processes: int = 64  # processes and threads together; the kernel itself needs about a dozen
    disk_mb: int = 256  # the work folder and /tmp together; both live in memory and vanish with the sandbox
    output_kb: int = 1024  # printed text that is kept per notebook
    threads: int = 1  # threads of torch in one kernel

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ValueError(f"Limits.{item.name} must be above zero, not {getattr(self, item.name)!r}.")
        if self.processes < 16:
            raise ValueError(
                f"Limits.processes must be at least 16 (the kernel needs a dozen), not {self.processes}."
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Limits:
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


def apply_rlimits(limits: Limits, total_bounded: bool) -> None:
    """Bound the calling process and its future children, one by one.

    Args:
        limits: the bounds.
        total_bounded: whether a control group already bounds the sum. If not, each process may also grow its
            private memory by little more than ``memory_mb``, so that a fast one cannot outrun the watchdog.
    """
    cpu = int(limits.notebook_seconds * (limits.threads + 1)) + 30
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: limits.disk_mb * MIB,
        resource.RLIMIT_NOFILE: 1024,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_MEMLOCK: 64 * 1024,
        resource.RLIMIT_MSGQUEUE: 64 * 1024,
    }
    if not total_bounded:
        wanted[resource.RLIMIT_DATA] = _status_kb("self", "VmData") * 1024 + (limits.memory_mb + 512) * MIB
    for name, value in wanted.items():
        _, hard = resource.getrlimit(name)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(name, (value, value))


def _status_kb(pid: str, field: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0


# ---------------------------------------------------------------- control groups


class ControlGroup:
    """A control group of one sandbox: total memory and number of tasks. Made by `make_group`."""

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        self.folders = folders  # controller -> folder; both the same in version 2
        self.version = version

    def add(self, pid: int) -> None:
        """Move a process into the group; its later children are born in it."""
        for folder in self._unique():
            (folder / "cgroup.procs").write_text(str(pid))

    def out_of_memory(self) -> bool:
        """Whether the system has killed a process of the group for memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self.folders["memory"] / name).read_text().splitlines():
                key, _, count = line.partition(" ")
                if key == "oom_kill" and int(count) > 0:
                    return True
        return False

    def peak_mb(self) -> float | None:
        """The most memory that the group held, in MiB, where the system records it."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        with contextlib.suppress(OSError, ValueError):
            return int((self.folders["memory"] / name).read_text()) / MIB
        return None

    def remove(self) -> None:
        """Delete the group. Its processes must be dead; the last may take a moment to be counted out."""
        for folder in self._unique():
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)

    def _unique(self) -> Iterable[Path]:
        return dict.fromkeys(self.folders.values())


def make_group(name: str, limits: Limits) -> ControlGroup | None:
    """A control group for one sandbox below this process's own, or None where this user cannot make one."""
    for version, parents in _parents():
        folders: dict[str, Path] = {}
        try:
            for controller, parent in parents.items():
                folder = parent / name
                folder.mkdir(exist_ok=True)
                folders[controller] = folder
            group = ControlGroup(folders, version)
            _write_bounds(group, limits)
            return group
        except OSError:
            for folder in dict.fromkeys(folders.values()):
                with contextlib.suppress(OSError):
                    folder.rmdir()
    return None


def remove_stale_groups() -> None:
    """Delete groups of sandboxes whose supervisor was killed before it could."""
    for _, parents in _parents():
        for parent in dict.fromkeys(parents.values()):
            for folder in parent.glob("autograder-*"):
                pid = folder.name.rpartition("-")[2]
                if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                    with contextlib.suppress(OSError):
                        folder.rmdir()


def _write_bounds(group: ControlGroup, limits: Limits) -> None:
    memory, pids = group.folders["memory"], group.folders["pids"]
    size = str(limits.memory_mb * MIB)
    if group.version == 2:
        (memory / "memory.max").write_text(size)
        with contextlib.suppress(OSError):  # absent on systems without swap
            (memory / "memory.swap.max").write_text("0")
    else:
        (memory / "memory.limit_in_bytes").write_text(size)
        with contextlib.suppress(OSError):  # absent without swap accounting
            (memory / "memory.memsw.limit_in_bytes").write_text(size)
    (pids / "pids.max").write_text(str(limits.processes))


def _parents() -> Iterator[tuple[int, dict[str, Path]]]:
    """Places where a group may be made, best first: (version, controller -> parent folder)."""
    own: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(",") if names else ["unified"]:
                own[name] = path
    mounts: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, where, kind, options, *_ = line.split(" ")
            if kind == "cgroup2":
                mounts["unified"] = Path(where)
            elif kind == "cgroup":
                for name in options.split(","):
                    mounts.setdefault(name, Path(where))
    if {"memory", "pids"} <= mounts.keys() & own.keys():
        # Below our own group, so that whatever bounds us bounds the sandbox too.
        yield 1, {name: mounts[name] / own[name].lstrip("/") for name in ("memory", "pids")}
    if "unified" in mounts and "unified" in own:
        # Version 2 allows no group below one that holds processes, so look upward for one that hands on both.
        start = mounts["unified"] / own["unified"].lstrip("/")
        for folder in [start, *start.parents]:
            if not folder.is_relative_to(mounts["unified"]):
                break
            with contextlib.suppress(OSError):
                if {"memory", "pids"} <= set((folder / "cgroup.subtree_control").read_text().split()):
                    yield 2, {"memory": folder, "pids": folder}


# ---------------------------------------------------------------- watchdog


class Watchdog:
    """Adds up what every process of one sandbox holds, where there is no control group.

    Private memory is counted per process. Anonymous shared memory is counted once per object at its full
    size, because pages of a shared object stay when the process that touched them ends, and no process's own
    count shows them.

    Args:
        root_pid: the first process of the sandbox, seen from outside.
        limits: the bounds.
    """

    def __init__(self, root_pid: int, limits: Limits) -> None:
        self.root_pid = root_pid
        self.limits = limits
        self.baseline_kb = 0
        self.peak_kb = 0

    def start(self) -> None:
        self.baseline_kb, _ = self.measure()

    def measure(self) -> tuple[int, int]:
        """(KiB held together, number of tasks)."""
        total = tasks = 0
        shared: dict[str, int] = {}
        for pid in self.family():
            try:
                tasks += len(os.listdir(f"/proc/{pid}/task"))
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    for line in file:
                        if line.startswith(("Pss_Anon:", "SwapPss:")):
                            total += int(line.split()[1])
                with open(f"/proc/{pid}/maps") as file:
                    for line in file:
                        if "/dev/zero (deleted)" in line or "/memfd:" in line or "/SYSV" in line:
                            span, _, _, _, inode, *_ = line.split()
                            low, _, high = span.partition("-")
                            size = (int(high, 16) - int(low, 16)) // 1024
                            shared[inode] = max(shared.get(inode, 0), size)
            except (OSError, ValueError):
                continue  # it ended while we looked
        return total + sum(shared.values()), tasks

    def exceeded(self) -> str | None:
        """ "memory" or "processes" when a bound is broken, else None."""
        held, tasks = self.measure()
        held = max(0, held - self.baseline_kb)
        self.peak_kb = max(self.peak_kb, held)
        if held > self.limits.memory_mb * 1024:
            return "memory"
        return "processes" if tasks > self.limits.processes * 2 else None

    def family(self) -> list[int]:
        """Pids of the sandbox: the first process and its descendants (orphans become its children)."""
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat", "rb") as file:
                        parent = int(file.read().rpartition(b")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry))
                except (OSError, ValueError, IndexError):
                    continue
        found, todo = [], [self.root_pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo.extend(children.get(pid, ()))
        return found
