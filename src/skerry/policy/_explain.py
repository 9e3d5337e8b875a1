"""Why something was denied, or died: from a run's events to the clause, the layer and the smallest change."""

from __future__ import annotations

import errno as _errno
import os
import signal as _signal
import socket

from . import Policy, _compile
from ._calls import NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

#: Refused by every engine, whatever a policy says: they are for systems, not for programs.
_FOR_SYSTEMS = frozenset(
    [
        "mount",
        "umount2",
        "pivot_root",
        "swapon",
        "swapoff",
        "reboot",
        "sethostname",
        "setdomainname",
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "kexec_file_load",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "keyctl",
        "add_key",
        "request_key",
        "unshare",
        "setns",
        "open_by_handle_at",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "iopl",
        "ioperm",
        "acct",
        "quotactl",
        "settimeofday",
        "clock_settime",
        "clock_adjtime",
        "adjtimex",
        "nfsservctl",
        "lookup_dcookie",
        "fanotify_init",
        "fsopen",
        "fsmount",
        "open_tree",
        "move_mount",
        "mount_setattr",
    ]
)


class Finding:
    """One thing that did not go as the program wanted."""

    __slots__ = ("allow", "cause", "clause", "layer", "process", "program", "what")

    def __init__(self, what: str, layer: str, clause: str, cause: str, allow: str, event: Mapping[str, Any]) -> None:
        self.what = what
        #: What held it: "mounts", "rules over calls", ...
        self.layer = layer
        #: Of the policy, or of the options; "" where none is to blame.
        self.clause = clause
        #: "policy", "engine" (it lacks the feature) or "program" (its own error).
        self.cause = cause
        #: The smallest change that would allow it; "" where there is none.
        self.allow = allow
        self.process = event.get("process")
        self.program = event.get("program", "")

    def as_dict(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in ("what", "cause", "clause", "layer", "allow", "process", "program")}


