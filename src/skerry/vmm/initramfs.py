"""The guest's first file system: the agent as init, and the modules that it loads before it finds its tree. Nothing else.

Modules lie in `/modules`, named so that their order by name is the order to load them in.
"""

from __future__ import annotations

import os
import struct

from ..errors import EngineUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MODULES = "modules"
#: And those for a network card (crates/agent/src/init.rs).
NETWORK_MODULES = "network"


def build(
    agent: bytes,
    modules_directory: str,
    wanted: Iterable[str],
    welcome: Iterable[str] = (),
    of_network: Iterable[str] = (),
) -> bytes:
    """The archive. `wanted`: modules by name, in any order; those that are built into the kernel are left out, and of those
    that are only `welcome` those that it does not have, as of those that are loaded where there is a network card.
    """
    files = [("init", stripped(agent), 0o100755), ("dev", b"", 0o040755), (MODULES, b"", 0o040755)]
    for number, (name, content) in enumerate(modules(modules_directory, wanted, welcome)):
        files.append((f"{MODULES}/{number:02}-{name}.ko", content, 0o100600))
    there = {name for name, _, _ in files}
    files.append((NETWORK_MODULES, b"", 0o040755))
    for number, (name, content) in enumerate(modules(modules_directory, (), of_network)):
        if not any(one.endswith(f"-{name}.ko") for one in there):
            files.append((f"{NETWORK_MODULES}/{number:02}-{name}.ko", content, 0o100600))
    return cpio(files)


def cpio(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """An archive in the form `newc` (Documentation/driver-api/early-userspace/buffer-format.rst): names, contents, modes."""
    out = bytearray()
    for inode, (name, content, mode) in enumerate([*files, ("TRAILER!!!", b"", 0)], 1):
        written = name.encode() + b"\0"
        links = 2 if mode & 0o040000 else 1
        numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(written), 0)
        out += b"070701" + b"".join(b"%08X" % number for number in numbers) + written
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


# --- modules ---


def modules(directory: str, wanted: Iterable[str], welcome: Iterable[str] = ()) -> list[tuple[str, bytes]]:
    """Modules with all that they depend on, each after those that it needs."""
    found: dict[str, str] = {}
    for place, _, names in os.walk(os.path.join(directory, "kernel")):
        for name in names:
            stem, dot, _ = name.partition(".ko")
            if dot:
                found[_plain(stem)] = os.path.join(place, name)
    built_in = set()
    try:
        with open(os.path.join(directory, "modules.builtin"), encoding="utf-8") as file:
            built_in = {_plain(os.path.basename(line.strip()).partition(".ko")[0]) for line in file}
    except OSError:
        pass  # then what is no module is an error
    order: dict[str, bytes] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        name = _plain(name)
        if name in order or name in built_in or name in above:
            return
        if name not in found:
            raise EngineUnavailable(f"the kernel of {directory} has no module {name!r}; use the distribution's cloud kernel")
        content = _read(found[name])
        for needed in depends(content):
            add(needed, (*above, name))
        order[name] = content

    for name in wanted:
        add(name, ())
    for name in welcome:
        if _plain(name) in found:
            add(name, ())
    return list(order.items())


def _plain(name: str) -> str:
    """A module's name: a file's may have dashes."""
    return name.replace("-", "_")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        import lzma

        return lzma.decompress(data)
    if path.endswith(".gz"):
        import gzip

        return gzip.decompress(data)
    if not path.endswith(".ko"):
        raise EngineUnavailable(f"{path}: it is compressed by a method that Python does not have; use another kernel")
    return data


def depends(module: bytes) -> list[str]:
    """The modules that one needs, as its own section `.modinfo` says."""
    for entry in section(module, b".modinfo").split(b"\0"):
        if entry.startswith(b"depends="):
            return [name for name in entry[len(b"depends=") :].decode().split(",") if name]
    return []


def section(image: bytes, name: bytes) -> bytes:
    """The contents of one section of a 64-bit ELF file; nothing where there is none."""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", image, table + size * number) for number in range(count)]
    strings = headers[names][4]
    for header in headers:
        if image.startswith(name + b"\0", strings + header[0]):
            return image[header[4] : header[4] + header[5]]
    return b""


# --- programs ---


def stripped(program: bytes) -> bytes:
    """A static program without all that no segment holds: symbols and debug information."""
    (table,) = struct.unpack_from("<Q", program, 0x20)
    size, count = struct.unpack_from("<HH", program, 0x36)
    end = table + size * count
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", program, table + size * number)
        end = max(end, offset + length)
        if kind == 3:  # PT_INTERP
            raise EngineUnavailable("the agent needs a loader, and a guest has none before it has its tree: build it static")
    cut = bytearray(program[:end])
    struct.pack_into("<Q", cut, 0x28, 0)  # e_shoff
    struct.pack_into("<HH", cut, 0x3C, 0, 0)  # e_shnum, e_shstrndx
    return bytes(cut)
