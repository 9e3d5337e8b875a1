"""What engines share whose guest has a kernel of its own: the relay, the jail's tree, and what of the host the guest gets.

The guest sees one file system of the host's: a directory in the jail, which has a directory or file `0`, `1` ... for each
mount that shows something of the host's. What the sandbox hides is hidden there already, from the guest's kernel too.
"""

from __future__ import annotations

import os
import struct

from .. import errors
from ..control import messages
from .sentry import ProgramGuest, find_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

PROGRAM = "skerry-machine"

#: In the jail: the directory that is the guest's root file system.
TOP = "/machine"

#: Mounts that show something of the host's, and those that cover it.
_SHOWING = ("host_read_only", "host_read_write", "overlay")


def start_machine(
    engine: str,
    on_event: Callable[[Mapping[str, Any]], None],
    on_end: Callable[[errors.SandboxError], None],
) -> ProgramGuest:
    """A relay that waits for its `boot`. Of the caller's environment it gets nothing."""
    return ProgramGuest([find_beside(PROGRAM), "--engine", engine], {}, f"the guest's machine ({PROGRAM})", on_event, on_end)


def share(mounts: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The guest's mounts, whose sources are its own root file system, and those that show these in the jail."""
    guest: list[dict[str, Any]] = []
    jail: list[dict[str, Any]] = []
    shown: dict[str, tuple[str, str]] = {}  # by the place in the guest: the place in the jail, the host's path
    covers: list[tuple[str, str]] = []
    sources: list[tuple[str, str]] = []
    for number, mount in enumerate(mounts):
        place = _text(mount["target"])
        if mount["type"] in _SHOWING:
            source, inside = _text(mount["source"]), f"{TOP}/{number}"
            jail.append(messages.mount_host(inside, source, writable=mount["type"] == "host_read_write"))
            guest.append({**mount, "source": messages.write_bytes(f"/{number}")})
            shown[place] = (inside, source)
            sources.append((inside, source))
            continue
        guest.append(dict(mount))
        if mount["type"] not in ("skeleton", "symlink", "file"):
            covers.append((place, mount["type"]))
        if mount["type"] not in ("symlink", "file"):
            shown.pop(place, None)
    for place, _ in covers:
        above = max((other for other in shown if _below(place, other)), key=len, default=None)
        # Another cover in between hides it already.
        if above is None or any(_below(place, other) and _below(other, above) and other != place for other, _ in covers):
            continue
        path = os.path.normpath(os.path.join(shown[above][1], os.path.relpath(place, above)))
        if os.path.realpath(path) != path or not os.path.exists(path):
            continue
        # It may be below more than one of the sources.
        for inside, source in sources:
            if path != source and _below(path, source):
                jail.append(messages.mount_plain(f"{inside}/{os.path.relpath(path, source)}", "hide"))
    return guest, jail


def writes_back(mounts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the guest may hold writes to the host's files."""
    return any(mount["type"] == "host_read_write" for mount in mounts)


def jail_mounts(memory_files: int) -> list[dict[str, Any]]:
    """A tree with nothing in it but devices that do no harm, and memory."""
    return [
        messages.mount_plain("/", "skeleton"),
        messages.mount_plain("/proc", "proc"),
        messages.mount_plain("/dev", "devtmpfs"),
        messages.mount_tmpfs("/dev/shm", size=memory_files, mode=0o1777),  # noqa: S108  # in the jail
        messages.mount_tmpfs("/tmp", size=16 << 20, mode=0o1777),  # noqa: S108
    ]


def program_mounts(path: str, top: str = "") -> list[dict[str, Any]]:
    """What a program of the host's needs below `top`: itself, and where it is not static, the loader and the libraries."""
    return [messages.mount_host(f"{top}{path}", os.path.realpath(path), writable=False), *library_mounts(path, top)]


def library_mounts(path: str, top: str = "") -> list[dict[str, Any]]:
    """The loader and the libraries that a program names, in the places where it looks for them."""
    loader = interpreter_of(path)
    if loader is None:
        return []
    libraries = os.path.dirname(os.path.realpath(loader))
    places = {os.path.dirname(loader): os.path.realpath(os.path.dirname(loader)), libraries: libraries}
    if libraries.startswith("/usr/") and os.path.realpath(libraries[4:]) == libraries:
        places[libraries[4:]] = libraries
    return [messages.mount_host(f"{top}{place}", source, writable=False) for place, source in places.items()]


#: Rights on files: to read, to run what is there, to write what is there.
READ = ("read_file", "read_dir")
RUN = ("execute", *READ)
WRITE = ("read_file", "write_file")
#: All that a server of files does for others; what may be written to the mounts say.
EVERYTHING = (
    *READ, "write_file", "remove_dir", "remove_file", "make_char", "make_dir", "make_reg", "make_sock", "make_fifo",
    "make_block", "make_sym", "refer", "truncate", "ioctl_dev", "resolve_unix",
)  # fmt: skip


def files_of_program(path: str) -> list[dict[str, Any]]:
    """What `program_mounts` shows, with the rights that the program needs."""
    return [messages.file_rule(_text(mount["target"]), RUN) for mount in program_mounts(path)]


def interpreter_of(path: str) -> str | None:
    """The loader that an ELF program names; None: it is static."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02" or len(head) < 64:
            raise errors.EngineUnavailable(f"{path} is no program for this machine")
        offset, size, count = (*struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54))
        for number in range(count):
            file.seek(offset + number * size)
            header = file.read(56)
            kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", header)
            if kind == 3:  # PT_INTERP
                file.seek(start)
                return os.fsdecode(file.read(length).rstrip(b"\0"))
    return None


def _text(value: Any) -> str:
    return os.fsdecode(messages.read_bytes(value))


def _below(place: str, other: str) -> bool:
    return f"{place}/".startswith(f"{other.rstrip('/')}/")
