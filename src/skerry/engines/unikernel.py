"""The `unikernel` engine: a library operating system over at most nine host calls. A command is an image and its words.

The agent of `rules` starts it and stays with it, as with any program; the program is `skerry-tender`, which loads the image,
and goes on in it behind a filter of its own, or runs it as the guest of a machine of KVM's: the image says which.
"""

from __future__ import annotations

import os

from .. import errors
from ..control import messages
from .base import Capabilities, Probe, probe_by_boot
from .namespace import start_agent
from .sentry import ProgramGuest, find_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._options import Options

PROGRAM = "skerry-tender"

#: What images for hvt take.
KVM = "/dev/kvm"

#: What the smallest image for hvt gets, which takes some milliseconds.
_PATIENCE = 10

#: A unikernel's memory where no limit is given.
DEFAULT_MEMORY = 512 << 20

#: To write to something is to truncate it, as older Landlocks have it (rules.md); the tender's own filter has no call for that.
_WRITTEN = ("read_file", "write_file", "truncate")

_NO_FILES = "a unikernel has no files, only devices: give --block NAME=FILE"
_NO_NETWORK = "a unikernel has no sockets, only devices: give --net NAME=tap:INTERFACE"
_NO_ENVIRONMENT = "a unikernel gets words only"


class UnikernelEngine:
    """Starts agents of `rules`, whose programs are tenders."""

    name = "unikernel"
    capabilities = Capabilities(
        level=4,
        runs="unikernels",
        refuses={
            "read_only": _NO_FILES,
            "read_write": _NO_FILES,
            "hide": _NO_FILES,
            "tmpfs": _NO_FILES,
            "overlay_dir": _NO_FILES,
            "files": _NO_FILES,
            "resources.disk": _NO_FILES,
            "secrets": _NO_ENVIRONMENT,
            "env": _NO_ENVIRONMENT,
            "environment": _NO_ENVIRONMENT,
            "hostname": "a unikernel has none",
            "pty": "a unikernel writes to its console and reads nothing",
            "network loopback": _NO_NETWORK,
            "network user": _NO_NETWORK,
            "network.connect": _NO_NETWORK,
            "network.bind": _NO_NETWORK,
            "network.domains": _NO_NETWORK,
            "network.addresses": _NO_NETWORK,
            "system_calls": "a unikernel makes at most nine of the host's, and no others can be had",
            "trace": "a unikernel makes no system calls that anybody could tell of",
            "profile": "there is no guest kernel between a unikernel and its block devices",
        },
    )

    def boot(self, options: Options) -> dict[str, Any]:
        """The tender is what each command is started with; it may read what the caller may, and write to block devices."""
        boot = options.boot_message()
        options.environment = {}
        memory = options.memory or DEFAULT_MEMORY
        loader = [find_beside(PROGRAM), "--memory", str(memory)]
        files = [messages.file_rule("/", messages.READ_RIGHTS)]
        for name, block in options.block.items():
            loader += ["--block", f"{name}={block.path}"]
            if block.read_only:
                loader += ["--read-only", name]
            else:
                files.append(messages.file_rule(block.path, _WRITTEN))
            if block.size is not None:
                loader += ["--block-size", f"{name}={block.size}"]
        for name, net in options.net.items():
            loader += ["--net", f"{name}=tap:{net.interface}"]
            if net.address is not None:
                loader += ["--mac", f"{name}={net.address}"]
        if options.net and os.path.exists("/dev/net/tun"):
            files.append(messages.file_rule("/dev/net/tun", (*_WRITTEN, "ioctl_dev")))
        if os.path.exists(KVM):
            files.append(messages.file_rule(KVM, (*_WRITTEN, "ioctl_dev")))
        options.loader = [*loader, "--"]
        boot["mounts"] = [messages.mount_host("/", "/", writable=False)]
        boot["network"] = "none"
        # Its memory is all there is, and it is one process for ever.
        boot["limits"].update(memory=None, memory_files=None, pids=None)
        # What a unikernel must not do kills it: nobody has to be asked, or told.
        boot["without"] = [*boot["without"], "listener"]
        boot["rules"] = messages.rules(files=files, scopes=messages.SCOPES)
        return boot

    def update(self, memory: int | None, cpus: float | None) -> list[dict[str, Any]]:
        """Its limits stay as they are."""
        option = "cpus" if memory is None else "memory"
        raise errors.Unenforceable(
            option, self.name, "an image is laid out in the memory that it is given; start another sandbox"
        )

    def probe(self) -> Probe:
        """By the smallest image there is, and a guest that boots."""
        import subprocess  # late: it is slow to import

        words = [find_beside(PROGRAM), "--probe", "spt"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            why = done.stderr.strip() or f"the probe ended with status {done.returncode}"
            return Probe(False, why, "use Linux on x86-64 with seccomp, and vm.mmap_min_addr of at most 65536")
        return probe_by_boot(self.name, "what 'rules' needs is needed here too")

    def hvt_trouble(self) -> str:
        """Why images for hvt do not run here, or nothing: by the smallest one."""
        import subprocess

        words = [find_beside(PROGRAM), "--probe", "hvt"]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            return f"{KVM} runs nothing in {_PATIENCE} s"
        if done.returncode == 0:
            return ""
        return done.stderr.strip().rpartition(" takes KVM: ")[2] or f"the probe ended with status {done.returncode}"

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> ProgramGuest:
        """An agent that waits for its `boot`."""
        return start_agent("rules", "parent", on_event, on_end)
