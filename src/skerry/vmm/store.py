"""What is kept between starts, in the caller's cache: unpacked kernels, initramfs, and snapshots of machines that have booted.

Everything lies in one directory that is the caller's alone (0700). A name tells what a file was made from: when that changes,
the old one is not found any more. A snapshot has a manifest beside it with its hash, and is never loaded where the two differ.
"""

from __future__ import annotations

import os
import threading
import time

from .. import _state
from ..errors import EngineUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: Snapshots that are kept; of more, those go that were not used for the longest time.
MOST_SNAPSHOTS = 6
#: Other files, likewise.
_MOST_FILES = 8

_SNAPSHOT = "snapshot-"

#: Nothing is in the making for so many seconds.
_OLD = 3600


def directory() -> str:
    """Where it lies; made where it is missing."""
    place = os.path.join(_state.cache_directory(), "machines")
    try:
        _state.make_private(place)
    except OSError as error:
        raise EngineUnavailable(f"{place!r}: {error.strerror}; set XDG_CACHE_HOME to a directory of yours") from None
    return place


def name_of(*parts: object) -> str:
    """A name for what is made from all of that."""
    import hashlib

    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def made(kind: str, name: str, make: Callable[[], bytes]) -> str:
    """The path of a file of that kind and name, made where it is missing."""
    path = os.path.join(directory(), f"{kind}-{name}")
    if not os.path.isfile(path):
        _write(path, make())
        _forget_old(kind, _MOST_FILES)
    else:
        os.utime(path)
    # A monitor has a user of its own; nobody else gets into the directory.
    os.chmod(path, 0o444)
    return path


def made_by(kind: str, name: str, make: Callable[[str], None]) -> str:
    """The same, of what a program writes to the path that it is given; one process at a time does."""
    with locked(f"{kind}-{name}"):
        path = os.path.join(directory(), f"{kind}-{name}")
        if not os.path.isfile(path):
            part = f"{path}.{os.getpid()}.part"
            _sweep(f"{kind}-{name}")
            make(part)
            os.rename(part, path)
            _forget_old(kind, _MOST_FILES)
        os.utime(path)
        os.chmod(path, 0o444)
    return path


def _write(path: str, content: bytes) -> None:
    part = f"{path}.{os.getpid()}-{threading.get_native_id()}.part"
    with open(part, "wb", opener=_private) as file:
        file.write(content)
    os.rename(part, path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _forget_old(kind: str, most: int) -> None:
    place = directory()
    found = []
    for name in os.listdir(place):
        if name.startswith(f"{kind}-") and "." not in name:
            path = os.path.join(place, name)
            try:
                found.append((os.stat(path).st_mtime_ns, path))
            except FileNotFoundError:
                pass  # another has forgotten it
    for _, path in sorted(found, reverse=True)[most:]:
        _remove(path)


def _remove(path: str) -> None:
    for one in (path, f"{path}.json", f"{path}.memory"):
        try:
            os.unlink(one)
        except FileNotFoundError:
            pass


# --- snapshots ---


def lock_of_snapshot(name: str) -> locked:
    """One process at a time makes it."""
    return locked(_SNAPSHOT + name)


def snapshot(name: str) -> str | None:
    """The path of a snapshot whose contents are what they were; one that is not is deleted."""
    import json

    path = os.path.join(directory(), _SNAPSHOT + name)
    try:
        with open(f"{path}.json", encoding="utf-8") as file:
            manifest = json.load(file)
        if hash_of(path, f"{path}.memory") == manifest["sha256"]:
            os.utime(path)
            return path
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass  # as good as one that does not match
    _remove(path)
    return None


class locked:  # noqa: N801  # used as a statement
    """One process at a time makes what has a name."""

    def __init__(self, name: str) -> None:
        self._path = os.path.join(directory(), f"{name}.lock")

    def __enter__(self) -> None:
        import fcntl

        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(self._file), os.lstat(self._path)):
                    return
            except FileNotFoundError:
                pass
            os.close(self._file)  # who held it has taken it away

    def __exit__(self, *_: object) -> None:
        os.unlink(self._path)
        os.close(self._file)


def _sweep(name: str) -> None:
    """Takes away what killed processes have left: of that name, which is locked by us, and what is old."""
    place = directory()
    for left in os.listdir(place):
        path = os.path.join(place, left)
        try:
            if ".part" in left and (left.startswith(f"{name}.") or time.time() - os.stat(path).st_mtime > _OLD):
                os.unlink(path)
        except FileNotFoundError:
            pass


def new_snapshot(name: str) -> str:
    """An empty file where a snapshot is to be written; `keep` makes it one. While its name is locked."""
    _sweep(_SNAPSHOT + name)
    part = os.path.join(directory(), f"{_SNAPSHOT}{name}.{os.getpid()}.part")
    _write(part, b"")
    _write(f"{part}.memory", b"")
    return part


def drop(part: str) -> None:
    """It has come to nothing."""
    _remove(part)


def keep(name: str, part: str, about: dict[str, Any]) -> str:
    """What was written becomes the snapshot of that name, whose path this is; `about` is for people."""
    import json

    path = os.path.join(directory(), _SNAPSHOT + name)
    manifest = {**about, "sha256": hash_of(part, f"{part}.memory")}
    _remove(path)
    os.rename(f"{part}.memory", f"{path}.memory")
    os.rename(part, path)
    _write(f"{path}.json", json.dumps(manifest).encode())
    _forget_old(_SNAPSHOT[:-1], MOST_SNAPSHOTS)
    return path


#: What is hashed at once.
_PIECE = 1 << 18


def hash_of(*paths: str) -> str:
    """SHA-256 of files, which may be mostly holes: of the pieces that are not empty, with their places."""
    import hashlib

    digest = hashlib.sha256()
    empty = bytes(_PIECE)
    for path in paths:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at, size = 0, os.fstat(file).st_size
            digest.update(b"%d\n" % size)
            while at < size:
                try:
                    at = os.lseek(file, at, os.SEEK_DATA) // _PIECE * _PIECE
                except OSError:
                    break  # nothing but a hole
                data = os.pread(file, _PIECE, at)
                if data != empty[: len(data)]:
                    digest.update(b"%d\n" % at + data)
                at += _PIECE
        finally:
            os.close(file)
    return digest.hexdigest()


def listed() -> Iterator[tuple[str, int, str]]:
    """What there is: name, bytes, what it is of."""
    import json

    place = directory()
    for name in sorted(os.listdir(place)):
        if name.endswith((".json", ".lock", ".memory")):
            continue
        about = ""
        try:
            paths = [os.path.join(place, f"{name}{part}") for part in ("", ".memory")]
            size = sum(os.stat(path).st_blocks * 512 for path in paths if os.path.exists(path))
            with open(os.path.join(place, f"{name}.json"), encoding="utf-8") as file:
                about = ", ".join(f"{key} {value}" for key, value in json.load(file).items() if key != "sha256")
        except (OSError, ValueError):
            pass
        yield name, size, about


def delete(name: str) -> bool:
    """Takes one away, or what a killed process has left; False where there is none."""
    path = os.path.join(directory(), os.path.basename(name))
    found = os.path.isfile(path)
    _remove(path)
    return found
