"""What the host is, to read the figures by."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path


def facts() -> dict[str, str]:
    """Facts of this host and this moment, by name."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    load = os.getloadavg()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": model,
        "CPUs": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 1024 / 1024:.0f} GiB",
        "load before": f"{load[0]:.1f} (1 min), {load[1]:.1f} (5 min)",
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
