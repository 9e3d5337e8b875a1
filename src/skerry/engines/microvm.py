"""The `microvm` engine: a Linux guest in a virtual machine, whose monitor is in a jail. `skerry-machine` starts both and speaks
the control protocol; `skerry-agent` is the guest's init.

What is prepared here: the kernel and the first file system (vmm.kernel, vmm.initramfs), what the monitor is told (vmm.qemu and
the others), the tree that the guest may have of the host's, and a snapshot of a machine that has booted (vmm.store), from which
the next ones start.
"""

from __future__ import annotations

import math
import os
import sys

from .. import errors, vmm
from ..control import messages
from ..vmm import accel, initramfs, kernel, store
from .base import Capabilities, Probe, probe_by_boot
from .sentry import ProgramGuest, find_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from .._options import Options

PROGRAM = "skerry-machine"
AGENT = "skerry-agent"

#: Of a guest whose memory nobody has asked for.
DEFAULT_MEMORY = 1 << 30
#: The guest's kernel and what it keeps of its own.
OVERHEAD = 96 << 20

#: Servers of virtio-fs: Debian's, then the one that comes by itself.
_SERVERS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")

#: In the jail.
_SHARE, _SOCKET, _FILES = "/share", "/run/share.sock", "/machine"

#: What the server of files needs: the guest's users own what they write, and it changes its root.
_SERVER_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_CHROOT",
)  # fmt: skip

_PATIENCE_MS = {"kvm": 15_000, "tcg": 60_000}

_REFUSES = {
    "trace": "the guest's kernel is Linux's own, and tells nobody of system calls",
    "network.domains": "there is no network outside of the sandbox yet, so no name is resolved",
    "network.addresses": "there is no network outside of the sandbox yet",
    "profile": "there is no guest kernel of ours between programs and the host's files",
    "overlay_dir": "what is written is kept in the guest's memory; name the directories to write to (read_write)",
}

_told: set[str] = set()


