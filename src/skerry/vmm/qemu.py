"""QEMU: the machine on its command line, the rest by QMP.

Two machines: `qemu` is a q35, whose tree (virtio-fs, or one image) is plugged in after the agent is there, so that what was
before can be kept as a snapshot; `qemu-microvm` is the small machine without PCI, which boots a little sooner and cannot be
kept.
Under tcg the processor is QEMU's own work: no hardware holds the guest, so its jail does.
"""

from __future__ import annotations

from . import CHANNEL, CONTROL, FRAMES, MEMORY, MTU, SHARE, Monitor, Plan, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Machine

#: What QEMU itself may not do once it runs; the jail around it holds besides.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

#: How often memory can be plugged in.
SLOTS = 8

_MODULES = ("virtio_console", "virtiofs", "virtio_balloon", "virtio-rng")


class Qemu(Monitor):
    """Run by us, under tcg in every test."""

    program = "qemu-system-x86_64"
    run_on_hardware = has_cards = True
    channel = "port:skerry"

    def __init__(self, name: str) -> None:
        self.name = name
        self._pci = self.keeps = self.grows = name == "qemu"
        self.modules = (("virtio_pci" if self._pci else "virtio_mmio"), "virtio_blk", *_MODULES)

    def plan(self, machine: Machine) -> Plan:
        """The command, and what plugs the tree in once the agent is there."""
        board = "q35,usb=off" if self._pci else "microvm,x-option-roms=off,rtc=on"
        words = [
            *("-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none"),
            *("-sandbox", _SANDBOX),
            *("-M", f"{board},memory-backend=memory"),
            *("-accel", machine.accel),
            *("-cpu", "host" if machine.accel == "kvm" else "max"),
            *("-smp", f"{machine.cpus},maxcpus={machine.most_cpus},sockets=1,cores={machine.most_cpus},threads=1"),
            *("-m", f"{machine.memory_mib}M" + self._slots(machine)),
            # Shared, as virtio-fs asks for; a file, so that what is kept of it is there before QEMU is.
            *("-object", f"memory-backend-file,id=memory,size={machine.memory_mib}M,share=on,mem-path={MEMORY}"),
            *("-kernel", machine.kernel),
            *("-initrd", machine.initramfs),
            *("-append", machine.command_line),
            *("-chardev", "file,id=console,path=/proc/self/fd/1,append=on", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=control,path={CONTROL},server=on,wait=off", "-mon", "chardev=control,mode=control"),
            *("-global", "virtio-mmio.force-legacy=false"),
            *("-device", self._device("virtio-serial", "max_ports=2")),
            *("-chardev", f"socket,id=channel,fd={CHANNEL}"),
            *("-device", "virtserialport,chardev=channel,name=skerry"),
            *("-object", "rng-random,id=entropy,filename=/dev/urandom"),
            *("-device", self._device("virtio-rng", "rng=entropy")),
            *("-device", self._device("virtio-balloon", "free-page-reporting=on,deflate-on-oom=on")),
        ]
        requests = []
        if self._pci:
            words += ["-device", "pcie-root-port,id=plug,chassis=1,slot=1"]
            words += ["-device", "pcie-root-port,id=plug-card,chassis=2,slot=2"]
            requests += [request for path in machine.images for request in _plug_image(path)]
        else:
            for number, path in enumerate(machine.images):
                name = path.replace(",", ",,")
                words += ["-drive", f"if=none,id=image{number},format=raw,read-only=on,file.locking=off,file={name}"]
                words += ["-device", self._device("virtio-blk", f"drive=image{number}")]
        if machine.shares_root:
            words += ["-chardev", f"socket,id=share,path={SHARE}"]
            if self._pci:
                requests.append(_PLUG)
            else:
                words += ["-device", "vhost-user-fs-device,chardev=share,tag=root,queue-size=1024"]
        if machine.has_card:
            if self._pci:
                requests += _PLUG_CARD
            else:
                words += [
                    "-netdev",
                    f"socket,id=frames,fd={FRAMES}",
                    "-device",
                    f"virtio-net-device,netdev=frames,host_mtu={MTU}",
                ]
        return Plan([self.program, *words], requests=requests, protocol="qmp")

    @staticmethod
    def _slots(machine: Machine) -> str:
        more = machine.most_memory > machine.memory
        return f",slots={SLOTS},maxmem={machine.most_memory >> 20}M" if more else ""

    def plug_cpu(self, number: int, machine: Machine) -> list[Request]:
        """By ACPI."""
        kind = "host" if machine.accel == "kvm" else "max"
        place = {"socket-id": 0, "core-id": number, "thread-id": 0}
        return [Request("device_add", "", {"driver": f"{kind}-x86_64-cpu", "id": f"cpu{number}", **place})]

    def plug_memory(self, number: int, size: int) -> list[Request]:
        """A module in one of the slots, of shared memory as the rest is."""
        backend = {"qom-type": "memory-backend-memfd", "id": f"memory{number}", "size": size, "share": True}
        module = {"driver": "pc-dimm", "id": f"dimm{number}", "memdev": f"memory{number}"}
        return [Request("object-add", "", backend), Request("device_add", "", module)]

    def _device(self, name: str, properties: str) -> str:
        return f"{name}-{'pci' if self._pci else 'device'},{properties}"


def command(name: str, **arguments: object) -> dict[str, object]:
    """One of QMP's."""
    return {"execute": name, "arguments": {word.replace("_", "-"): value for word, value in arguments.items()}}


def _plug_image(path: str) -> list[Request]:
    """The tree as a disk, which may be a file that only whoever starts the machine can read."""
    file = {"driver": "file", "filename": "/dev/fdset/1", "locking": "off"}
    return [
        Request("add-fd", "", {"fdset-id": 1}, file=path),
        Request("blockdev-add", "", {"driver": "raw", "node-name": "tree", "read-only": True, "file": file}),
        Request("device_add", "", {"driver": "virtio-blk-pci", "id": "tree", "bus": "plug", "drive": "tree"}),
    ]


# Nothing starts from it.
_CARD = {"driver": "virtio-net-pci", "id": "card", "bus": "plug-card", "netdev": "frames", "host_mtu": MTU, "romfile": ""}
_PLUG_CARD = [
    Request("netdev_add", "", {"type": "socket", "id": "frames", "fd": FRAMES}),
    Request("device_add", "", _CARD),
]

_PLUG = Request(
    "device_add",
    "",
    {"driver": "vhost-user-fs-pci", "id": "share", "bus": "plug", "chardev": "share", "tag": "root", "queue-size": 1024},
)
