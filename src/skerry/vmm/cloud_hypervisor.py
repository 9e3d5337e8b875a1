"""Cloud Hypervisor, by its published API: the whole machine in one request, then its boot.

It has virtio-fs (the machine's memory is shared then), hotplug of CPUs and memory, and a Landlock of its own. The agent calls
by vsock, as with Firecracker.
"""

from __future__ import annotations

from . import CHANNEL, CONTROL, SHARE, Monitor, Plan, Request
from .firecracker import GUEST_CID, VSOCK_MODULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import Machine

_API = "/api/v1"


class CloudHypervisor(Monitor):
    """Not run by us on hardware: each request is checked by the published description."""

    name = "cloud-hypervisor"
    program = "cloud-hypervisor"
    channel = "vsock"
    modules = ("virtio_pci", "virtio_blk", *VSOCK_MODULES, "virtiofs", "virtio_balloon", "virtio-rng")

    def plan(self, machine: Machine) -> Plan:
        """`seccomp` is its default; said all the same, so that a change of the default changes nothing here."""
        requests = [Request("PUT", f"{_API}/vm.create", self._config(machine)), Request("PUT", f"{_API}/vm.boot")]
        return Plan([self.program, "--api-socket", f"path={CONTROL}", "--seccomp", "true"], requests=requests, protocol="http")

    def _config(self, machine: Machine) -> dict[str, Any]:
        off = {"mode": "Off"}
        config: dict[str, Any] = {
            "payload": {"kernel": machine.kernel, "initramfs": machine.initramfs, "cmdline": machine.command_line},
            "cpus": {"boot_vcpus": machine.cpus, "max_vcpus": machine.cpus, "nested": False},
            "memory": {"size": machine.memory_mib << 20, "shared": machine.shares_root, "thp": not machine.shares_root},
            "rng": {"src": "/dev/urandom"},
            "balloon": {"size": 0, "deflate_on_oom": True, "free_page_reporting": True},
            "vsock": {"cid": GUEST_CID, "socket": CHANNEL},
            "console": off,
            "serial": off,
        }
        if machine.images:
            config["disks"] = [{"path": path, "readonly": True, "id": f"image{n}"} for n, path in enumerate(machine.images)]
        if machine.shares_root:
            config["fs"] = [{"tag": "root", "socket": SHARE, "num_queues": 1, "queue_size": 1024}]
        return config

    def save(self, directory: str) -> list[Request]:
        """A running machine into a directory; it stays paused."""
        where = {"destination_url": f"file://{directory}"}
        return [Request("PUT", f"{_API}/vm.pause"), Request("PUT", f"{_API}/vm.snapshot", where)]

    def restore(self, directory: str) -> list[Request]:
        """What a fresh Cloud Hypervisor is told instead of the machine."""
        return [
            Request("PUT", f"{_API}/vm.restore", {"source_url": f"file://{directory}"}),
            Request("PUT", f"{_API}/vm.resume"),
        ]

    def resize(self, *, cpus: int | None = None, memory: int | None = None, balloon: int | None = None) -> Request:
        """Hotplug of CPUs and memory, up to what the machine was made with; the balloon's size. In bytes."""
        wanted = {"desired_vcpus": cpus, "desired_ram": memory, "desired_balloon": balloon}
        return Request("PUT", f"{_API}/vm.resize", {name: value for name, value in wanted.items() if value is not None})
