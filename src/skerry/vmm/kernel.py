"""The guest's kernel: the distribution's own, found, or fetched without installing it.

Looked at in this order: `SKERRY_KERNEL` (a vmlinuz or vmlinux, with `lib/modules/RELEASE` beside its directory or on the host),
what `skerry machines --fetch-kernel` has brought (the caller's, then the machine's), and /boot, cloud kernels first. It is used
as an uncompressed vmlinux where it can be unpacked: that starts sooner, and some monitors ask for it. That copy is kept.
"""

from __future__ import annotations

import os
import struct

from .. import _state
from ..errors import EngineUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Debian's name for the newest kernel made for virtual machines: drivers of real hardware are left out.
PACKAGE = "linux-image-cloud-amd64"

#: What root has fetched is for everybody.
SHARED = "/var/lib/skerry/kernels"

#: The most that is read of one, and unpacked.
_LARGEST = 256 << 20


class Kernel:
    """One kernel: the file as it was found, its release, and the directory of its modules."""

    __slots__ = ("modules", "path", "release")

    def __init__(self, path: str, release: str, modules: str) -> None:
        self.path = path
        self.release = release
        self.modules = modules

    def identity(self) -> str:
        """Changes whenever the file does."""
        found = os.stat(self.path)
        return f"{self.path} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"


def find() -> Kernel:
    """The kernel to use; the error says what to do where there is none."""
    looked = []
    for path, modules in _candidates():
        kernel = _look(path, modules)
        if kernel is not None:
            return kernel
        looked.append(path)
    listing = "".join(f"\n  {path}" for path in looked)
    raise EngineUnavailable(
        "there is no kernel for a virtual machine; 'skerry machines --fetch-kernel' brings one without installing it"
        + (f". Not usable (not readable, or without modules):{listing}" if listing else "")
    )


def fetched_directories() -> list[str]:
    """Where fetched kernels lie: the caller's place, then the machine's."""
    return [os.path.join(_state.cache_directory(), "kernels"), SHARED]


def _candidates() -> Iterator[tuple[str, str]]:
    chosen = os.environ.get("SKERRY_KERNEL")
    if chosen:
        yield chosen, ""
        return
    for place in fetched_directories():
        if _state.is_private(place) or _is_roots(place):
            for release in _newest(_listed(place)):
                top = os.path.join(place, release)
                for name in _newest(_listed(os.path.join(top, "boot"))):
                    if name.startswith("vmlinuz-"):
                        yield os.path.join(top, "boot", name), os.path.join(top, "lib/modules", name[len("vmlinuz-") :])
    names = [name for name in _newest(_listed("/boot")) if name.startswith("vmlinuz-")]
    for name in sorted(names, key=lambda name: "cloud" not in name):
        yield f"/boot/{name}", ""


def _look(path: str, modules: str) -> Kernel | None:
    if not os.access(path, os.R_OK):
        return None
    release = os.path.basename(path).partition("-")[2]
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(path))), "lib/modules", release)
    for place in (modules, beside, f"/lib/modules/{release}"):
        if place and release and os.path.isdir(os.path.join(place, "kernel")):
            return Kernel(path, release, place)
    return None


def _listed(place: str) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []


def _newest(names: list[str]) -> list[str]:
    """By the numbers in them, the highest first."""

    def numbers(name: str) -> list[int]:
        digits = "".join(character if character.isdigit() else " " for character in name)
        return [int(number) for number in digits.split()]

    return sorted(names, key=numbers, reverse=True)


def _is_roots(place: str) -> bool:
    """Whether only root can write there, as to the kernels that this machine runs."""
    try:
        found = os.stat(place)
    except OSError:
        return False
    return found.st_uid == 0 and not found.st_mode & 0o022


# --- fetching ---


