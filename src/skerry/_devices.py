"""What a unikernel is attached to, as people write it: files as block devices, tap interfaces as net devices."""

from __future__ import annotations

import os

from .errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class BlockDevice:
    """A file of the host; `size`: of its blocks, None for what is usual."""

    __slots__ = ("path", "read_only", "size")

    def __init__(self, path: str, read_only: bool, size: int | None) -> None:
        self.path = path
        self.read_only = read_only
        self.size = size


class NetDevice:
    """A tap interface of the host; `address` None: a random one."""

    __slots__ = ("address", "interface")

    def __init__(self, interface: str, address: str | None) -> None:
        self.interface = interface
        self.address = address


def block(devices: Mapping[str, Any] | None) -> dict[str, BlockDevice]:
    """From "FILE[,ro][,size=BYTES]" by the names that the image has for them; a path is taken as it is."""
    found = {}
    for name, value in (devices or {}).items():
        _named(name, "block")
        read_only, size = False, None
        text = os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else ""
        while isinstance(value, str):
            head, comma, last = text.rpartition(",")
            if comma and last == "ro":
                read_only = True
            elif comma and last.startswith("size="):
                size = int(last[5:]) if last[5:].isascii() and last[5:].isdecimal() else 0
                if not 512 <= size <= 32768 or size & (size - 1):
                    raise UsageError(f"{last!r}: blocks have a power of two from 512 to 32768 bytes", option="block")
            else:
                break
            text = head
        if not text or "\0" in text:
            raise UsageError(f"{name}={value!r}: write NAME=FILE[,ro][,size=BYTES]", option="block")
        path = os.path.realpath(text)
        try:
            os.stat(path)
        except OSError as error:
            raise UsageError(f"{text!r} on the host: {error.strerror}", option="block") from None
        found[name] = BlockDevice(path, read_only, size)
    return found


def net(devices: Mapping[str, Any] | None) -> dict[str, NetDevice]:
    """From "tap:INTERFACE[,mac=ADDRESS]" by the names that the image has for them."""
    found = {}
    for name, value in (devices or {}).items():
        _named(name, "net")
        text, comma, rest = str(value).partition(",")
        kind, _, interface = text.partition(":")
        address = rest.removeprefix("mac=")
        if kind != "tap" or not interface or bool(comma) != (rest.startswith("mac=") and len(address) == 17):
            raise UsageError(
                f"{name}={value}: write NAME=tap:INTERFACE[,mac=ADDRESS], with an address as 02:00:00:00:00:01", option="net"
            )
        found[name] = NetDevice(interface, address or None)
    return found


def _named(name: Any, option: str) -> None:
    if not (isinstance(name, str) and name.isascii() and name.isalnum() and len(name) <= 67):
        raise UsageError(f"{name!r}: devices have names of 1 to 67 letters and digits", option=option)
