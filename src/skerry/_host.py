"""What this host is. Importing Skerry works everywhere; making a sandbox needs Linux on x86-64."""

from __future__ import annotations

import os
import sys

from .errors import UnsupportedHost

#: The oldest kernel: seccomp's user notification with descriptors injected (ADDFD).
MINIMUM_KERNEL = (5, 9)


def require_supported_host() -> None:
    """Raises `UnsupportedHost`, one sentence, unless this is Linux on x86-64 and Python is 64-bit."""
    machine = os.uname().machine if hasattr(os, "uname") else "unknown"
    if sys.platform == "linux" and machine in ("x86_64", "amd64") and sys.maxsize > 1 << 32:
        return
    raise UnsupportedHost(
        f"Skerry needs Linux 5.9 or newer on an x86-64 processor with a 64-bit Python; this is {sys.platform} on {machine}"
    )


def kernel_version() -> tuple[int, int]:
    """The running kernel's version: (major, minor)."""
    numbers: list[int] = []
    for part in os.uname().release.split(".")[:2]:
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        numbers.append(int(digits or 0))
    major, minor = [*numbers, 0, 0][:2]
    return major, minor


def processor() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor, by name; nothing where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def host_memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
