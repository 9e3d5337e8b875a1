"""Firecracker, by its published API: one socket, HTTP, one PUT for each part of the machine, then the start.

It has no virtio-fs: the tree comes as an image. The agent calls by vsock: Firecracker connects us at CHANNEL, a socket's path,
to what the guest connects to (port N of the host is the socket `CHANNEL_N`).
"""

from __future__ import annotations

from ..errors import Unenforceable
from . import CHANNEL, CONTROL, Monitor, Plan, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Machine

#: The machine's address among vsock's; 0 to 2 are taken.
GUEST_CID = 3
VSOCK_MODULES = ("vsock", "vmw_vsock_virtio_transport")

#: The most that the API takes.
_CPUS = 32


class Firecracker(Monitor):
    """Not run by us on hardware: each request is checked by the published description."""

    name = "firecracker"
    program = "firecracker"
    channel = "vsock"
    modules = ("virtio_mmio", "virtio_blk", *VSOCK_MODULES, "virtio_balloon", "virtio-rng")

    def plan(self, machine: Machine) -> Plan:
        """The parts in any order; the start last."""
        if machine.shares_root:
            raise Unenforceable("vmm", self.name, "it has no virtio-fs; give the tree as an image (root_image)")
        if machine.cpus > _CPUS:
            raise Unenforceable("cpus", self.name, f"it has at most {_CPUS}")
        return Plan([self.program, "--api-sock", CONTROL], requests=[*self._parts(machine), _START], protocol="http")

    def _parts(self, machine: Machine) -> list[Request]:
        size = {"vcpu_count": machine.cpus, "mem_size_mib": machine.memory_mib}
        source = {
            "kernel_image_path": machine.kernel,
            "initrd_path": machine.initramfs,
            "boot_args": machine.command_line,
        }
        drives = [
            Request(
                "PUT",
                f"/drives/image{number}",
                {
                    "drive_id": f"image{number}",
                    "path_on_host": path,
                    "is_root_device": False,
                    "is_read_only": True,
                    "cache_type": "Unsafe",
                },
            )
            for number, path in enumerate(machine.images)
        ]
        return [
            Request("PUT", "/machine-config", size),
            Request("PUT", "/boot-source", source),
            *drives,
            Request("PUT", "/vsock", {"guest_cid": GUEST_CID, "uds_path": CHANNEL}),
            Request("PUT", "/entropy", {}),
            Request("PUT", "/balloon", {"amount_mib": 0, "deflate_on_oom": True, "free_page_reporting": True}),
        ]

    def save(self, state: str, memory: str) -> list[Request]:
        """A running machine into two files; it stays paused."""
        where = {"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory}
        return [Request("PATCH", "/vm", {"state": "Paused"}), Request("PUT", "/snapshot/create", where)]

    def restore(self, state: str, memory: str) -> list[Request]:
        """What a fresh Firecracker is told instead of the parts."""
        backend = {"backend_type": "File", "backend_path": memory}
        override = {"uds_path": CHANNEL}
        return [
            Request(
                "PUT",
                "/snapshot/load",
                {"snapshot_path": state, "mem_backend": backend, "resume_vm": True, "vsock_override": override},
            )
        ]

    def balloon(self, size_mib: int) -> Request:
        """Takes that much of the guest's memory, or gives it back."""
        return Request("PATCH", "/balloon", {"amount_mib": size_mib})


_START = Request("PUT", "/actions", {"action_type": "InstanceStart"})
