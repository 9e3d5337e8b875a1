"""Plain values that the SDK hands out. Slots by hand: `dataclasses` costs more start-up time than a whole `skerry do`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


class Record:
    """A value: equal when its fields are equal, printed with its fields."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # values may hold lists

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; records inside become dictionaries too."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Usage(Record):
    """Resources used: by one command's whole sandbox up to that moment."""

    __slots__ = ("user_ns", "system_ns", "wall_ns", "peak_memory", "memory_files", "pids", "system_calls")

    def __init__(
        self,
        user_ns: int = 0,
        system_ns: int = 0,
        wall_ns: int = 0,
        peak_memory: int = 0,
        memory_files: int = 0,
        pids: int = 0,
        system_calls: int = 0,
    ) -> None:
        self.user_ns = user_ns
        self.system_ns = system_ns
        self.wall_ns = wall_ns
        #: Bytes: the highest seen for all processes of the sandbox together.
        self.peak_memory = peak_memory
        #: Bytes held by in-memory file systems.
        self.memory_files = memory_files
        #: Processes and threads alive.
        self.pids = pids
        self.system_calls = system_calls


class Result(Record):
    """How a command ended.

    `returncode` is the command's own status, or 128+N when signal N killed it (then `signal` is N).
    """

    __slots__ = (
        "args",
        "returncode",
        "stdout",
        "stderr",
        "signal",
        "core_dumped",
        "out_of_memory",
        "stdout_truncated",
        "stderr_truncated",
        "usage",
    )

    def __init__(
        self,
        args: Sequence[str | bytes],
        returncode: int,
        stdout: Any = b"",
        stderr: Any = b"",
        *,
        signal: int | None = None,
        core_dumped: bool = False,
        out_of_memory: bool = False,
        stdout_truncated: bool = False,
        stderr_truncated: bool = False,
        usage: Usage | None = None,
    ) -> None:
        self.args = args
        self.returncode = returncode
        #: bytes, or str with `text=True`.
        self.stdout = stdout
        self.stderr = stderr
        self.signal = signal
        self.core_dumped = core_dumped
        #: The memory limit was reached and this command was killed for it.
        self.out_of_memory = out_of_memory
        #: There was more output than `max_output`; the rest was read and dropped.
        self.stdout_truncated = stdout_truncated
        self.stderr_truncated = stderr_truncated
        self.usage = usage or Usage()

    def check_returncode(self) -> None:
        """Raises `CommandFailed` (or `OutOfMemory`) unless the status is 0."""
        if self.returncode == 0:
            return
        from .errors import CommandFailed, OutOfMemory

        shown = " ".join(a if isinstance(a, str) else repr(a) for a in self.args)
        if self.out_of_memory:
            raise OutOfMemory(f"{shown!r} was killed at the sandbox's memory limit; give a larger memory=", self)
        how = f"was killed by signal {self.signal}" if self.signal is not None else f"ended with status {self.returncode}"
        tail = self.stderr if isinstance(self.stderr, str) else bytes(self.stderr).decode("utf-8", "replace")
        tail = tail.strip().rsplit("\n", 1)[-1][-300:]
        raise CommandFailed(f"{shown!r} {how}{': ' + tail if tail else ''}", self)


class FileStat(Record):
    """What `files.stat` and `files.list` say of one file."""

    __slots__ = ("name", "kind", "size", "mode", "uid", "gid", "modified_ns")

    def __init__(self, name: str, kind: str, size: int, mode: int, uid: int, gid: int, modified_ns: int) -> None:
        self.name = name
        #: "file", "directory", "symlink", "fifo", "socket", "character_device" or "block_device".
        self.kind = kind
        self.size = size
        #: Permission bits.
        self.mode = mode
        self.uid = uid
        self.gid = gid
        #: Nanoseconds since the epoch.
        self.modified_ns = modified_ns

    @property
    def is_file(self) -> bool:
        return self.kind == "file"

    @property
    def is_dir(self) -> bool:
        return self.kind == "directory"


class ProcessState(Record):
    """A process that `spawn` started and that still lives."""

    __slots__ = ("process", "args")

    def __init__(self, process: int, args: list[str]) -> None:
        self.process = process
        self.args = args


class MissingLayer(Record):
    """A layer of the wall that is not in force, and why."""

    __slots__ = ("layer", "reason")

    def __init__(self, layer: str, reason: str) -> None:
        self.layer = layer
        self.reason = reason


class SandboxInfo(Record):
    """What the sandbox's wall is made of on this host."""

    __slots__ = ("layers", "missing", "limits", "version", "guest_memory", "profile", "sentry_pid", "machine")

    def __init__(
        self,
        layers: list[str],
        missing: list[MissingLayer],
        limits: Mapping[str, str],
        version: str,
        guest_memory: str,
        profile: str,
        sentry_pid: int,
        machine: Mapping[str, str] | None = None,
    ) -> None:
        self.layers = layers
        self.missing = missing
        #: How each limit is held.
        self.limits = dict(limits)
        self.version = version
        #: How the sentry reaches a guest's memory: "process_vm" or "proc_mem".
        self.guest_memory = guest_memory
        #: "default" or "strict".
        self.profile = profile
        self.sentry_pid = sentry_pid
        #: Of a guest with a kernel of its own: what it runs on, and what of that it makes use of.
        self.machine = dict(machine or {})
