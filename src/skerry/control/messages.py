"""The messages (the mirror of crates/control/src/messages.rs, which is the contract; tests/control holds golden frames).

Requests are built by one function each, named as the method; replies and events are read by one `read_…` each. What is
read comes from a program that runs hostile code, so every field is checked before it is used.
"""

from __future__ import annotations

import binascii
import os

from .._records import FileStat, MissingLayer, ProcessState, Record, SandboxInfo, Usage
from ..errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

#: The layers of the wall, by the names that the protocol has for them.
LAYERS = (
    "seccomp", "user_namespace", "mount_namespace", "pid_namespace", "network_namespace", "landlock", "cgroup",
    "no_capabilities",
)  # fmt: skip

NETWORKS = ("none", "loopback", "user")
PROFILES = ("default", "strict")

#: Rights on files (crates/control/src/rules.rs), and what is meant by reading and by writing.
READ_RIGHTS = ("execute", "read_file", "read_dir")
WRITE_RIGHTS = (
    "write_file", "truncate", "make_dir", "make_reg", "make_sock", "make_fifo", "make_sym", "remove_dir", "remove_file",
    "refer", "attributes",
)  # fmt: skip
FILE_RIGHTS = (*READ_RIGHTS, *WRITE_RIGHTS, "make_char", "make_block", "ioctl_dev", "resolve_unix")
PORTS = ("bind_tcp", "connect_tcp", "bind_udp", "connect_udp")
SCOPES = ("abstract_unix_socket", "signal")
OPERATORS = ("equal", "not_equal", "less", "less_or_equal", "greater", "greater_or_equal")

#: The most bytes that one file read or write carries.
FILE_CHUNK = 1 << 20


# --- Byte strings ---------------------------------------------------------------------------------------------------


