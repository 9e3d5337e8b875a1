"""What is kept of the last run of `skerry do`, for `skerry explain`: its command, policy and events; private, and bounded."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Bytes of events that are kept.
RECORD_MAXIMUM = 1 << 20


def directory() -> str:
    """XDG_STATE_HOME/skerry; where nobody has said or made such a place, one in /tmp, so that no home gets new directories."""
    home = os.environ.get("XDG_STATE_HOME")
    if home and home.startswith("/"):
        return os.path.join(home, "skerry")
    home = os.path.join(os.path.expanduser("~"), ".local", "state")
    if os.path.isdir(home):
        return os.path.join(home, "skerry")
    return f"/tmp/skerry-{os.geteuid()}"  # noqa: S108  # looked at before it is used


def last_run_path() -> str:
    """The record of the run that was started last."""
    return os.path.join(directory(), "last-run.jsonl")


def begin_record(run: Mapping[str, Any]) -> int | None:
    """A new record with its first line written: a descriptor to add events to; None where it cannot be kept."""
    from .control.frame import dumps  # quicker to import than `json`

    place = directory()
    fresh = os.path.join(place, f"run-{os.getpid()}.jsonl")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        make_private(place)
        record = os.open(fresh, flags, 0o600)
        os.rename(fresh, last_run_path())
        os.write(record, dumps({"event": "run", **run}).encode("utf-8", "surrogateescape") + b"\n")
    except OSError:
        return None  # somebody else's place, no home, a full disk: the run is what matters
    return record


def cache_directory() -> str:
    """XDG_CACHE_HOME/skerry, or beside what else is cached; where there is no such place of ours, one in /tmp."""
    home = os.environ.get("XDG_CACHE_HOME")
    if home and home.startswith("/"):
        return os.path.join(home, "skerry")
    home = os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isdir(home) and os.access(home, os.W_OK):
        return os.path.join(home, "skerry")
    return f"/tmp/skerry-{os.geteuid()}/cache"  # noqa: S108  # looked at before it is used


def is_private(place: str) -> bool:
    """Whether a directory is there, and ours alone."""
    try:
        found = os.lstat(place)
    except OSError:
        return False
    return found.st_uid == os.geteuid() and found.st_mode & 0o170077 == 0o040000


def make_private(place: str) -> None:
    """A directory that is ours alone, made where it is missing; OSError where it cannot be, or is somebody else's."""
    above = os.path.dirname(place)
    if not os.path.isdir(above):
        make_private(above)
    try:
        os.mkdir(place, 0o700)
    except FileExistsError:
        if not is_private(place):
            raise PermissionError(1, "it is somebody else's, or open to others", place) from None
