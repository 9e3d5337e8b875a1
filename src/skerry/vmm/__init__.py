"""Virtual machine monitors: what each of them needs to be told to run one machine of ours.

A driver is data in, data out: from a `Machine` it makes a `Plan`: the program with its arguments, files to be there before it
starts, and the requests that its control socket gets, in order. `skerry-machine` (crates/machine) starts the program in a jail
and speaks; nothing here starts anything. So every driver can be checked by the monitor's published description, on any host.
"""

from __future__ import annotations

from .._options import MONITORS
from ..errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Whoever starts the machine puts the paths and descriptors in their places.
CONTROL, CHANNEL, SHARE, MEMORY = "@CONTROL@", "@CHANNEL@", "@SHARE@", "@MEMORY@"

#: A monitor's descriptor of its network card (crates/control: Gateway).
FRAMES = "3"
#: Bytes of one frame's packet: no wire is in between, and larger ones are fewer.
MTU = 65520


class Machine:
    """What a machine is made of. Sizes in bytes, paths of the host; `shares_root`: its tree comes by virtio-fs."""

    __slots__ = (
        "accel",
        "command_line",
        "cpus",
        "has_card",
        "images",
        "initramfs",
        "kernel",
        "memory",
        "most_cpus",
        "most_memory",
        "name",
        "shares_root",
    )

    def __init__(
        self,
        *,
        kernel: str,
        initramfs: str,
        memory: int,
        cpus: int = 1,
        command_line: str = "",
        images: Sequence[str] = (),
        shares_root: bool = False,
        accel: str = "kvm",
        name: str = "skerry",
        most_cpus: int = 0,
        most_memory: int = 0,
        has_card: bool = False,
    ) -> None:
        self.kernel = kernel
        self.initramfs = initramfs
        self.memory = memory
        self.cpus = cpus
        self.command_line = command_line
        self.images = tuple(images)
        self.shares_root = shares_root
        self.accel = accel
        self.name = name
        #: It has a network card, whose frames go through the descriptor FRAMES.
        self.has_card = has_card
        #: As much as may be plugged in while it runs.
        self.most_cpus = max(most_cpus, cpus)
        self.most_memory = max(most_memory, memory)

    @property
    def memory_mib(self) -> int:
        """Its memory in MiB, rounded up."""
        return -(-self.memory // (1 << 20))


class Request:
    """One request to a monitor's control socket; `file`: the path of what goes along as a descriptor, opened to read."""

    __slots__ = ("body", "file", "method", "path")

    def __init__(self, method: str, path: str, body: Mapping[str, Any] | None = None, file: str | None = None) -> None:
        self.method = method
        self.path = path
        self.body = body
        self.file = file


class Plan:
    """What to start and what to say. `protocol`: "http", "qmp", or "" where there is no control socket."""

    __slots__ = ("argv", "files", "protocol", "requests")

    def __init__(
        self,
        argv: Sequence[str],
        *,
        requests: Sequence[Request] = (),
        protocol: str = "",
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.requests = list(requests)
        self.protocol = protocol
        self.files = dict(files or {})


class Monitor:
    """One kind of monitor."""

    name: str
    #: The program, as it is looked for in PATH.
    program: str
    #: Whether its machines were really run by us, or only checked by its published description.
    run_on_hardware = False
    #: Where the guest's kernel speaks, and how the agent reaches us, as both are told on the kernel's command line.
    console = "ttyS0"
    channel: str
    #: What the guest's kernel needs for the machine's devices.
    modules: tuple[str, ...]
    #: Whether its machines can be kept as snapshots by us.
    keeps = False
    #: Whether they take more CPUs and memory while they run, as `plug_cpu` and `plug_memory` say.
    grows = False
    #: Whether a machine's network card can be one whose frames go through a socket.
    has_cards = False

    def plan(self, machine: Machine) -> Plan:
        """What to start, and what to say."""
        raise NotImplementedError

    def plug_cpu(self, number: int, machine: Machine) -> list[Request]:
        """One more, which is the CPU of that number."""
        raise NotImplementedError

    def plug_memory(self, number: int, size: int) -> list[Request]:
        """So many bytes more, for the time of that number."""
        raise NotImplementedError


def monitor(name: str) -> Monitor:
    """The driver of that name."""
    if name in ("qemu", "qemu-microvm"):
        from .qemu import Qemu

        return Qemu(name)
    if name == "firecracker":
        from .firecracker import Firecracker

        return Firecracker()
    if name == "cloud-hypervisor":
        from .cloud_hypervisor import CloudHypervisor

        return CloudHypervisor()
    if name == "xen":
        from .xen import Xen

        return Xen()
    raise UsageError(f"{name!r} is none of {', '.join(MONITORS)}", option="vmm")