class MicrovmEngine:
    """Starts machines, each with one guest in it."""

    name = "microvm"

    def __init__(self, wanted_accel: str = "auto", monitor: str = "qemu", snapshot: str = "auto") -> None:
        self._accel = wanted_accel
        self._monitor = vmm.monitor(monitor)
        self._snapshot = snapshot
        self._settled: accel.Choice | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Without hardware that runs the guest its wall is another kernel, and the jail."""
        return Capabilities(level=4 if self._hardware() else 3, refuses=_REFUSES)

    def _hardware(self) -> bool:
        try:
            return self._choice().accel == "kvm"
        except errors.SandboxError:
            return False  # its start says why

    def _choice(self) -> accel.Choice:
        if self._settled is None:
            if not self._monitor.name.startswith("qemu"):
                self._settled = accel.Choice("kvm")
            elif self._accel == "tcg":
                self._settled = accel.Choice("tcg", "asked for")
            else:
                self._settled = accel.chosen(self._accel, self._program, self._files)
        return self._settled

    def _program(self) -> str:
        import shutil

        found = shutil.which(self._monitor.program)
        if found is None:
            raise errors.EngineUnavailable(f"{self._monitor.program!r} is not installed; Debian's package is qemu-system-x86")
        return os.path.realpath(found)

    def _files(self) -> tuple[str, str]:
        """The kernel and its first file system, kept between starts."""
        found = kernel.find()
        identity = found.identity()

        def image() -> bytes:
            with open(found.path, "rb") as file:
                data = file.read()
            return kernel.vmlinux(data) or data

        agent = find_beside(AGENT)
        status = os.stat(agent)

        def archive() -> bytes:
            with open(agent, "rb") as file:
                return initramfs.build(file.read(), found.modules, (*self._monitor.modules, *_MODULES))

        name = store.name_of(_FORM, identity, agent, status.st_ino, status.st_size, status.st_mtime_ns, *self._monitor.modules)
        return store.made("kernel", store.name_of(identity), image), store.made("initramfs", name, archive)

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it, for the guest's own tree; and the machine around it."""
        boot = options.boot_message()
        choice = self._choice()
        if choice.why and choice.why != "asked for" and choice.why not in _told:
            _told.add(choice.why)
            print(f"skerry: microvm: no kvm, QEMU itself runs the guest, slowly: {choice.why}", file=sys.stderr, flush=True)
        image, first = self._files()
        memory = options.memory or DEFAULT_MEMORY
        machine = vmm.Machine(
            kernel=f"{_FILES}/kernel",
            initramfs=f"{_FILES}/initramfs",
            memory=-(-(memory + OVERHEAD) // (64 << 20)) * (64 << 20),
            cpus=_cpus(options),
            command_line=_command_line(choice.accel, self._monitor.channel, first),
            shares_root=True,
            accel=choice.accel,
        )
        plan = self._monitor.plan(machine)
        said = _placed(plan.argv, self._program())
        mounts = _jail(boot["mounts"], {"kernel": image, "initramfs": first})
        boot["machine"] = {
            "helpers": [_server()],
            "monitor": {"arguments": said},
            "mounts": mounts,
            "memory_files": machine.memory + (64 << 20),
            "patience_ms": _PATIENCE_MS[choice.accel],
            "writes_back": any(mount["type"] == "host_read_write" for mount in boot["mounts"]),
        }
        return boot

    def probe(self) -> Probe:
        """By a guest that boots."""
        try:
            self._program()
            kernel.find()
        except errors.SandboxError as error:
            return Probe(False, str(error), "install qemu-system-x86, and run 'skerry machines --fetch-kernel'")
        return probe_by_boot(self.name, "'skerry doctor' says what is missing")

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> ProgramGuest:
        """A host's side that waits for its `boot`."""
        return ProgramGuest(
            [find_beside(PROGRAM), "--engine", self.name], {}, f"the guest's machine ({PROGRAM})", on_event, on_end
        )


#: Changes when the contents of the first file system do for another reason than its parts.
_FORM = "1"

#: What every guest's tree takes.
_MODULES = ("overlay",)


def _cpus(options: Options) -> int:
    """Whole ones: a fraction is held outside, by the time that the monitor gets."""
    there = len(os.sched_getaffinity(0))
    return max(1, min(math.ceil(options.cpus or there), there, 64))


def _command_line(accelerator: str, channel: str, first: str) -> str:
    words = ["console=ttyS0", "quiet", "reboot=t", "panic=-1", "random.trust_cpu=on", "cryptomgr.notests"]
    if accelerator == "tcg":
        # What the guest would measure is known, and measured badly under tcg. Its mitigations mend no hardware.
        counter = accel.counter_khz()
        words += [f"tsc_early_khz={counter}"] if counter else []
        words += ["lpj=4000000", "no_timer_check", "mitigations=off"]
    words += ["--", "--engine", "guest", "--channel", channel, "--modules", f"/{initramfs.MODULES}"]
    return " ".join(words)


def _placed(argv: list[str], program: str) -> list[str]:
    """The monitor's words, with what is in the jail in its places."""
    places = {vmm.SHARE: _SOCKET}
    words = [program]
    for word in argv[1:]:
        for mark, place in places.items():
            word = word.replace(mark, place)
        words.append(word)
    return words


def _server() -> dict[str, Any]:
    program = next((path for path in _SERVERS if os.access(path, os.X_OK)), None)
    if program is None:
        raise errors.EngineUnavailable("there is no virtiofsd; Debian's package is qemu-system-common")
    words = [program, f"--socket-path={_SOCKET}", "-o", f"source={_SHARE}", "-o", "sandbox=chroot", "-o", "cache=always"]
    words += ["-o", "modcaps=-mknod:-setfcap", "-o", "announce_submounts"]
    return {"arguments": words, "makes": _SOCKET, "capabilities": list(_SERVER_CAPABILITIES)}


def _jail(mounts: list[dict[str, Any]], files: Mapping[str, str]) -> list[dict[str, Any]]:
    """The jail's tree: programs, the machine's files, and what the guest may have of the host's, read-only but for what it
    may write to."""
    placed = [messages.mount_plain("/", "skeleton"), messages.mount_host("/usr", "/usr", writable=False)]
    for name in ("/bin", "/lib", "/lib64", "/sbin"):
        if os.path.islink(name):
            placed.append(messages.mount_symlink(name, os.readlink(name)))
        elif os.path.isdir(name):
            placed.append(messages.mount_host(name, name, writable=False))
    placed += [
        messages.mount_plain("/proc", "proc"),
        messages.mount_plain("/dev", "devtmpfs"),
        messages.mount_tmpfs("/run", mode=0o755),
        messages.mount_tmpfs("/tmp", mode=0o1777),  # noqa: S108  # inside the jail
        messages.mount_symlink("/var/run", "/run"),
    ]
    placed += [messages.mount_host(path, f"{_FILES}/{name}", writable=False) for name, path in files.items()]
    return placed + list(_shared(mounts))


#: Of the host's, what shows its kernel or its running programs is not for a guest, which has a kernel of its own.
_OWN = ("/proc", "/sys", "/dev", "/run")


def _shared(mounts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each source that the guest's mounts speak of, where the guest will look for it."""
    sources: dict[str, bool] = {}
    hidden = set(_OWN)
    for mount in mounts:
        if mount["type"] == "hide":
            hidden.add(os.fsdecode(messages.read_bytes(mount["target"])))
        if "source" in mount:
            source = os.fsdecode(messages.read_bytes(mount["source"]))
            sources[source] = sources.get(source, False) or mount["type"] == "host_read_write"
    for source in sorted([*sources, *hidden], key=lambda path: (path.count("/") if path != "/" else 0, path)):
        target = _SHARE + source.rstrip("/")
        if source in hidden and source not in sources:
            if source in _OWN:
                yield messages.mount_tmpfs(target, mode=0o755)
            else:
                yield messages.mount_plain(target, "hide")
        else:
            yield messages.mount_host(source, target, writable=sources[source])