class Explainer:
    """Explains the events of one run. `run` is its first record: command, policy, engine, working directory."""

    def __init__(self, run: Mapping[str, Any] | None = None, policy: Policy | None = None) -> None:
        run = run or {}
        self.engine = str(run.get("engine") or "sentry")
        said = run.get("policy")
        self.policy = policy
        if policy is None and isinstance(said, dict):
            self.policy = Policy(said, source=str(run.get("policy_source") or "the policy"))
        self.findings: list[Finding] = []
        self._known: set[tuple[str, str]] = set()
        self._killed_by: dict[Any, str] = {}

    def explain(self, events: Iterable[Mapping[str, Any]]) -> list[Finding]:
        """All that there is to say."""
        for event in events:
            handler = getattr(self, f"_{event.get('event')}", None)
            if handler is not None:
                handler(event)
        return self.findings

    def _add(self, what: str, layer: str, clause: str, cause: str, allow: str, event: Mapping[str, Any]) -> None:
        key = (what, clause)
        if key not in self._known:
            self._known.add(key)
            self.findings.append(Finding(what, layer, clause, cause, allow, event))

    # --- one method per event ---

    def _call(self, event: Mapping[str, Any]) -> None:
        name, action = str(event.get("name")), event.get("action")
        path = _path(event)
        of = f"{name}({path!r})" if path else f"{name}()"
        number = int(action.get("errno", 0)) if isinstance(action, dict) else 0
        how = {"log": "was allowed, and is logged", "kill": "killed the process", "notify": "was looked at"}.get(
            str(action), ""
        )
        how = how or f"was answered with {_errno.errorcode.get(number, str(number))}"
        if action == "kill":
            self._killed_by[event.get("process")] = name
        layer = "the guest kernel's rules over calls" if self.engine == "sentry" else "seccomp"
        clause = self._clause_of_call(name, action)
        if action in ("log", "notify"):
            if clause:
                self._add(f"{of} {how}", layer, clause, "policy", "", event)
        elif clause:
            listed = clause.split(".")[1]
            change = f'add "{name}" to system_calls.allow'
            if listed != "default":
                change = f'take "{name}" out of {clause}'
            self._add(f"{of} {how}", layer, clause, "policy", change, event)
        elif name == "socket" and number == _errno.EAFNOSUPPORT and self.engine == "rules" and self._is_of_network(event):
            change = 'say mode = "loopback", and name the ports (network.connect, network.bind)'
            self._add(f"{of} {how}", layer, "network.mode", "policy", change, event)
        elif path and name in ("connect", "bind", "listen"):
            self._address(event, name, "connect" if name == "connect" else "bind", f"tcp:{path}", number)
        elif path and self.policy is not None:
            self._file(event, name, "write", path, number or _errno.EACCES)
        else:
            why = f"the engine {self.engine}'s own profile; another engine may have it ('skerry engines')"
            self._add(f"{of} {how}", layer, "", "engine", why, event)

    def _is_of_network(self, event: Mapping[str, Any]) -> bool:
        """Whether a policy decides about the socket that was asked for."""
        arguments = event.get("arguments")
        family = arguments[0] if isinstance(arguments, list) and arguments else None
        return self.policy is not None and family in (socket.AF_INET, socket.AF_INET6)

    def _clause_of_call(self, name: str, action: Any) -> str:
        if self.policy is None:
            return ""
        said = self.policy["system_calls"]
        for key in ("kill", "errno", "log", "allow"):
            if name in _compile.call_names(said[key]):
                return "" if key == "allow" else f"system_calls.{key}"
        return "" if said["default"] == "allow" else "system_calls.default"

    def _observed(self, event: Mapping[str, Any]) -> None:
        number = event.get("errno")
        if not isinstance(number, int):
            return
        name, path, address, access = str(event.get("name")), _path(event), event.get("address"), str(event.get("access"))
        if isinstance(address, str) and not (address == "unix" and path):
            self._address(event, name, access, address, number)
        elif path is not None:
            self._file(event, name, access, path, number)
        elif number == _errno.ENOSYS or (number == _errno.EPERM and name in _FOR_SYSTEMS):
            self._missing(event, name)
        elif number == _errno.EAFNOSUPPORT:
            self._add(f"{name}: {_name(number)}", "sockets", "", "engine", "the engine has no sockets of that family", event)
        elif number == _errno.EPERM and self.engine == "rules":
            why = "programs of a sandbox reach each other only; the engine namespace shows them no others"
            self._add(f"{name}: {_name(number)}", "Landlock's scopes", "", "engine", why, event)
        elif number == _errno.EPERM:
            self._add(f"{name}: {_name(number)}", "permissions", "", "program", "", event)
        elif number == _errno.ENOSPC:
            self._no_space(event, name)

    def _missing(self, event: Mapping[str, Any], name: str) -> None:
        why = "no engine gives it to a program" if name in _FOR_SYSTEMS else f"the engine {self.engine} does not have it"
        self._add(f"{name}() is refused", "system calls", "", "engine", why, event)

    def _unknown_call(self, event: Mapping[str, Any]) -> None:
        number = event.get("number")
        name = next((name for name, known in NUMBERS.items() if known == number), str(event.get("name")))
        self._missing(event, name)

    def _no_space(self, event: Mapping[str, Any], what: str) -> None:
        clause = "resources.disk" if self._says("resources", "disk") else "resources.memory"
        self._add(f"{what}: {_name(_errno.ENOSPC)}", "files in memory", clause, "policy", f"raise {clause}", event)

    def _says(self, section: str, key: str) -> bool:
        return self.policy is not None and self.policy[section][key] not in (None, [], {})

    def _address(self, event: Mapping[str, Any], name: str, access: str, address: str, number: int) -> None:
        key = "bind" if access == "bind" else "connect"
        what = f"{name} {address}: {_name(number)}"
        mode = "loopback" if self.policy is None else self.policy["network"]["mode"]
        protocol, _, rest = address.partition(":")
        host, _, port = rest.rpartition(":")
        endpoint = f"{protocol}:{port}"
        allowed = None if self.policy is None else self.policy["network"][key]
        either = self.policy is not None and (
            self.policy["network"]["connect"] is not None or self.policy["network"]["bind"] is not None
        )
        if number in (_errno.EACCES, _errno.EPERM) and either and not _has_port(allowed or (), protocol, port):
            self._add(what, "rules over ports", f"network.{key}", "policy", f'add "{endpoint}" to network.{key}', event)
        elif number in (_errno.ENETUNREACH, _errno.EADDRNOTAVAIL, _errno.EHOSTUNREACH):
            if mode == "none" and _is_loopback(host):
                self._add(what, "network", "network.mode", "policy", 'say mode = "loopback"', event)
            else:
                clause = "network.mode" if mode == "none" else ""
                why = 'only microvm has a network outside of the sandbox: --engine microvm --network user (mode = "user")'
                self._add(what, "network", clause, "engine", why, event)
        elif number == _errno.ECONNREFUSED:
            self._add(what, "network", "", "program", "nobody listens there inside; the host's servers are out of reach", event)
        elif number in (_errno.EACCES, _errno.EPERM):
            self._add(what, "permissions", "", "program", "", event)

    def _network_denied(self, event: Mapping[str, Any]) -> None:
        """By the gateway of a guest that has a network."""
        protocol, address, port = str(event.get("protocol")), str(event.get("address")), event.get("port")
        clause, reason = str(event.get("clause")), event.get("reason")
        of_host = f" ({reason})" if isinstance(reason, str) else ""
        what = f"{protocol} to {address}:{port}{of_host} was let nowhere"
        change = {
            "network.addresses": f'add "{address}" to network.addresses',
            "network.connect": f'add "{protocol}:{port}" to network.connect',
            "network.domains": f'add "{address}" to network.domains',
        }.get(clause, f"it is the host's own, or its link's: name it (network.addresses = [\"{address}\"])")
        if protocol == "dns":
            what = f"the name {address} was not resolved"
        self._add(what, "the gateway", clause, "policy", change, event)

    def _file(self, event: Mapping[str, Any], name: str, access: str, path: str, number: int) -> None:
        path = os.path.normpath(path)
        what = f"{name} {path}: {_name(number)}"
        # As the host has it now: what the program made itself is gone.
        there, above = os.path.lexists(path), os.path.dirname(path)
        writes = access in ("write", "bind")
        if number in (_errno.ENOENT, _errno.ENOTDIR):
            wanted = path if there else above if writes and os.path.isdir(above) else None
            if wanted is None or self.policy is None or _compile.shows(self.policy, wanted):
                return
            if any(_compile.is_below(wanted, place) for place in _compile.SYSTEM):
                self._add(what, "the engine's own file systems", "", "engine", "the host's are not shown", event)
                return
            clause = self._hiding(wanted)
            key = "private" if writes else "read_only"
            change = f'add "{above if writes else wanted}" to files.{key}'
            if clause == "files.hidden":
                change = f'take "{wanted}" out of files.hidden'
            self._add(what, "mounts", clause, "policy", change, event)
        elif number == _errno.EROFS or (
            self.engine == "rules" and number == _errno.EACCES and self._is_kept_from(path, writes)
        ):
            if any(_compile.is_below(path, place) for place in ("/proc", "/sys")):
                self._add(
                    what, "the engine's own file systems", "", "engine", "nothing there can be changed from inside", event
                )
                return
            clause = "files.default" if self.policy is not None else "--rw"
            if self.policy is not None and any(_compile.is_below(path, place) for place in self.policy["files"]["read_only"]):
                clause = "files.read_only"
            directory = path if os.path.isdir(path) else above
            change = f'add "{directory}" to files.private (stays in memory) or files.read_write (goes to the host)'
            if self.engine == "rules":
                change = f'add "{directory}" to files.read_write'
            if self.policy is None:
                change = f"--rw {directory}"
            self._add(what, self._layer_of_files(), clause, "policy", change, event)
        elif number in (_errno.EACCES, _errno.EPERM):
            execute = None if self.policy is None else self.policy["files"]["execute"]
            real = os.path.realpath(path)
            if access == "execute" and execute is not None and (self.policy is None or _compile.shows(self.policy, path)):
                places = [os.path.realpath(place) for place in execute]
                if not any(_compile.is_below(real, place) for place in places):
                    change = f'add "{real}" to files.execute'
                    self._add(what, "rules over programs", "files.execute", "policy", change, event)
                    return
            if self.policy is not None and _compile.shows(self.policy, path):
                path = real  # a link that is shown may lead to what is not
            if self.policy is not None and there and not _compile.shows(self.policy, path):
                clause = self._hiding(path)
                change = f'add "{path}" to files.read_only'
                if clause == "files.hidden":
                    change = f'take "{path}" out of files.hidden'
                self._add(what, self._layer_of_files(), clause, "policy", change, event)
                return
            if self.engine == "rules":
                why = "the engine rules shows no program devices, /run and parts of /sys, nor lists what holds something hidden"
                self._add(what, self._layer_of_files(), "", "engine", why, event)
                return
            self._add(what, "permissions of the file", "", "program", "", event)
        elif number == _errno.ENOSPC:
            self._no_space(event, f"{name} {path}")

    def _is_kept_from(self, path: str, writes: bool) -> bool:
        """Whether what Landlock denies there is that it is written to."""
        shown = self.policy is None or _compile.shows(self.policy, path)
        return writes and shown and not any(_compile.is_below(path, place) for place in ("/proc", "/sys", "/dev", "/run"))

    def _layer_of_files(self) -> str:
        return "Landlock" if self.engine == "rules" else "mounts"

    def _hiding(self, path: str) -> str:
        assert self.policy is not None
        files = self.policy["files"]
        for key in ("hidden", "temporary"):
            if any(_compile.is_below(path, place) for place in files[key]):
                return f"files.{key}"
        return "files.default"

    def _denied(self, event: Mapping[str, Any]) -> None:
        what = f"the host's {event.get('what')} {_path(event)} was not opened"
        self._add(what, "host files", "", "engine", "no engine hands a program sockets, pipes or devices of the host", event)

    def _out_of_memory(self, event: Mapping[str, Any]) -> None:
        clause = "resources.memory" if self._says("resources", "memory") else "--memory"
        what = f"process {event.get('process')} was killed at the memory limit of {event.get('limit')} bytes"
        self._add(what, "the memory limit", clause, "policy", f"raise {clause}", event)

    def _pids_limit(self, event: Mapping[str, Any]) -> None:
        clause = "resources.processes" if self._says("resources", "processes") else "--pids"
        what = f"no process or thread beyond {event.get('limit')} was made"
        self._add(what, "the limit of processes", clause, "policy", f"raise {clause}", event)

    def _exited(self, event: Mapping[str, Any]) -> None:
        number, process = event.get("signal"), event.get("process")
        if not isinstance(number, int):
            return
        try:
            name = _signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        what = f"the command was killed by {name}"
        if process in self._killed_by:
            call = self._killed_by[process]
            clause = self._clause_of_call(call, "kill")
            self._add(f"{what}, for {call}()", "rules over calls", clause, "policy" if clause else "engine", "", event)
        elif number in (_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGILL, _signal.SIGFPE, _signal.SIGABRT):
            self._add(what, "", "", "program", "", event)
        elif number == _signal.SIGSYS:
            self._add(what, "seccomp", "", "engine", "a filter of the engine's, or of the program's own", event)

    def _ended(self, event: Mapping[str, Any]) -> None:
        if event.get("timed_out"):
            clause = "resources.wall_time" if self._says("resources", "wall_time") else "--timeout"
            self._add("the command ran too long", "the time limit", clause, "policy", f"raise {clause}", event)
        error = event.get("error")
        if isinstance(error, str) and error:
            self._not_started(event, error)

    def _not_started(self, event: Mapping[str, Any], error: str) -> None:
        program = event.get("program_path")
        if isinstance(program, str) and self.policy is not None:
            if not _compile.shows(self.policy, program):
                change = f'add "{program}" to files.read_only'
                self._add(error, "mounts", self._hiding(program), "policy", change, event)
                return
            execute = self.policy["files"]["execute"]
            real = os.path.realpath(program)
            if execute is not None and not any(_compile.is_below(real, os.path.realpath(place)) for place in execute):
                change = f'add "{real}" to files.execute'
                self._add(error, "rules over programs", "files.execute", "policy", change, event)
                return
        self._add(error, "", "", "program", "", event)


def _path(event: Mapping[str, Any]) -> str | None:
    from ..control.messages import read_bytes
    from ..errors import ProtocolError

    path = event.get("path")
    try:
        return None if path is None else read_bytes(path)
    except ProtocolError:
        return None


def _name(number: int) -> str:
    return f"{_errno.errorcode.get(number, number)} ({os.strerror(number)})"


def _has_port(endpoints: Iterable[str], protocol: str, port: str) -> bool:
    return port.isdecimal() and int(port) in _compile._ports(list(endpoints), protocol)


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("[::1]", "0.0.0.0", "[::]")  # noqa: S104  # a name, not a bind
