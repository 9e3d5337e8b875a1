"""The guest's tree as a file system in a file: one that is given, or one that is made of a directory, and kept."""

from __future__ import annotations

import os
import stat

from ..errors import EngineUnavailable, UsageError
from . import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where a file system says what it is, how, and its name (erofs_fs.h; ext4's superblock).
_MARKS = ((1024, b"\xe2\xe1\xf5\xe0", "erofs"), (1080, b"\x53\xef", "ext4"))

_MAKERS = ("mkfs.erofs", "mkfs.ext4")


def of(path: str) -> tuple[str, str]:
    """The path of the image, and its file system's name."""
    if os.path.isdir(path):
        return _made_of(path)
    try:
        with open(path, "rb") as file:
            head = file.read(2048)
    except OSError as error:
        raise UsageError(f"{path!r}: {error.strerror}", option="root_image") from None
    for place, mark, kind in _MARKS:
        if head[place : place + len(mark)] == mark:
            return path, kind
    raise UsageError(f"{path!r} is neither an image of erofs or ext4 nor a directory", option="root_image")


def _made_of(top: str) -> tuple[str, str]:
    if top == "/":
        raise UsageError("the host's whole tree is too much for an image; give the directory of one", option="root_image")
    program = _maker()
    kind = os.path.basename(program).partition(".")[2]

    def make(part: str) -> None:
        import subprocess

        words = [program, part, top]
        if kind == "ext4":
            # Room for the names and the tables besides.
            size = sum(-(-entry.st_size // 4096) + 1 for _, entry in _entries(top)) * 4096
            with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.truncate(size + size // 8 + (16 << 20))
            words = [program, "-q", "-F", "-O", "^has_journal", "-m", "0", "-d", top, part]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            why = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
            raise UsageError(f"no image can be made of {top!r}: {os.path.basename(program)}: {why}", option="root_image")

    return store.made_by("image", store.name_of(kind, top, *_contents(top)), make), kind


def _maker() -> str:
    import shutil

    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = next(filter(None, (shutil.which(name, path=path) for name in _MAKERS)), None)
    if found is None:
        raise EngineUnavailable(
            "an image is made by mkfs.erofs or mkfs.ext4, and neither is installed; Debian's packages are erofs-utils and "
            "e2fsprogs"
        )
    return found


def _contents(top: str) -> Iterator[str]:
    """Changes whenever something below `top` does: the host changes a file's ctime with it."""
    for path, entry in sorted(_entries(top), key=lambda one: one[0]):
        yield f"{path} {entry.st_ino} {entry.st_mode} {entry.st_uid} {entry.st_gid} {entry.st_size} {entry.st_ctime_ns}"


def _entries(top: str) -> Iterator[tuple[str, os.stat_result]]:
    yield "", os.lstat(top)
    waiting = [top]
    while waiting:
        try:
            listed = list(os.scandir(waiting.pop()))
        except OSError as error:
            raise UsageError(f"{error.filename!r}: {error.strerror}", option="root_image") from None
        for entry in listed:
            found = entry.stat(follow_symlinks=False)
            yield os.path.relpath(entry.path, top), found
            if stat.S_ISDIR(found.st_mode):
                waiting.append(entry.path)
