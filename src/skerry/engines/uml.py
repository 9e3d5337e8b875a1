"""The `uml` engine: User Mode Linux, a Linux kernel that is a process of the host. It needs no privilege and no hardware.

The kernel is Debian's packaged one. Its root file system is hostfs over a directory of the jail's; the agent is its init, and
makes there what the engine `namespace` makes on the host's kernel. Around it lies the jail of `skerry-machine`.
"""

from __future__ import annotations

import os
import re

from .. import _host, errors
from ..control import messages
from . import _machine
from .base import Capabilities, Probe, probe_by_boot
from .sentry import ProgramGuest, find_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._options import Options

#: The kernel, and where its package has its modules; SKERRY_UML names another.
KERNEL = "/usr/bin/linux.uml"
MODULES = "/usr/lib/uml/modules"
MEND = "install the package 'user-mode-linux' (Debian, Ubuntu), or set SKERRY_UML to a User Mode Linux kernel with hostfs"

#: The guest's memory where nobody says how much; it is the host's only as far as the guest has used it.
_MEMORY = 1 << 30
#: What the kernel itself needs besides.
_KERNEL_MEMORY = 48 << 20
_PATIENCE_MS = 60_000

#: Registers that make the state of a processor longer than the kernel has room for (before Linux 6.15): asked for it whole, it
#: would fail; refused, it goes by what all processors have.
_WIDE_REGISTERS = {"avx512f", "amx_tile", "pku", "mpx"}


class UmlEngine:
    """Starts machines, each with a User Mode Linux in it."""

    name = "uml"
    capabilities = Capabilities(
        level=3,
        refuses={
            "trace": "the guest's kernel answers system calls, and tells nobody of them",
            "profile": "there is no guest kernel of ours",
            "overlay_dir": "hostfs has no extended attributes, which an overlay's upper directory takes",
            "network.domains": "there is no network outside of the sandbox yet, so no name is resolved",
            "network.addresses": "there is no network outside of the sandbox yet",
        },
    )

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it, with the machine."""
        kernel = find_kernel()
        boot = options.boot_message()
        agent = find_beside("skerry-agent")
        memory = options.memory or min(_MEMORY, _host.host_memory() // 2)
        total = (memory + _KERNEL_MEMORY + memory // 32 + (1 << 20) - 1) >> 20 << 20
        boot["limits"]["memory_files"] = min(boot["limits"]["memory_files"], memory // 2)
        boot["mounts"], shown = _machine.share(boot["mounts"])
        top = _machine.TOP
        words = [
            kernel, "root=/dev/root", "rootfstype=hostfs", f"rootflags={top}", "rw", f"mem={total >> 20}M", "quiet",
            "ssl0=fd:0", "con0=null,fd:1", "con=null", "ssl=null", "uml_dir=/tmp/", "umid=machine", "selinux=0", "panic=-1",
            "init=/init", "--", "--engine", "guest", "--channel", "/dev/ttyS0",
        ]  # fmt: skip
        mounts = [
            *_machine.jail_mounts(total + (16 << 20)),
            *_machine.program_mounts(kernel),
            messages.mount_host(f"{top}/init", os.path.realpath(agent), writable=False),
            *_machine.library_mounts(agent, top),
            *(messages.mount_tmpfs(f"{top}/{name}", size=4096, mode=0o755) for name in ("proc", "sys", "dev")),
        ]
        if (overlay := _overlay_module(kernel)) is not None:
            mounts.append(messages.mount_host(f"{top}/overlay.ko", os.path.realpath(overlay), writable=False))
            words += ["--module", "/overlay.ko"]
        boot["machine"] = messages.machine(
            monitor=messages.host_program(words, ["HOME=/tmp", "TMPDIR=/dev/shm"]),
            mounts=[*mounts, *shown],
            memory_files=64 << 20,
            calls=_calls(),
            patience_ms=_PATIENCE_MS,
            writes_back=_machine.writes_back(boot["mounts"]),
        )
        return boot

    def probe(self) -> Probe:
        """By a guest that boots."""
        try:
            find_kernel()
        except errors.EngineUnavailable as error:
            return Probe(False, str(error), MEND)
        return probe_by_boot(self.name, "allow user namespaces, or run it as root: see above")

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> ProgramGuest:
        """A machine that waits for its `boot`."""
        return _machine.start_machine(self.name, on_event, on_end)


def find_kernel() -> str:
    """The kernel's path."""
    kernel = os.environ.get("SKERRY_UML") or KERNEL
    if not (os.path.isfile(kernel) and os.access(kernel, os.X_OK)):
        raise errors.EngineUnavailable(f"there is no User Mode Linux at {kernel}; {MEND}")
    return os.path.realpath(kernel)


def _overlay_module(kernel: str) -> str | None:
    """The overlay file system, where the packaged kernel has it as a module. Of a kernel of one's own it is a part."""
    if os.environ.get("SKERRY_UML"):
        return None
    try:
        versions = sorted(os.listdir(MODULES), key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    except OSError:
        return None
    paths = [f"{MODULES}/{version}/kernel/fs/overlayfs/overlay.ko" for version in reversed(versions)]
    return next((path for path in paths if os.path.exists(path)), None)


def _calls() -> dict[str, Any] | None:
    """What the kernel is denied of its host beyond the jail's own profile."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if not _WIDE_REGISTERS & set(flags):
        return None
    get_registers = {"index": 0, "mask": 0xFFFF_FFFF, "operator": "equal", "value": 0x4204}  # PTRACE_GETREGSET
    return {
        "default": "allow",
        "rules": [{"calls": ["ptrace"], "arguments": [get_registers], "action": {"errno": 22}}],
    }
