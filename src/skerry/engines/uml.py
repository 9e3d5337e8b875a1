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
from .base import NO_NETWORK_OUTSIDE, Capabilities, Probe, probe_by_boot, told_where_asked
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
#: What the jail's own tree may hold: it is not written to, and hostfs tells of its size where programs ask how much is free.
_ROOM = 1 << 40
#: Bytes that the serial line may hold: its driver mixes up what comes once the terminal's buffer of 4096 is nearly full.
_LINE = 2048

#: What the kernel calls of its host's, with the C library and its tracees: files, memory, signals, timers, ptrace. No sockets.
_CALLS = (
    # Programs and processes.
    "arch_prctl", "brk", "clone", "execve", "exit", "exit_group", "fork", "futex", "getegid", "geteuid", "getgid", "getpid",
    "getppid", "getrandom", "getrlimit", "gettid", "getuid", "kill", "personality", "prctl", "prlimit64", "ptrace", "rseq",
    "sched_yield", "set_robust_list", "set_tid_address", "setpgid", "setrlimit", "setsid", "sysinfo", "tgkill", "tkill",
    "uname", "vfork", "wait4", "waitid",
    # Memory.
    "madvise", "mmap", "mprotect", "mremap", "munmap",
    # Signals and time.
    "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "gettimeofday", "nanosleep", "pause", "restart_syscall",
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "setitimer",
    "sigaltstack", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime",
    # Descriptors.
    "close", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2",
    "fcntl", "ioctl", "lseek", "pipe", "pipe2", "poll", "ppoll", "pread64", "preadv", "pselect6", "pwrite64", "pwritev", "read",
    "readv", "select", "socketpair", "write", "writev",
    # Files.
    "access", "chdir", "chmod", "chown", "creat", "faccessat", "faccessat2", "fallocate", "fchmod", "fchmodat", "fchown",
    "fchownat", "fdatasync", "flock", "fstat", "fstatfs", "fsync", "ftruncate", "futimesat", "getcwd", "getdents", "getdents64",
    "lchown", "link", "linkat", "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "readlink",
    "readlinkat", "rename", "renameat", "renameat2", "rmdir", "stat", "statfs", "statx", "symlink", "symlinkat", "truncate",
    "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes",
)  # fmt: skip


class UmlEngine:
    """Starts machines, each with a User Mode Linux in it."""

    name = "uml"
    capabilities = Capabilities(
        level=3,
        refuses={
            "trace": "the guest's kernel answers system calls, and tells nobody of them",
            "profile": "there is no guest kernel of ours",
            "overlay_dir": "hostfs has no extended attributes, which an overlay's upper directory takes",
            **NO_NETWORK_OUTSIDE,
        },
    )

    _memory = 0

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it, with the machine."""
        kernel = find_kernel()
        boot = told_where_asked(options.boot_message(), options)
        agent = find_beside("skerry-agent")
        memory = self._memory = options.memory or min(_MEMORY, _host.host_memory() // 2)
        total = (memory + _KERNEL_MEMORY + memory // 32 + (1 << 20) - 1) >> 20 << 20
        boot["limits"]["memory_files"] = min(boot["limits"]["memory_files"], memory // 2)
        if not os.environ.get("SKERRY_UML"):
            # A program that takes all of it is ended and told of; the kernel has what it needs.
            boot["limits"]["memory"] = memory
        boot["mounts"], shown = _machine.share(boot["mounts"])
        top = _machine.TOP
        words = [
            kernel, "root=/dev/root", "rootfstype=hostfs", f"rootflags={top}", "rw", f"mem={total >> 20}M", "quiet",
            "ssl0=fd:0", "con0=null,fd:1", "con=null", "ssl=null", "uml_dir=/tmp/", "umid=machine", "selinux=0", "panic=-1",
            "init=/init", "--", "--engine", "guest", "--channel", "/dev/ttyS0", "--line", str(_LINE),
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
            monitor=messages.host_program(words, ["HOME=/tmp", "TMPDIR=/dev/shm"], fixed_addresses=True),
            mounts=[*mounts, *shown],
            memory_files=_ROOM,
            keeps_registers=True,
            calls=messages.call_rules({"errno": 1}, [messages.call_rule(_CALLS, "allow")]),
            line_holds=_LINE,
            patience_ms=_PATIENCE_MS,
            writes_back=_machine.writes_back(boot["mounts"]),
        )
        return boot

    def update(self, memory: int | None, cpus: float | None) -> list[dict[str, Any]]:
        """Its memory is the machine's, which cannot have more than it was started with."""
        if memory is not None and memory > self._memory:
            raise errors.Unenforceable("memory", self.name, "its machine cannot be given more memory than it was started with")
        return [messages.update(memory=memory, cpus=cpus)]

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
