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

from .. import _host, errors, vmm
from ..control import messages
from ..vmm import accel, image, initramfs, kernel, store
from ..vmm.qemu import SLOTS, command
from . import _machine
from .base import Capabilities, Probe, probe_by_boot, told_where_asked
from .sentry import ProgramGuest, find_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from .._options import Options

AGENT = "skerry-agent"
GATEWAY = "skerry-gateway"

#: Who resolves names for the host, and so for the gateway.
RESOLVERS = "/etc/resolv.conf"
#: resolv.conf(5) has no more.
_MOST_RESOLVERS = 3

#: Of a guest whose memory nobody has asked for.
DEFAULT_MEMORY = 1 << 30
#: The guest's kernel and what it keeps of its own.
OVERHEAD = 96 << 20

#: Servers of virtio-fs: Debian's, then the one that comes by itself.
_SERVERS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")

#: In the jail.
_SOCKET, _CONTROL, _FILES, _MEMORY = "/run/share.sock", "/run/control.sock", "/files", "/dev/shm/memory"  # noqa: S108

#: The guest's memory is kept as a file beside the state of the machine's devices.
_IGNORE_MEMORY = messages.step(
    command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
)

#: What QEMU reads of its own: firmware.
_DATA = ("/usr/share/qemu", "/usr/share/seabios", "/usr/share/qboot")

#: What the server of files needs: the guest's users own what they write, and it changes its root.
_SERVER_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_CHROOT",
)  # fmt: skip

_PATIENCE_MS = {"kvm": 15_000, "tcg": 60_000}

_REFUSES = {
    "trace": "the guest's kernel is Linux's own, and tells nobody of system calls",
    "network.domains without user": 'it is about the network outside: say mode = "user" beside it, or --network user',
    "network.addresses without user": 'it is about the network outside: say mode = "user" beside it, or --network user',
    "network.bind with user": "nobody outside reaches the sandbox's sockets; leave it out",
    "profile": "there is no guest kernel of ours between programs and the host's files",
    "overlay_dir": "what is written is kept in the guest's memory; name the directories to write to (read_write)",
}

_told: set[str] = set()