def fetch(wanted_package: str = PACKAGE, place: str = "") -> Kernel:
    """Brings the distribution's kernel for virtual machines: by apt, which checks the package by the archive's signature, and
    unpacked without installing it. What is there already is not brought again. `place`: where `find` looks, unless said.
    """
    import hashlib
    import shutil
    import subprocess
    import tempfile

    def output(*words: str, cwd: str | None = None) -> str:
        try:
            done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            why = "it is Debian's way; set SKERRY_KERNEL to a kernel elsewhere"
            raise EngineUnavailable(f"{words[0]}: {error.strerror}; {why}") from None
        if done.returncode != 0:
            raise EngineUnavailable(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    package = _field(output("apt-cache", "show", "--no-all-versions", wanted_package), "Depends").partition(" ")[0]
    if not package.startswith("linux-image-"):
        raise EngineUnavailable(f"{wanted_package} is not known to apt; run 'apt-get update', or set SKERRY_KERNEL")
    place = place or (SHARED if os.geteuid() == 0 else fetched_directories()[0])
    release = package[len("linux-image-") :]
    top = os.path.join(place, release)
    if os.path.isdir(top):
        found = _look(os.path.join(top, f"boot/vmlinuz-{release}"), "")
        if found is not None:
            return found
        shutil.rmtree(top)
    if os.geteuid() == 0:
        os.makedirs(place, mode=0o755, exist_ok=True)
    else:
        _state.make_private(place)
    wanted = _field(output("apt-cache", "show", "--no-all-versions", package), "SHA256")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=place) as work:
        output("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=work)
        (archive,) = (os.path.join(work, name) for name in os.listdir(work) if name.endswith(".deb"))
        with open(archive, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != wanted:
                raise EngineUnavailable(f"the package {package} is not what the archive says that it is; fetch it again")
        unpacked = os.path.join(work, "unpacked")
        output("dpkg-deb", "-x", archive, unpacked)
        os.chmod(unpacked, 0o755)  # noqa: S103  # what /boot is
        os.rename(unpacked, top)
    found = _look(os.path.join(top, f"boot/vmlinuz-{release}"), "")
    if found is None:
        raise EngineUnavailable(f"the package {package} holds no kernel with modules; set SKERRY_KERNEL")
    return found


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        if line.startswith(f"{name}: "):
            return line[len(name) + 2 :]
    return ""


# --- unpacking ---


def vmlinux(image: bytes) -> bytes | None:
    """The kernel proper out of a bzImage (Documentation/arch/x86/boot.rst); None where it cannot be unpacked here."""
    if image[:4] == b"\x7fELF":
        return image
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        return None
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    data = image[start : start + length]
    try:
        unpacked = _unpacked(data)
    except (ValueError, IndexError, EOFError, OSError, struct.error):
        return None
    return unpacked if unpacked is not None and unpacked[:4] == b"\x7fELF" else None


def _unpacked(data: bytes) -> bytes | None:
    """By the methods that Python has, and LZ4, which is Debian's."""
    # The size in the last four bytes is the kernel build's own addition: what comes after a stream's end is left alone.
    if data.startswith(b"\x1f\x8b"):
        import zlib

        return zlib.decompressobj(31).decompress(data, _LARGEST)
    if data.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        import lzma

        return lzma.LZMADecompressor().decompress(data, _LARGEST)
    if data.startswith(b"BZh"):
        import bz2

        return bz2.BZ2Decompressor().decompress(data, _LARGEST)
    if data.startswith(b"\x02\x21\x4c\x18"):
        return _lz4(data)
    return None


def _lz4(data: bytes) -> bytes:
    """LZ4's legacy frame: blocks, each with its length before it, of at most 8 MiB unpacked."""
    out = bytearray()
    at = 4
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if not 0 < length <= len(data) - at or len(out) > _LARGEST:
            break
        out += _lz4_block(data[at : at + length])
        at += length
    return bytes(out)


def _lz4_block(source: bytes) -> bytearray:
    out = bytearray()
    at, end = 0, len(source)
    while at < end:
        token = source[at]
        at += 1
        literals = token >> 4
        if literals == 15:
            while (more := source[at]) == 255:
                literals, at = literals + 255, at + 1
            literals, at = literals + more, at + 1
        out += source[at : at + literals]
        at += literals
        if at >= end:
            break
        distance = source[at] | source[at + 1] << 8
        at += 2
        count = token & 15
        if count == 15:
            while (more := source[at]) == 255:
                count, at = count + 255, at + 1
            count, at = count + more, at + 1
        count += 4
        start = len(out) - distance
        if distance == 0 or start < 0:
            raise ValueError("a match before the beginning")
        if distance >= count:
            out += out[start : start + count]
        else:  # the match runs into what it makes
            out += (out[start:] * (count // distance + 1))[:count]
    return out