def write_bytes(value: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> Any:
    """A byte string as the protocol carries it: a JSON string where it is valid UTF-8, else `{"base64": "..."}`."""
    raw = os.fsencode(value)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": binascii.b2a_base64(raw, newline=False).decode("ascii")}


def read_bytes(value: Any) -> str:
    """The reverse, as Python keeps such names: undecodable bytes as surrogate escapes."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        return os.fsdecode(read_base64(value["base64"]))
    raise ProtocolError("a reply holds something else where a byte string belongs")


def read_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text)
    except ValueError as error:
        raise ProtocolError(f"a reply holds malformed base64: {error}") from None


# --- Requests -------------------------------------------------------------------------------------------------------


def request(identifier: int, method: str, params: Any = None, descriptors: int = 0) -> dict[str, Any]:
    frame: dict[str, Any] = {"id": identifier, "method": method}
    if descriptors:  # how many came with the frame
        frame["descriptors"] = descriptors
    if params is not None:
        frame["params"] = params
    return frame


def boot(
    *,
    mounts: Sequence[Mapping[str, Any]],
    hostname: str,
    network: str,
    identity: str,
    memory: int | None = None,
    cpus: float | None = None,
    pids: int | None = None,
    memory_files: int | None = None,
    profile: str = "default",
    trace: bool = False,
    require: Iterable[str] = (),
    without: Iterable[str] = (),
    rules: Mapping[str, Any] | None = None,
    observe: str = "nothing",
) -> dict[str, Any]:
    """`observe`: "nothing", "refusals", "failures" or "everything"."""
    return {
        "mounts": list(mounts),
        "hostname": hostname,
        "network": network,
        "limits": {"memory": memory, "cpus": cpus, "pids": pids, "memory_files": memory_files},
        "identity": identity,
        "profile": profile,
        "trace": trace,
        "require": list(require),
        "without": list(without),
        **({} if rules is None else {"rules": dict(rules)}),
        **({} if observe == "nothing" else {"observe": observe}),
    }


def machine(
    *,
    monitor: Mapping[str, Any],
    mounts: Sequence[Mapping[str, Any]],
    memory_files: int,
    patience_ms: int,
    helpers: Sequence[Mapping[str, Any]] = (),
    line_holds: int | None = None,
    keeps_registers: bool = False,
    calls: Mapping[str, Any] | None = None,
    writes_back: bool = False,
    copies: Sequence[tuple[str, str]] = (),
    conversation: Mapping[str, Any] | None = None,
    gateway: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The machine that a guest runs in, and the jail around it (`boot`'s `machine`; for `skerry-machine`)."""
    return {
        **({"helpers": list(helpers)} if helpers else {}),
        "monitor": dict(monitor),
        "mounts": list(mounts),
        "memory_files": memory_files,
        **({"keeps_registers": True} if keeps_registers else {}),
        **({} if calls is None else {"calls": dict(calls)}),
        **({} if line_holds is None else {"line_holds": line_holds}),
        "patience_ms": patience_ms,
        "writes_back": writes_back,
        **({"copies": [{"from": source, "to": target} for source, target in copies]} if copies else {}),
        **({} if conversation is None else {"conversation": dict(conversation)}),
        **({} if gateway is None else {"gateway": dict(gateway)}),
    }


def gateway(program: str | bytes, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What the guest's network ends at; `configuration`: what may be reached, for the program."""
    return {"program": write_bytes(program), "configuration": dict(configuration)}


def conversation(
    socket: str,
    *,
    before: Sequence[Mapping[str, Any]] = (),
    after: Sequence[Mapping[str, Any]] = (),
    resumed: bool = False,
    keeps: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """What a monitor is told on its control socket, before its guest's init is there and after."""
    said = {"socket": socket, "before": list(before), "after": list(after), "resumed": resumed}
    return said if keeps is None else {**said, "keeps": {"from": keeps[0], "to": keeps[1]}}


def step(
    say: Mapping[str, Any], *, read: str | None = None, write: str | None = None, until: str | None = None
) -> dict[str, Any]:
    """One command, with a file that goes along, said until its answer's status is `until`."""
    more = {"read": read, "write": write, "until": until}
    return {"say": dict(say), **{name: value for name, value in more.items() if value is not None}}


def host_program(
    arguments: Sequence[str | bytes],
    environment: Sequence[str | bytes] = (),
    makes: str | bytes | None = None,
    capabilities: Sequence[str] = (),
    *,
    opens_for_others: bool = False,
    fixed_addresses: bool = False,
    files: Sequence[Mapping[str, Any]] | None = None,
    own_user: bool = False,
) -> dict[str, Any]:
    """A program of the host's; `makes`: what is there when it is up; `capabilities`: what it keeps of the jail's; `files`: what
    it may do with files of the jail; `own_user`: it runs as a user that is nobody else's.
    """
    return {
        "arguments": [write_bytes(argument) for argument in arguments],
        "environment": [write_bytes(variable) for variable in environment],
        **({} if makes is None else {"makes": write_bytes(makes)}),
        **({"capabilities": list(capabilities)} if capabilities else {}),
        **({"opens_for_others": True} if opens_for_others else {}),
        **({"fixed_addresses": True} if fixed_addresses else {}),
        **({} if files is None else {"files": list(files)}),
        **({"own_user": True} if own_user else {}),
    }


def rules(
    *,
    files: Iterable[Mapping[str, Any]] | None = None,
    ports: Mapping[str, Sequence[int]] | None = None,
    scopes: Iterable[str] = (),
    calls: Mapping[str, Any] | None = None,
    capabilities: Iterable[str] | None = None,
    resources: Mapping[str, int] | None = None,
    temporary: Iterable[str] = (),
    apparmor: str | None = None,
    selinux: str | None = None,
) -> dict[str, Any]:
    """What the host's kernel is to hold programs to (crates/control/src/rules.rs says what each part means)."""
    whole: dict[str, Any] = {
        "files": None if files is None else list(files),
        "ports": None if ports is None else {name: list(ports.get(name, ())) for name in PORTS},
        "scopes": list(scopes) or None,
        "calls": calls,
        "capabilities": None if capabilities is None else list(capabilities),
        "resources": dict(resources) if resources else None,
        "temporary": list(temporary) or None,
        "apparmor": apparmor,
        "selinux": selinux,
    }
    return {name: part for name, part in whole.items() if part is not None}


def file_rule(path: str | bytes | os.PathLike[str], rights: Iterable[str]) -> dict[str, Any]:
    """Rights on a file, or on a directory with all that is below it."""
    return {"path": write_bytes(path), "rights": list(rights)}


def call_rules(default: Any, rules: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`default` is the action for calls that no rule is about; of the rules the first that holds decides."""
    return {"default": default, "rules": list(rules)}


def call_rule(calls: Iterable[str], action: Any, arguments: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """`action`: "allow", "log", "notify", {"errno": 1} or "kill"; all `arguments` must hold."""
    rule: dict[str, Any] = {"calls": list(calls), "action": action}
    if conditions := list(arguments):
        rule["arguments"] = conditions
    return rule


def argument(index: int, operator: str, value: int, *, mask: int = 0xFFFF_FFFF) -> dict[str, Any]:
    """`argument & mask OPERATOR value`, with one of OPERATORS; the mask is for an `int`."""
    return {"index": index, "mask": mask, "operator": operator, "value": value}


def mount_host(target: str | bytes, source: str | bytes, *, writable: bool) -> dict[str, Any]:
    kind = "host_read_write" if writable else "host_read_only"
    return {"target": write_bytes(target), "type": kind, "source": write_bytes(source)}


def mount_overlay(target: str | bytes, source: str | bytes, upper: str | bytes | None = None) -> dict[str, Any]:
    return {
        "target": write_bytes(target),
        "type": "overlay",
        "source": write_bytes(source),
        "upper": None if upper is None else write_bytes(upper),
    }


def mount_tmpfs(target: str | bytes, *, size: int = 0, mode: int = 0o1777) -> dict[str, Any]:
    return {"target": write_bytes(target), "type": "tmpfs", "size": size, "mode": mode}


def mount_file(target: str | bytes, content: bytes, *, mode: int = 0o644) -> dict[str, Any]:
    """A regular file in memory."""
    encoded = binascii.b2a_base64(content, newline=False).decode("ascii")
    return {"target": write_bytes(target), "type": "file", "content": encoded, "mode": mode}


def mount_plain(target: str | bytes, kind: str) -> dict[str, Any]:
    """`proc`, `sysfs`, `devtmpfs`, `hide` or `skeleton`."""
    return {"target": write_bytes(target), "type": kind}


def mount_device(path: str) -> dict[str, Any]:
    """A device of the host's, in its own place."""
    return {"target": path, "type": "device", "source": path}


def mount_symlink(target: str | bytes, to: str | bytes) -> dict[str, Any]:
    """A symbolic link, in a skeleton."""
    return {"target": write_bytes(target), "type": "symlink", "to": write_bytes(to)}


def spawn(
    *,
    arguments: Iterable[str | bytes | os.PathLike[str]],
    environment: Iterable[str | bytes],
    directory: str | bytes | os.PathLike[str],
    uid: int,
    gid: int,
    groups: Iterable[int],
    stdio: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "arguments": [write_bytes(argument) for argument in arguments],
        "environment": [write_bytes(entry) for entry in environment],
        "directory": write_bytes(directory),
        "uid": uid,
        "gid": gid,
        "groups": list(groups),
        "stdio": dict(stdio),
    }


def stdio_descriptors(stdin: int | None, stdout: int | None, stderr: int | None) -> dict[str, Any]:
    """Indices of the descriptors that come with the frame; None is /dev/null."""
    return {"descriptors": [stdin, stdout, stderr]}


def stdio_terminal(input: int, output: int, error: int | None, columns: int, rows: int) -> dict[str, Any]:
    return {"terminal": {"input": input, "output": output, "error": error, "columns": columns, "rows": rows}}


def signal(process: int, number: int, target: str = "process") -> dict[str, Any]:
    return {"process": process, "signal": number, "target": target}


def update(
    *,
    memory: int | None = None,
    cpus: float | None = None,
    machine: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Limits as they are to be from now on; `machine`: how the guest's grows for that."""
    more = {"memory": memory, "cpus": cpus, "machine": machine}
    return {name: value for name, value in more.items() if value is not None}


def growth(steps: Sequence[Mapping[str, Any]], *, cpus: int, memory: int) -> dict[str, Any]:
    """What a machine's monitor is told, and the CPUs and bytes of memory that the guest has then."""
    return {"steps": list(steps), "cpus": cpus, "memory": memory}


def resize(process: int, columns: int, rows: int) -> dict[str, Any]:
    return {"process": process, "columns": columns, "rows": rows}


def file_read(path: str | bytes, offset: int, length: int) -> dict[str, Any]:
    return {"operation": "read", "path": write_bytes(path), "offset": offset, "length": length}


def file_write(path: str | bytes, offset: int, data: bytes, *, truncate: bool, mode: int) -> dict[str, Any]:
    encoded = binascii.b2a_base64(data, newline=False).decode("ascii")
    return {
        "operation": "write", "path": write_bytes(path), "offset": offset, "data": encoded, "truncate": truncate,
        "mode": mode,
    }  # fmt: skip


def file_list(path: str | bytes) -> dict[str, Any]:
    return {"operation": "list", "path": write_bytes(path)}


def file_stat(path: str | bytes, *, follow: bool) -> dict[str, Any]:
    return {"operation": "stat", "path": write_bytes(path), "follow": follow}


def file_remove(path: str | bytes, *, recursive: bool) -> dict[str, Any]:
    return {"operation": "remove", "path": write_bytes(path), "recursive": recursive}


def file_make_directory(path: str | bytes, *, parents: bool, mode: int) -> dict[str, Any]:
    return {"operation": "make_directory", "path": write_bytes(path), "parents": parents, "mode": mode}


def file_rename(source: str | bytes, target: str | bytes) -> dict[str, Any]:
    return {"operation": "rename", "from": write_bytes(source), "to": write_bytes(target)}


# --- Replies --------------------------------------------------------------------------------------------------------


class Failure(Record):
    """Why a request failed. `kind` is one of FAILURE_KINDS."""

    __slots__ = ("kind", "message", "errno")

    def __init__(self, kind: str, message: str, errno: int | None = None) -> None:
        self.kind = kind
        self.message = message
        self.errno = errno


FAILURE_KINDS = (
    "invalid", "not_found", "not_executable", "unenforceable", "unsupported", "file", "no_process", "internal",
)  # fmt: skip


def read_failure(value: Any) -> Failure:
    errno = value.get("errno") if isinstance(value, dict) else None
    if errno is not None and not isinstance(errno, int):
        raise ProtocolError("the field 'errno' of a reply is not a number")
    return Failure(_text(value, "kind"), _text(value, "message"), errno)


def read_booted(value: Any) -> SandboxInfo:
    missing = [MissingLayer(_text(entry, "layer"), _text(entry, "reason")) for entry in _list(value, "missing")]
    limits = _object(value.get("limits"), "limits")
    return SandboxInfo(
        layers=[str(layer) for layer in _list(value, "layers")],
        missing=missing,
        limits={str(name): str(text) for name, text in limits.items()},
        version=_text(value, "version"),
        guest_memory=_text(value, "guest_memory"),
        profile=_text(value, "profile"),
        sentry_pid=_number(value, "sentry_pid"),
        machine={str(name): str(text) for name, text in _object(value.get("machine"), "machine").items()},
    )


def read_spawned(value: Any) -> int:
    return _number(value, "process")


def read_processes(value: Any) -> list[ProcessState]:
    return [
        ProcessState(_number(entry, "process"), [read_bytes(argument) for argument in _list(entry, "arguments")])
        for entry in _list(value, "processes")
    ]


def read_usage(value: Any) -> Usage:
    return Usage(**{name: _number(value, name) for name in Usage.__slots__})


def read_file_data(value: Any) -> tuple[bytes, bool]:
    """The bytes, and whether the file ends with them."""
    return read_base64(_text(value, "data")), _flag(value, "end")


def read_file_stat(value: Any) -> FileStat:
    return FileStat(
        name=read_bytes(_object(value, "a file").get("name")),
        kind=_text(value, "kind"),
        size=_number(value, "size"),
        mode=_number(value, "mode"),
        uid=_number(value, "uid"),
        gid=_number(value, "gid"),
        modified_ns=_number(value, "modified_ns"),
    )


def read_file_entries(value: Any) -> list[FileStat]:
    return [read_file_stat(entry) for entry in _list(value, "entries")]


# --- Events ---------------------------------------------------------------------------------------------------------


class Exited(Record):
    """A spawned process ended: exactly one of `status` and `signal` is given."""

    __slots__ = ("process", "status", "signal", "core_dumped", "usage")

    def __init__(self, process: int, status: int | None, signal: int | None, core_dumped: bool, usage: Usage) -> None:
        self.process = process
        self.status = status
        self.signal = signal
        self.core_dumped = core_dumped
        self.usage = usage

    @property
    def returncode(self) -> int:
        """The command's own status, or 128+N when signal N killed it."""
        return self.status if self.status is not None else 128 + (self.signal or 0)


def read_exited(event: Mapping[str, Any]) -> Exited:
    status, number = event.get("status"), event.get("signal")
    if (status is None) == (number is None) or not isinstance(number if status is None else status, int):
        raise ProtocolError("an 'exited' event gives neither or both of 'status' and 'signal'")
    return Exited(_number(event, "process"), status, number, _flag(event, "core_dumped"), read_usage(event.get("usage")))


# --- Checks ---------------------------------------------------------------------------------------------------------


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{name} in a reply is not an object")
    return value


def _field(value: Any, name: str, kind: type, what: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise ProtocolError(f"the field {name!r} of a message is not {what}")
    return found


def _text(value: Any, name: str) -> str:
    text: str = _field(value, name, str, "a string")
    return text


def _number(value: Any, name: str) -> int:
    number: int = _field(value, name, int, "a number")
    return number


def _flag(value: Any, name: str) -> bool:
    flag: bool = _field(value, name, bool, "true or false")
    return flag


def _list(value: Any, name: str) -> list[Any]:
    items: list[Any] = _field(value, name, list, "a list")
    return items