class MicrovmEngine:
    """Starts machines, each with one guest in it."""

    name = "microvm"

    def __init__(self, wanted_accel: str = "tcg", monitor: str = "qemu", snapshot: str = "auto") -> None:
        """Without options nothing is tried: who only asks what it can do gets what it can do everywhere."""
        self._accel = wanted_accel
        self._monitor = vmm.monitor(monitor)
        self._snapshot = snapshot
        self._settled: accel.Choice | None = None
        self._machine_now: vmm.Machine | None = None
        #: CPUs that it was started with; bytes of memory that were plugged in, and how often that was tried.
        self._cpus = 0
        self._plugged = 0
        self._tried = 0

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

        def unpacked() -> bytes:
            with open(found.path, "rb") as file:
                data = file.read()
            return kernel.vmlinux(data) or data

        agent = find_beside(AGENT)
        status = os.stat(agent)

        def archive() -> bytes:
            with open(agent, "rb") as file:
                return initramfs.build(file.read(), found.modules, modules, _MORE_MODULES, _NETWORK_MODULES)

        modules = (*self._monitor.modules, *_MODULES)
        of_agent = (agent, status.st_ino, status.st_size, status.st_mtime_ns)
        name = store.name_of(_FORM, identity, *of_agent, *modules, *_MORE_MODULES, *_NETWORK_MODULES)
        return store.made("kernel", store.name_of(identity), unpacked), store.made("initramfs", name, archive)

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it, for the guest's own tree; and the machine around it."""
        has_card = options.network == "user"
        if has_card and not self._monitor.has_cards:
            why = f"the network cards of {self._monitor.name} are taps of the host's, which root has to make; use --vmm qemu"
            raise errors.Unenforceable("network", self.name, why)
        if not self._monitor.run_on_hardware:
            raise errors.EngineUnavailable(
                f"machines of {self._monitor.name} are not started: its driver is checked by the published description only, "
                "and was not run on hardware; use --vmm qemu"
            )
        choice = self._choice()
        if choice.why not in ("", "asked for", *_told):
            _told.add(choice.why)
            print(f"skerry: microvm: without kvm, slowly, by QEMU's tcg: {choice.why}", file=sys.stderr, flush=True)
        boot = told_where_asked(options.boot_message(), options)
        memory = options.memory or min(DEFAULT_MEMORY, _host.host_memory() // 2)
        boot["limits"]["memory_files"] = min(boot["limits"]["memory_files"], memory // 2)
        tree = "virtiofs:root"
        shown: list[dict[str, Any]] = []
        helpers: list[dict[str, Any]] = []
        kernel_file, first = self._files()
        files = {"kernel": kernel_file, "initramfs": first}
        if options.root_image is not None:
            files["tree"], kind = image.of(options.root_image)
            tree = f"{kind}:/dev/vda"
            boot["mounts"] = _on_image(boot["mounts"])
        else:
            boot["mounts"], shown = _machine.share(boot["mounts"])
            shown += _machine.program_mounts(_server_path())
            helpers = [_server()]
        machine = vmm.Machine(
            kernel=f"{_FILES}/kernel",
            initramfs=f"{_FILES}/initramfs",
            memory=-(-(memory + OVERHEAD) // (64 << 20)) * (64 << 20),
            cpus=_cpus(options),
            command_line=_command_line(choice.accel, self._monitor),
            images=[f"{_FILES}/tree"] if "tree" in files else [],
            shares_root="tree" not in files,
            accel=choice.accel,
            most_cpus=_cpus_of_host() if self._monitor.grows else 0,
            most_memory=_host.host_memory() >> 30 << 30 if self._monitor.grows else 0,
            has_card=has_card,
        )
        self._machine_now, self._cpus = machine, machine.cpus
        state = self._kept(boot, machine, files) if self._monitor.keeps and self._snapshot == "auto" else None
        plan = self._monitor.plan(machine)
        plug = [_step(request) for request in plan.requests]
        if state is None:
            talk = messages.conversation(_CONTROL, after=plug)
        else:
            plan.argv += ["-incoming", "defer"]
            files["state"], files["memory"] = state, f"{state}.memory"
            load = [
                _IGNORE_MEMORY,
                messages.step(command("getfd", fdname="state"), read=f"{_FILES}/state"),
                messages.step(command("migrate-incoming", uri="fd:state")),
                messages.step(command("query-status"), until="paused"),
            ]
            talk = messages.conversation(_CONTROL, before=[*load, *plug, messages.step(command("cont"))], resumed=True)
        boot["tree"] = tree
        boot["about"] = {
            "monitor": self._monitor.name,
            "accel": f"{choice.accel}: {choice.why}" if choice.why else choice.accel,
            "memory": f"{machine.memory_mib} MiB",
            "start": "boot" if state is None else "snapshot",
            "tree": tree,
        }
        gateway = None
        if has_card:
            gateway = messages.gateway(find_beside(GATEWAY), _reached(options))
            boot["about"]["network"] = f"user: what leaves the guest passes {GATEWAY}"
        boot["machine"] = self._machine(plan, machine, files, talk, gateway)
        boot["machine"]["helpers"] = helpers
        boot["machine"]["mounts"] += shown
        boot["machine"]["writes_back"] = _machine.writes_back(boot["mounts"])
        return boot

    def _machine(
        self,
        plan: vmm.Plan,
        machine: vmm.Machine,
        files: Mapping[str, str],
        talk: Mapping[str, Any],
        gateway: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The jail with the monitor in it."""
        program = self._program()
        places = {vmm.MEMORY: _MEMORY, vmm.SHARE: _SOCKET, vmm.CONTROL: _CONTROL, vmm.CHANNEL: "0"}
        words = [program]
        for word in plan.argv[1:]:
            for mark, place in places.items():
                word = word.replace(mark, place)
            words.append(word)
        mounts = [
            *_machine.jail_mounts(machine.memory + (1 << 20)),
            messages.mount_tmpfs("/run", size=1 << 20, mode=0o1777),
            messages.mount_symlink("/var/run", "/run"),
            *_machine.program_mounts(program),
            *(messages.mount_host(path, path, writable=False) for path in _DATA if os.path.isdir(path)),
            *(messages.mount_host(f"{_FILES}/{name}", path, writable=False) for name, path in files.items()),
            *(messages.mount_tmpfs(f"{_machine.TOP}/{name}", size=4096, mode=0o755) for name in ("proc", "sys", "dev")),
        ]
        if machine.accel == "kvm":
            mounts.append(messages.mount_device(accel.KVM))
        return messages.machine(
            monitor=messages.host_program(
                words,
                ["HOME=/tmp", "TMPDIR=/tmp"],
                files=_files_of_monitor(program, files, machine.accel),
                own_user=machine.accel != "kvm" or _is_for_others(accel.KVM),
            ),
            mounts=mounts,
            memory_files=16 << 20,
            calls=None if os.geteuid() == 0 else _calls(),
            patience_ms=int(accel.patient(_PATIENCE_MS[machine.accel])),
            copies=[(f"{_FILES}/memory", _MEMORY)] if "memory" in files else [],
            conversation=talk,
            gateway=gateway,
        )

    def _kept(self, boot: Mapping[str, Any], machine: vmm.Machine, files: Mapping[str, str]) -> str | None:
        """The snapshot of such a machine that has booted, made where there is none; None where it cannot be."""
        plain = vmm.Machine(**{name: getattr(machine, name) for name in machine.__slots__})
        plain.shares_root, plain.images, plain.has_card = False, (), False
        files = {name: path for name, path in files.items() if name != "tree"}
        plan = self._monitor.plan(plain)
        processor = _processor() if machine.accel == "kvm" else ""
        name = store.name_of(*plan.argv, *files.values(), accel.identity(self._program()), processor)
        with store.lock_of_snapshot(name):
            if (found := store.snapshot(name)) is not None:
                return found
            part = store.new_snapshot(name)
            save = [
                _IGNORE_MEMORY,
                messages.step(command("stop")),
                messages.step(command("getfd", fdname="state"), write=f"{_FILES}/state"),
                messages.step(command("migrate", uri="fd:state")),
                messages.step(command("query-migrate"), until="completed"),
            ]
            talk = messages.conversation(_CONTROL, after=save, keeps=(_MEMORY, f"{_FILES}/memory"))
            of_all = {"require": [], "limits": {}, "network": "none"}
            making = {**boot, **of_all, "machine": self._machine(plan, plain, files, talk)}
            making["machine"]["mounts"] += [
                messages.mount_host(f"{_FILES}/state", part, writable=True),
                messages.mount_host(f"{_FILES}/memory", f"{part}.memory", writable=True),
            ]
            try:
                guest = self.start(making, lambda _: None, lambda _: None)
                try:
                    guest.client.call("boot", making)
                finally:
                    guest.close()
            except errors.SkerryError as error:
                store.drop(part)
                print(f"skerry: microvm: no snapshot, each start boots: {error}", file=sys.stderr, flush=True)
                self._snapshot = "never"
                return None
            about: dict[str, Any] = {"memory": f"{machine.memory_mib} MiB", "cpus": machine.cpus, "accel": machine.accel}
            return store.keep(name, part, about)

    def update(self, memory: int | None, cpus: float | None) -> Iterator[dict[str, Any]]:
        """The guest's groups hold the limit of memory, the host that of CPUs; the machine gets what it lacks for that, a piece
        by each request: what the monitor has taken is counted, whatever becomes of the rest.
        """
        machine = self._machine_now
        assert machine is not None
        now = machine.memory + self._plugged
        lacks = 0 if memory is None else -(-(memory + OVERHEAD - now) // _BLOCK) * _BLOCK
        count = max(machine.cpus, math.ceil(cpus or 0))
        if lacks > 0:
            self._must_grow("memory", now + lacks <= machine.most_memory and self._tried < SLOTS)
        if count > machine.cpus:
            self._must_grow("cpus", count <= machine.most_cpus)
        if lacks > 0:
            # A module that was not taken may have left its name.
            self._tried += 1
            yield self._growth(self._monitor.plug_memory(self._tried - 1, lacks))
            self._plugged += lacks
        for number in range(machine.cpus, count):
            yield self._growth(self._monitor.plug_cpu(number, machine))
            machine.cpus = number + 1
        growth = None
        if self._plugged or machine.cpus > self._cpus:
            # Waited for, even if it was plugged in by a change that failed then.
            whole = -(-machine.memory // _BLOCK) * _BLOCK + self._plugged
            growth = self._growth([], cpus and machine.cpus, memory and whole)["machine"]
        yield messages.update(memory=memory, cpus=cpus, machine=growth)

    def _growth(self, steps: Sequence[vmm.Request], cpus: float | None = None, memory: int | None = None) -> dict[str, Any]:
        """A piece of it, or what the guest must have taken of all of them."""
        machine = messages.growth([_step(step) for step in steps], cpus=int(cpus or 0), memory=memory or 0)
        return messages.update(machine=machine)

    def _must_grow(self, option: str, there: bool) -> None:
        if not self._monitor.grows:
            why = f"a machine of {self._monitor.name} keeps what it was started with; use --vmm qemu"
            raise errors.Unenforceable(option, self.name, why)
        if not there:
            raise errors.Unenforceable(option, self.name, "its machine can have no more of it, as the host has none")

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
        return _machine.start_machine(self.name, on_event, on_end)


#: Changes when the contents of the first file system do for another reason than its parts.
_FORM = "2"

#: What every guest's tree takes.
_MODULES = ("overlay",)
#: What some take, where the kernel has it.
_MORE_MODULES = ("erofs", "ext4")
#: What a network card takes.
_NETWORK_MODULES = ("virtio_net",)


#: The guest's kernel takes memory in blocks of that size.
_BLOCK = 128 << 20


def _reached(options: Options) -> dict[str, Any]:
    """What the gateway is told."""
    from ..policy import _compile

    return {**_compile.gateway(options.policy), "resolvers": host_resolvers(), "mtu": vmm.MTU}


def host_resolvers() -> list[str]:
    """The servers that the host asks for names; without any the guest's are not resolved."""
    import ipaddress

    found = []
    try:
        with open(RESOLVERS, encoding="utf-8", errors="replace") as file:
            words = [line.split() for line in file]
    except OSError:
        return []
    for line in words:
        if line[:1] == ["nameserver"] and len(line) > 1:
            try:
                found.append(str(ipaddress.ip_address(line[1].partition("%")[0])))
            except ValueError:
                continue  # what the host's own programs pass over
    return found[:_MOST_RESOLVERS]


def _cpus(options: Options) -> int:
    """Whole ones: a fraction is held outside, by the time that the monitor gets."""
    there = _cpus_of_host()
    return max(1, min(math.ceil(options.cpus or there), there))


def _cpus_of_host() -> int:
    return min(len(os.sched_getaffinity(0)), 64)


def _on_image(mounts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The guest's mounts where its tree is an image: of the host's there is nothing else."""
    top = mounts[0]
    for mount in mounts:
        own = mount["type"] not in ("host_read_only", "host_read_write", "hide")
        if not (own or mount is top) or (mount is top and top["type"] != "overlay"):
            option = {"host_read_write": "read_write", "hide": "hide"}.get(mount["type"], "read_only")
            why = "the tree comes from an image, which has all that there is; leave the option out, or root_image"
            raise errors.Unenforceable(option, "microvm", why)
    return [{**top, "source": "/0"}, *(dict(mount) for mount in mounts[1:])]


def _command_line(accelerator: str, monitor: vmm.Monitor) -> str:
    words = [f"console={monitor.console}", "quiet", "reboot=t", "panic=-1", "random.trust_cpu=on", "cryptomgr.notests"]
    # What is plugged in is there at once, and the room for it costs nothing before.
    words += ["memhp_default_state=online", "swiotlb=noforce"]
    if accelerator == "tcg":
        # What the guest would measure is known, and measured badly under tcg. Its mitigations mend no hardware.
        counter = accel.counter_khz()
        words += [f"tsc_early_khz={counter}"] if counter else []
        words += ["lpj=4000000", "no_timer_check", "mitigations=off"]
    words += ["--", "--engine", "guest", "--channel", monitor.channel, "--module", f"/{initramfs.MODULES}"]
    return " ".join(words)


def _step(request: vmm.Request) -> dict[str, Any]:
    return messages.step({"execute": request.method, "arguments": request.body or {}}, read=request.file)


def _processor() -> str:
    """What a snapshot depends on where the hardware's own registers are in it."""
    found = _host.processor()
    return " ".join(found.get(name, "") for name in ("model", "model name", "stepping", "flags"))


def _files_of_monitor(program: str, files: Mapping[str, str], accelerator: str) -> list[dict[str, Any]]:
    """What it opens by itself: of what is kept of a machine it gets descriptors."""
    rules = _machine.files_of_program(program)
    rules += [messages.file_rule(path, _machine.READ) for path in (*_DATA, "/dev/urandom")]
    rules += [messages.file_rule(f"{_FILES}/{name}", _machine.READ) for name in files if name not in ("state", "memory")]
    rules.append(messages.file_rule(os.path.dirname(_MEMORY), (*_machine.WRITE, "make_reg", "truncate")))
    rules.append(messages.file_rule(os.path.dirname(_SOCKET), ("make_sock", "resolve_unix")))
    rules.append(messages.file_rule("/dev/null", _machine.WRITE))
    if accelerator == "kvm":
        rules.append(messages.file_rule(accel.KVM, (*_machine.WRITE, "ioctl_dev")))
    return rules


def _is_for_others(device: str) -> bool:
    """Whether a user of its own can open a device: the jail gives that the device's group, where it is not root's."""
    status = os.stat(device)
    return status.st_mode & 0o006 == 0o006 or (status.st_mode & 0o060 == 0o060 and status.st_gid != 0)


def _server_path() -> str:
    program = next((path for path in _SERVERS if os.access(path, os.X_OK)), None)
    if program is None:
        raise errors.EngineUnavailable(
            "there is no virtiofsd to serve the host's files; Debian's package is qemu-system-common. Without it the tree can "
            "be an image (root_image)"
        )
    return os.path.realpath(program)


def _server() -> dict[str, Any]:
    words = [_server_path(), f"--socket-path={_SOCKET}", "-o", f"source={_machine.TOP}", "-o", "sandbox=chroot"]
    words += ["-o", "cache=always", "-o", "modcaps=-mknod:-setfcap", "-o", "log_level=err"]
    path = words[0]
    files = _machine.files_of_program(path)
    files += [messages.file_rule(place, _machine.EVERYTHING) for place in (_machine.TOP, os.path.dirname(_SOCKET))]
    files += [messages.file_rule("/proc", _machine.READ), messages.file_rule("/dev/null", _machine.WRITE)]
    return messages.host_program(words, (), _SOCKET, _SERVER_CAPABILITIES, opens_for_others=os.geteuid() != 0, files=files)


def _calls() -> dict[str, Any]:
    """Who is not root owns few of the host's files: the server's opens with O_NOATIME are made for it without that."""
    noatime = messages.argument(2, "equal", os.O_NOATIME, mask=os.O_NOATIME)
    return messages.call_rules("allow", [messages.call_rule(["openat"], "notify", [noatime])])
