"""Memory: what this machine, or the container that the process runs in, has available, and the most that the process held."""

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_PEAK = Path("/proc/self/clear_refs")


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping; None = not known. On other systems than Linux: all memory."""
    found = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(found) if found else None


def peak_memory_gib() -> float:
    """Largest resident memory of this process, in GiB: since `reset_peak_memory` on Linux, elsewhere since its start."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.split()[0]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def reset_peak_memory() -> None:
    """Let `peak_memory_gib` start from what the process holds now, where the system supports that (Linux).

    What was freed before is given back to the system first.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # of another C library
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        _PEAK.write_text("5", encoding="ascii")


def _of_machine() -> int | None:
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _of_container() -> int | None:
    """What the control group (version 2) leaves, cached files not counted as used; None without a limit."""
    try:
        limit, used, stat = (
            (_CGROUP / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current", "stat")
        )
    except OSError:
        return None
    if limit == "max":
        return None
    cached = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file ")), 0)
    return max(0, int(limit) - int(used) + cached)
