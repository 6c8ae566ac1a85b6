"""Processes of this host: who they are, and whether one that left a run behind is still alive."""

import os
import socket
from hashlib import sha256
from pathlib import Path


def _host() -> str:
    """The name of this host, with a mark of what its pids belong to: this boot and this pid namespace.

    Two containers may share a host name; a pid of one says nothing about the other.
    """
    name = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return name
    return f"{name}#{sha256((boot + namespace).encode()).hexdigest()[:8]}"


HOST = _host()


def started_at(pid: int) -> float | None:
    """When a process started, in clock ticks since boot; None when there is no such process.

    Together with the pid it names a process: pids are used again, starting times of one pid are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may contain spaces and brackets
    return None if fields[0] == "Z" else float(fields[19])


def is_alive(pid: int, process_started: float | None) -> bool:
    """Whether the process that had this pid and starting time still runs. Unknown counts as alive."""
    if not Path("/proc/self/stat").exists() or process_started is None:
        return True
    return started_at(pid) == process_started


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or the control group's limit where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:  # not on macOS
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def own() -> tuple[int, float | None]:
    """Pid and starting time of this process."""
    return os.getpid(), started_at(os.getpid())
