"""Reads processes and the machine from Linux's /proc. The rest of the benchmark does not depend on Linux."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

from hierarchy.errors import UsageError

PROC = Path("/proc")


def require_linux() -> None:
    """Raise `UsageError` if this system has no /proc."""
    if not (PROC / "self" / "stat").exists():
        raise UsageError(
            f"the benchmark reads CPU time and memory from /proc, which only Linux has (this is {sys.platform}); "
            "run it in a Linux container or virtual machine"
        )


def parse_stat(text: str) -> tuple[int, int]:
    """(pid of the parent, CPU ticks in user and kernel mode) from `/proc/PID/stat`.

    The command's name is in brackets and may contain spaces and brackets. Source: proc_pid_stat(5).
    """
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), int(fields[11]) + int(fields[12])


def parse_kib(text: str, field: str) -> int | None:
    """The number in a line `Field:  123 kB` of a smaps_rollup or status file; None if there is no such line."""
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return None


def family(pids: Iterable[int]) -> list[int]:
    """These processes and all their descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _read(entry / "stat")):
            children.setdefault(parse_stat(stat)[0], []).append(int(entry.name))
    found = list(dict.fromkeys(pids))
    for pid in found:  # grows during the loop
        found += [child for child in children.get(pid, ()) if child not in found]
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used, all threads."""
    stats = (_read(PROC / str(pid) / "stat") for pid in pids)
    return sum(parse_stat(stat)[1] for stat in stats if stat) / os.sysconf("SC_CLK_TCK")


def memory_kib(pids: Iterable[int]) -> int:
    """Memory of these processes: proportional set size, or resident set size if the kernel has no smaps_rollup."""
    total = 0
    for pid in pids:
        pss = parse_kib(_read(PROC / str(pid) / "smaps_rollup"), "Pss")
        total += pss if pss is not None else parse_kib(_read(PROC / str(pid) / "status"), "VmRSS") or 0
    return total


def raise_descriptor_limit() -> int:
    """Raise the limit of descriptors to what the system allows, also for processes started later. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def machine() -> str:
    """Processor, cores, memory and kernel in one line."""
    model = next((line.partition(":")[2] for line in _read(PROC / "cpuinfo").splitlines() if "model name" in line), "")
    memory = (parse_kib(_read(PROC / "meminfo"), "MemTotal") or 0) / 2**20
    cores = len(os.sched_getaffinity(0))
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{model.strip() or platform.machine()}, {cores} cores, {memory:.0f} GiB, Linux {kernel}"


def _read(path: Path) -> str:
    """A file's text; empty if the process has ended, or access is denied."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
