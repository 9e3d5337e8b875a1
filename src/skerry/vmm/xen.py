"""Xen, by its `xl` tool: a configuration file (xl.cfg(5)), and `xl create` in the foreground until the machine's end.

The machine is a PVH guest. Its tree comes as an image; the agent calls by a channel (a console of its own with a socket on our
side), which a device model in the first domain serves (Debian's package is qemu-system-xen).
"""

from __future__ import annotations

from ..errors import Unenforceable
from . import CHANNEL, Monitor, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import Machine

_CONFIG = "machine.cfg"


class Xen(Monitor):
    """Not run by us on hardware: each key is checked by xl.cfg(5)."""

    name = "xen"
    program = "xl"
    console = "hvc0"
    channel = "/dev/hvc1"
    modules = ("xen-blkfront",)

    def plan(self, machine: Machine) -> Plan:
        """One file and one command."""
        if machine.shares_root:
            raise Unenforceable("vmm", self.name, "it has no virtio-fs; give the tree as an image (root_image)")
        return Plan(
            [self.program, "create", "-F", "-q", _CONFIG],
            files={_CONFIG: "".join(f"{key} = {_written(value)}\n" for key, value in self._config(machine).items())},
        )

    def _config(self, machine: Machine) -> dict[str, object]:
        disks = [f"format=raw, vdev=xvd{chr(ord('a') + n)}, access=ro, target={path}" for n, path in enumerate(machine.images)]
        return {
            "name": machine.name,
            "type": "pvh",
            "kernel": machine.kernel,
            "ramdisk": machine.initramfs,
            "cmdline": machine.command_line,
            "memory": machine.memory_mib,
            "vcpus": machine.cpus,
            "disk": disks,
            "channel": [f"connection=socket, name=skerry, path={CHANNEL}"],
            "on_poweroff": "destroy",
            "on_reboot": "destroy",
            "on_crash": "destroy",
        }

    def end(self, machine: Machine) -> list[str]:
        """The command that takes a machine away that nobody waits for any more."""
        return [self.program, "destroy", machine.name]


def _written(value: object) -> str:
    """A value of xl.cfg(5): a number, a string or a list of strings. There is no way to write a quotation mark in it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if '"' in text or "\n" in text:
        raise Unenforceable("vmm", "xen", f"{text!r} cannot be written in its configuration")
    return f'"{text}"'
