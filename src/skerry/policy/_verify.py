"""Whether what a policy says holds: live probes for each clause, in each engine; what must be denied, and what must not."""

from __future__ import annotations

import errno as _errno
import os
import socket
import struct
import time

from .. import _host, _values, errors
from ..control import messages
from . import Policy, _compile
from ._calls import MADE_IN_THE_PROCESS, NUMBERS, PROCESS
from ._probe import RESULT, SETUP, ZERO, forks, program, spin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

#: Tests: clauses (comma-separated) that are left out of the sandbox on purpose, while their probes stay.
TEST_SWITCH = "SKERRY_TEST_WITHOUT_CLAUSE"

_PLACE = "/run/skerry-verify"
_ELSEWHERE = "/run/skerry-verify-not-listed"
#: A network for documentation (RFC 5737): nobody is there.
_OUTSIDE = "192.0.2.1"

#: Calls that do no harm with any arguments, for what a default denies or a list allows.
_HARMLESS = (
    "sysinfo", "uname", "times", "getpriority", "getsid", "sched_get_priority_max", "sched_get_priority_min", "umask",
    "getpgid", "capget", "getitimer", "getppid", "getuid", "getgid", "gettid", "getpid",
    "sched_getscheduler", "timer_getoverrun",
    "getcwd",
)  # fmt: skip

#: With a list of calls of its own, not more than so many are tried.
_CALLS_TRIED = 64


class Row:
    """One control in one engine. `held` None: it could not be tried, or needs no probe; `found` says why."""

    __slots__ = ("clause", "engine", "expected", "found", "held", "probe")

    def __init__(self, engine: str, clause: str, probe: str, expected: str, found: str, held: bool | None) -> None:
        self.engine = engine
        self.clause = clause
        self.probe = probe
        self.expected = expected
        self.found = found
        self.held = held

    def as_dict(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in ("engine", "clause", "probe", "expected", "found", "held")}


class _Probe:
    __slots__ = ("calls", "clause", "expected", "judge", "number", "reaches", "text", "zero")

    def __init__(
        self,
        clause: str,
        text: str,
        expected: str,
        calls: Sequence[Sequence[Any]],
        judge: Callable[[int, int | None], bool],
        zero: bool = False,
    ) -> None:
        self.clause = clause
        self.text = text
        self.expected = expected
        #: Names and arguments.
        self.calls = calls
        #: Of exit status and signal.
        self.judge = judge
        self.zero = zero
        self.number = 0
        #: What the gateway would tell of: address and port, or a name.
        self.reaches: tuple[str, int] | None = None


def verify(policy: Policy, engines: Iterable[str]) -> list[Row]:
    """Every control of the policy, in every engine."""
    rows: list[Row] = []
    for engine in engines:
        rows += _in_engine(policy, engine)
    return rows


def _in_engine(policy: Policy, engine: str) -> list[Row]:
    probes = [*_files(policy, engine), *_network(policy, engine), *_calls(policy)]
    for number, probe in enumerate(probes):
        probe.number = number
    programs = {str(probe.number): _program(probe) for probe in probes}
    programs |= {"nothing": program([(NUMBERS["exit_group"], 0)]), "wait": program([(NUMBERS["pause"],)])}
    programs |= _takers(policy)
    rows: list[Row] = []
    try:
        with _Place(policy, engine, programs) as place:
            events: list[Mapping[str, Any]] = []
            sandbox = place.sandbox()
            sandbox._on_event_now = events.append
            with sandbox:
                rows += [
                    _row(sandbox, engine, probe, policy, place.listed)
                    if probe.reaches is None
                    else _told_row(sandbox, engine, probe, events, place.listed)
                    for probe in probes
                ]
                rows += _programs(sandbox, engine, policy, place)
            rows += _resources(engine, policy, place)
            rows += _environment(sandbox, engine, policy)
    except (errors.Unenforceable, errors.LayerUnavailable, errors.EngineUnavailable) as error:
        return [Row(engine, "-", "the whole policy", "held or refused by name", str(error).splitlines()[0], None)]
    except errors.SentryDied as error:
        rows.append(Row(engine, "-", "the whole policy", "held or refused by name", str(error).splitlines()[0], False))
    return rows


class _Place:
    """Where the probes lie: in the sandbox's own tree, or on the host where there is none."""

    def __init__(self, policy: Policy, engine: str, programs: Mapping[str, bytes]) -> None:
        self.policy = _weakened(policy)
        self.engine = engine
        self.programs = programs
        #: Directories of programs that may be started, and of others.
        self.listed, self.elsewhere = _PLACE, _ELSEWHERE
        self._own: str | None = None

    def __enter__(self) -> _Place:
        if self.engine == "rules":  # no mounts: they lie on the host meanwhile
            self._own, self.listed, self.elsewhere = _on_the_host(self.programs)
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            import shutil

            shutil.rmtree(self._own, ignore_errors=True)

    def sandbox(self) -> Any:
        """One under the policy, with the probes in it; not started yet."""
        from ..sandbox import Sandbox

        sandbox = Sandbox(engine=self.engine, policy=self.policy, cwd="/")
        options = sandbox._options
        if self._own is not None:
            places = (self.listed, self.elsewhere)
            options.mounts += [(path, messages.mount_host(path, path, writable=False)) for path in places]
        else:
            files = [(f"{self.listed}/{name}", content) for name, content in self.programs.items()]
            files.append((f"{self.elsewhere}/nothing", self.programs["nothing"]))
            options.mounts += [(path, messages.mount_file(path, content, mode=0o755)) for path, content in files]
        options.probes = self.listed
        options.observe = "nothing"
        return sandbox


def _on_the_host(programs: Mapping[str, bytes]) -> tuple[str, str, str]:
    """Directories with the probes: both, the one of programs that may be started, and the other."""
    import tempfile

    own = tempfile.mkdtemp(prefix="skerry-verify-")
    place, elsewhere = os.path.join(own, "listed"), os.path.join(own, "not-listed")
    for directory, names in ((place, list(programs)), (elsewhere, ["nothing"])):
        os.mkdir(directory)
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "wb") as file:
                file.write(programs[name])
            os.chmod(path, 0o755)  # noqa: S103  # other users start it
    return own, place, elsewhere


def _weakened(policy: Policy) -> Policy:
    """Tests: the policy with some clauses taken out."""
    names = [name for name in os.environ.get(TEST_SWITCH, "").split(",") if name]
    if not names:
        return policy
    data = policy.as_dict()
    for name in names:
        section, _, key = name.partition(".")
        data.get(section, {}).pop(key, None)
    return Policy(data, source=policy.source)


def _program(probe: _Probe) -> bytes:
    return program([(NUMBERS[name], *arguments) for name, *arguments in probe.calls], zero=probe.zero)


def _row(sandbox: Any, engine: str, probe: _Probe, policy: Policy, place: str) -> Row:
    needed = [name for name, *_ in (probe.calls[:-1] if probe.clause.startswith("system_calls") else probe.calls)]
    denied = [name for name in needed if not _may_call(policy, name)]
    if denied:
        return Row(engine, probe.clause, probe.text, probe.expected, f"the policy does not allow {denied[0]}", None)
    result = sandbox.run([f"{place}/{probe.number}"])
    status, number = result.returncode, result.signal
    if number is not None:
        found = f"killed by signal {number}"
    elif status == SETUP:
        found = "a call before it failed"
    else:
        found = {0: "worked", ZERO: "nothing there"}.get(status) or _errno.errorcode.get(status, str(status))
    held: bool | None = probe.judge(status, number)
    if status == SETUP and number is None:
        if held:
            found = "cannot be opened"
        else:
            held = None
    return Row(engine, probe.clause, probe.text, probe.expected, found, held)


#: How long a denial of the gateway's may take to us; how long none is waited for.
_TOLD_S, _UNTOLD_S = 5.0, 1.0


def _told_row(sandbox: Any, engine: str, probe: _Probe, events: Sequence[Mapping[str, Any]], place: str) -> Row:
    """What leaves the sandbox: the program hears that it was refused, as from many a server; the gateway says who did it."""
    assert probe.reaches is not None
    denied = probe.expected == "denied"
    before = len(events)
    sandbox.run([f"{place}/{probe.number}"], timeout=30)
    deadline = time.monotonic() + (_TOLD_S if denied else _UNTOLD_S)
    while True:
        told = [event for event in events[before:] if event.get("event") == "network_denied"]
        found = next((str(event["clause"]) for event in told if _is_about(event, probe.reaches)), None)
        if found or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    # Of two that deny an address the gateway names one.
    either = {probe.clause, *(("network.addresses", "network.domains") if probe.clause == "network.addresses" else ())}
    held = found in either if denied else found is None
    return Row(engine, probe.clause, probe.text, probe.expected, f"denied by {found}" if found else "not denied", held)


def _is_about(event: Mapping[str, Any], reaches: tuple[str, int]) -> bool:
    address, port = reaches
    return event.get("address") == address and (event.get("protocol") == "dns" or event.get("port") == port)


def _may_call(policy: Policy, name: str) -> bool:
    said = policy["system_calls"]
    for key, may in (("kill", False), ("errno", False), ("log", True), ("allow", True)):
        if name in _compile.call_names(said[key]):
            return may
    return said["default"] in ("allow", "log") or name in PROCESS[-4:]


# --- What is expected -----------------------------------------------------------------------------------------------


def _works(status: int, number: int | None) -> bool:
    return status == 0 and number is None


def _fails(status: int, number: int | None) -> bool:
    return number is None and status not in (0, SETUP)


def _fails_with(*names: str) -> Callable[[int, int | None], bool]:
    numbers = {getattr(_errno, name) for name in names}
    return lambda status, number: number is None and status in numbers


def _not_with(*names: str) -> Callable[[int, int | None], bool]:
    numbers = {getattr(_errno, name) for name in names}
    return lambda status, number: number is None and status not in numbers and status != SETUP


def _dies(status: int, number: int | None) -> bool:
    return number in (31, 9)


# --- Files ----------------------------------------------------------------------------------------------------------

_AT_FDCWD = -100


def _open(path: str, flags: int) -> tuple[Any, ...]:
    return ("openat", _AT_FDCWD, os.fsencode(path) + b"\0", flags, 0o600)


def _new(directory: str) -> str:
    return os.path.join(directory, f".skerry-verify-{os.getpid()}")


def _files(policy: Policy, engine: str) -> list[_Probe]:
    said = policy["files"]
    probes: list[_Probe] = []
    create = os.O_CREAT | os.O_EXCL | os.O_WRONLY

    def add(clause: str, text: str, expected: str, *calls: Any, judge: Any, zero: bool = False) -> None:
        probes.append(_Probe(clause, text, expected, calls, judge, zero))

    def stays_inside(clause: str, directory: str) -> None:
        new = _new(directory)

        def judge(status: int, number: int | None) -> bool:
            outside = os.path.lexists(new)
            if outside:
                os.unlink(new)
            return (status == 0 or not works) and not outside

        # Where there are no mounts what is temporary is in TMPDIR.
        works = engine != "rules"
        expected = "works, and the host has no such file" if works else "the host has no such file"
        add(clause, f"make {new}", expected, _open(new, create), judge=judge)

    def is_not_there(clause: str, path: str, **more: bool) -> None:
        reads = (_open(path, os.O_RDONLY), ("read", RESULT, b"\0", 1))
        add(clause, f"read {path}", "is not there", *reads, judge=_nothing, **more)

    default = said["default"]
    if default == "hidden":
        for path in _unshown(policy):
            is_not_there("files.default", path)
    if default in ("hidden", "read_only"):
        add("files.default", f"make {_new('/')}", "fails", _open(_new("/"), create), judge=_fails)
        add("files.default", "read /dev/null", "works", _open("/dev/null", os.O_RDONLY), judge=_works)
    elif _compile.kind_of(policy, "/usr") == "private":
        stays_inside("files.default", "/usr")
    for path in said["read_only"]:
        if not _is_usable(path) or _compile.kind_of(policy, path) != "read_only":
            continue
        if os.path.isdir(path):
            add("files.read_only", f"make {_new(path)}", "fails", _open(_new(path), create), judge=_fails)
        else:
            add("files.read_only", f"write {path}", "fails", _open(path, os.O_WRONLY), judge=_fails)
        if os.access(path, os.R_OK):
            add("files.read_only", f"read {path}", "works", _open(path, os.O_RDONLY), judge=_works)
    for key in ("private", "temporary"):
        for path in said[key]:
            if key == "temporary" or (_is_usable(path) and _compile.kind_of(policy, path) == key):
                stays_inside(f"files.{key}", path)
    for path in said["read_write"]:
        if _is_usable(path) and os.access(path, os.W_OK) and _compile.kind_of(policy, path) == "read_write":
            if os.path.isdir(path):
                new = _new(path)
                unlink = ("unlinkat", _AT_FDCWD, os.fsencode(new) + b"\0", 0)
                add("files.read_write", f"make and remove {new}", "works", _open(new, create), unlink, judge=_works)
            else:
                add("files.read_write", f"write {path}", "works", _open(path, os.O_WRONLY), judge=_works)
    for path in said["hidden"]:
        for inner in _some_file(path):
            is_not_there("files.hidden", inner, zero=True)
    return probes


def _nothing(status: int, number: int | None) -> bool:
    """Nothing was read: it cannot be opened (SETUP, as the call before the last failed), or is empty."""
    return number is None and status != 0


def _is_usable(path: str) -> bool:
    return os.path.isdir(path) or os.path.isfile(path)


def _unshown(policy: Policy) -> list[str]:
    """A few files of the host that the policy does not show."""
    candidates = ("/etc/shadow", "/etc/passwd", "/etc/hostname", "/etc/fstab", "/etc/os-release", "/usr/bin/env", "/etc/hosts")
    found = [path for path in candidates if os.path.isfile(path) and not _compile.shows(policy, os.path.realpath(path))]
    return [path for path in found if not _compile.shows(policy, path)][:2]


def _some_file(path: str) -> list[str]:
    """The file, or one in the directory: of what is not there nothing can be read."""
    if os.path.isfile(path):
        return [path]
    try:
        inner = sorted(os.listdir(path))
    except OSError:
        return []
    return [os.path.join(path, name) for name in inner if os.path.isfile(os.path.join(path, name))][:1]


def _programs(sandbox: Any, engine: str, policy: Policy, place: _Place) -> list[Row]:
    if policy["files"]["execute"] is None:
        return []
    rows = []
    for path, expected in ((f"{place.elsewhere}/nothing", False), (f"{place.listed}/nothing", True)):
        try:
            status = sandbox.run([path]).returncode
            found, worked = ("worked", True) if status == 0 else (f"status {status}", False)
        except errors.CommandError as error:
            found, worked = str(error), False
        what = "a program that is listed" if expected else "a program that is not listed"
        rows.append(Row(engine, "files.execute", f"start {what}", "works" if expected else "fails", found, worked == expected))
    return rows


# --- Network --------------------------------------------------------------------------------------------------------


def _to(address: str, port: int) -> bytes:
    return struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8)


def _network(policy: Policy, engine: str) -> list[_Probe]:
    said = policy["network"]
    stream = ("socket", socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
    probes: list[_Probe] = []

    def add(clause: str, text: str, expected: str, call: str, address: str, port: int, judge: Any) -> None:
        target = _to(address, port)
        probes.append(_Probe(clause, text, expected, [stream, (call, RESULT, target, len(target))], judge))

    def outside(status: int, number: int | None) -> bool:
        return number is None and status not in (0, _errno.EINPROGRESS)

    if said["mode"] == "user":
        add("network.mode", "bind 127.0.0.1", "works", "bind", "127.0.0.1", 0, _works)
        return [*probes, *_outside(policy)]
    add("network.mode", f"connect to {_OUTSIDE}:9", "fails", "connect", _OUTSIDE, 9, outside)
    named = said["connect"] is not None or said["bind"] is not None
    # In `rules` loopback is the host's, at the ports that are named: without, there is none.
    if said["mode"] == "none" or (engine == "rules" and not named):
        add("network.mode", "connect to 127.0.0.1:9", "no network", "connect", "127.0.0.1", 9, _no_network)
    elif not named:
        add("network.mode", "bind 127.0.0.1", "works", "bind", "127.0.0.1", 0, _works)
    if said["mode"] == "loopback" and named:
        for key, call in (("connect", "connect"), ("bind", "bind")):
            listed = _compile._ports(said[key], "tcp")
            free = next(port for port in (49151, 49150, 49149, 49148) if port not in listed)
            add(f"network.{key}", f"{key} tcp:{free}", "EACCES", call, "127.0.0.1", free, _fails_with("EACCES", "EPERM"))
            usable = [port for port in listed if os.geteuid() == 0 or port == 0 or port >= 1024]
            if usable:
                text = f"{key} tcp:{usable[0]}"
                add(f"network.{key}", text, "not denied", call, "127.0.0.1", usable[0], _not_with("EACCES", "EPERM"))
    return probes


#: Networks for documentation, and where clouds keep a machine's secrets.
_NOBODY = (_OUTSIDE, "198.51.100.1", "203.0.113.1")
_METADATA = "169.254.169.254"
#: The gateway's server of names (crates/gateway).
_NAMES = "10.0.2.3"


def _outside(policy: Policy) -> list[_Probe]:
    """Where there is a way out: tried by what is sent, of which the gateway tells what it denies."""
    import ipaddress

    said = policy["network"]
    probes: list[_Probe] = []

    def add(clause: str, expected: str, address: str, port: int) -> None:
        target = _to(address, port)
        stream = ("socket", socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
        calls = [stream, ("connect", RESULT, target, len(target))]
        probe = _Probe(clause, f"connect to {address}:{port}", expected, calls, _works)
        probe.reaches = (address, port)
        probes.append(probe)

    def add_name(expected: str, name: str) -> None:
        words = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        question = struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + words + b"\0" + struct.pack(">2H", 1, 1)
        target = _to(_NAMES, 53)
        datagram = ("socket", socket.AF_INET, socket.SOCK_DGRAM, 0)
        calls = [datagram, ("sendto", RESULT, question, len(question), 0, target, len(target))]
        probe = _Probe("network.domains", f"ask for {name}", expected, calls, _works)
        probe.reaches = (name, 53)
        probes.append(probe)

    networks = None if said["addresses"] is None else [ipaddress.ip_network(one, strict=False) for one in said["addresses"]]
    ports = _compile._ports(said["connect"], "tcp") if said["connect"] is not None else [80]

    def listed(address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in networks or ())

    if not listed(_METADATA):
        add("network.mode", "denied", _METADATA, 80)
    unlisted = next((address for address in _NOBODY if not listed(address)), None)
    if ports and unlisted and (networks is not None or said["domains"] is not None):
        add("network.domains" if networks is None else "network.addresses", "denied", unlisted, ports[0])
    own = [str(next(iter(network.hosts()))) for network in networks or () if network.version == 4]
    if ports and own:
        add("network.addresses", "not denied", own[0], ports[0])
    if said["connect"] is not None:
        free = next(port for port in (49151, 49150, 49149, 49148) if port not in ports)
        add("network.connect", "denied", own[0] if own else _OUTSIDE, free)
    if said["domains"] is not None:
        patterns = [str(one).lower() for one in said["domains"]]
        if not any(one in ("*.invalid", "skerry-verify.invalid") for one in patterns):
            add_name("denied", "skerry-verify.invalid")
        for name in patterns[:1]:
            add_name("not denied", name.replace("*", "skerry-verify"))
    return probes


def _no_network(status: int, number: int | None) -> bool:
    """No interface, or no socket at all: not a refused connection."""
    if number is not None:
        return False
    return status in (_errno.ENETUNREACH, _errno.EADDRNOTAVAIL, _errno.EACCES, _errno.EPERM, _errno.EAFNOSUPPORT, SETUP)


# --- Calls ----------------------------------------------------------------------------------------------------------


def _calls(policy: Policy) -> list[_Probe]:
    said = policy["system_calls"]
    error = said["error"]
    listed = {key: _compile.call_names(said[key]) for key in ("allow", "log", "errno", "kill")}
    probes: list[_Probe] = []

    def add(clause: str, name: str, expected: str, judge: Any) -> None:
        probes.append(_Probe(clause, f"{name}()", expected, [(name, -1, 0, 0, 0, 0, 0)], judge))

    for name in listed["kill"][:_CALLS_TRIED]:
        add("system_calls.kill", name, "dies", _dies)
    for name in listed["errno"][:_CALLS_TRIED]:
        if name not in listed["kill"]:
            # The engine's own profile may be first, with another errno.
            add("system_calls.errno", name, error, _fails_with(error, "EPERM", "ENOSYS"))
    if said["default"] in ("errno", "kill"):
        named = set().union(*listed.values())
        unlisted = [name for name in _HARMLESS if name not in named and name not in MADE_IN_THE_PROCESS]
        for name in unlisted[:3]:
            if said["default"] == "kill":
                add("system_calls.default", name, "dies", _dies)
            else:
                add("system_calls.default", name, error, _fails_with(error))
    strict = {*listed["kill"], *listed["errno"]}
    for key in ("allow", "log"):
        for name in [name for name in _HARMLESS if name in listed[key] and name not in strict][:2]:
            add(f"system_calls.{key}", name, f"not {error}", _not_with(error))
    return probes


# --- The rest -------------------------------------------------------------------------------------------------------


#: Beyond what a limit leaves.
_MEMORY_BEYOND = 32 << 20
_DISK_BEYOND = 1 << 20
_PROCESSES_BEYOND = 8
#: More processes than these are not made to see whether a limit holds.
_PROCESSES_TRIED = 1024
#: For how long it is looked at how much time on CPUs programs get, and how much more than the limit may be measuring.
_SPIN_S = 0.8
_CPUS_TOLERANCE = 1.25
#: How long a program that has taken too much may live on.
_TAKEN_MS = 3000


def _takers(policy: Policy) -> dict[str, bytes]:
    """Programs that take more than the policy's limits leave them."""
    said, limits = policy["resources"], _compile.limits(policy)
    programs = {"spin": spin(), "forks": forks(min(said["processes"] or 0, _PROCESSES_TRIED) + _PROCESSES_BEYOND)}
    if said["memory"] is not None:
        size = _values.size(said["memory"], "resources.memory") + _MEMORY_BEYOND
        # Readable and writable, private, anonymous, there at once.
        take = (NUMBERS["mmap"], 0, size, 3, 0x8022, -1, 0)
        programs["memory"] = program([take, (NUMBERS["poll"], 0, 0, _TAKEN_MS)])
    if limits["disk"] is not None and (directory := _in_memory(policy)):
        name, flags = os.fsencode(f"{directory}/.skerry-verify") + b"\0", os.O_CREAT | os.O_RDWR
        new = (NUMBERS["openat"], _AT_FDCWD, name, flags, 0o600)
        programs["disk"] = program([new, (NUMBERS["fallocate"], RESULT, 0, 0, limits["disk"] + _DISK_BEYOND)])
    return programs


def _in_memory(policy: Policy) -> str | None:
    """A directory in which what is written is kept in memory."""
    said = policy["files"]
    places = [*said["temporary"], *(path for path in said["private"] if os.path.isdir(path))]
    found = next((path for path in places if _compile.kind_of(policy, path) in ("temporary", "private")), None)
    return found or ("/tmp" if said["default"] == "private" else None)  # noqa: S108  # inside


def _resources(engine: str, policy: Policy, place: _Place) -> list[Row]:
    """Each in a sandbox of its own, as what takes all of something leaves nothing for what is tried next."""
    said = policy["resources"]
    rows = []
    tried = {
        "memory": (("mmap", "poll"), "take more", "is ended", _take_memory),
        "cpus": ((), "compute with more programs", "no more time", _take_time),
        "processes": (("fork", "pause"), "make more", "EAGAIN", _take_processes),
        "disk": (("openat", "fallocate"), "write more", "ENOSPC", _take_disk),
        "wall_time": (("pause",), "wait for ever", "is ended", _take_long),
    }
    for key, (needed, text, expected, take) in tried.items():
        if said[key] is None:
            continue
        clause = f"resources.{key}"
        denied = [name for name in needed if not _may_call(policy, name)]
        if denied:
            rows.append(Row(engine, clause, text, expected, f"the policy does not allow {denied[0]}", None))
            continue
        with place.sandbox() as sandbox:
            found, held = take(sandbox, policy, place)
        rows.append(Row(engine, clause, text, expected, found, held))
    return rows


def _take_memory(sandbox: Any, policy: Policy, place: _Place) -> tuple[str, bool | None]:
    size = _values.size(policy["resources"]["memory"], "resources.memory")
    if size > _host.host_memory() // 2:
        return "not tried: it is more than half of the host's", None
    result = sandbox.run([f"{place.listed}/memory"], timeout=30)
    if result.signal == 9:
        return "was ended", True
    return ("none was given", True) if result.returncode == SETUP else ("it was given", False)


def _take_time(sandbox: Any, policy: Policy, place: _Place) -> tuple[str, bool | None]:
    cpus = float(policy["resources"]["cpus"])
    if cpus >= (os.cpu_count() or 1):
        return "not tried: the host has no more", None
    start = time.monotonic()
    spinners = [sandbox.spawn([f"{place.listed}/spin"]) for _ in range(int(cpus) + 1)]
    time.sleep(_SPIN_S)
    for spinner in spinners:
        spinner.kill()
    took = 0
    for spinner in spinners:
        spinner.wait(30)
        usage = spinner.usage
        took += 0 if usage is None else usage.user_ns + usage.system_ns
    had = took / 1e9 / (time.monotonic() - start)
    return f"{had:.2f} CPUs", had <= max(cpus, 0.1) * _CPUS_TOLERANCE


def _take_processes(sandbox: Any, policy: Policy, place: _Place) -> tuple[str, bool | None]:
    if policy["resources"]["processes"] > _PROCESSES_TRIED:
        return f"not tried: it is more than {_PROCESSES_TRIED}", None
    from ..sandbox import DEVNULL

    # What it makes lives on with its streams.
    status = sandbox.spawn([f"{place.listed}/forks"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL).wait(60)
    return ("they were made", False) if status == 0 else (_errno.errorcode.get(status, str(status)), status == _errno.EAGAIN)


def _take_disk(sandbox: Any, policy: Policy, place: _Place) -> tuple[str, bool | None]:
    if "disk" not in place.programs:
        return "not tried: nothing is kept in memory", None
    status = sandbox.run([f"{place.listed}/disk"], timeout=60).returncode
    if status in (SETUP, _errno.EOPNOTSUPP):
        return "could not be tried", None
    return ("it was written", False) if status == 0 else (_errno.errorcode.get(status, str(status)), status == _errno.ENOSPC)


def _take_long(sandbox: Any, policy: Policy, place: _Place) -> tuple[str, bool | None]:
    try:
        sandbox.run([f"{place.listed}/wait"], timeout=0.2)
    except errors.TimeoutExpired:
        return "was ended", True
    return "it ended", False


def _environment(sandbox: Any, engine: str, policy: Policy) -> list[Row]:
    inside = {str(entry).partition("=")[0] for entry in sandbox._options.command_environment(None)}
    rows = []
    for name in policy["environment"]["set"]:
        rows.append(
            Row(engine, "environment.set", name, "is there", "is there" if name in inside else "is not", name in inside)
        )
    if policy["environment"]["inherit"] != "all":
        allowed = {*policy["environment"]["set"], *policy["secrets"], "PATH", "PWD"}
        foreign = [name for name in os.environ if name not in allowed and name in inside and not _is_kept(policy, name)]
        found = ", ".join(foreign) or "none of them"
        rows.append(Row(engine, "environment.inherit", "your other variables", "are not there", found, not foreign))
    for name, secret in policy["secrets"].items():
        if "path" not in secret:
            rows.append(
                Row(engine, f"secrets.{name}", name, "is there", "is there" if name in inside else "is not", name in inside)
            )
    return rows


def _is_kept(policy: Policy, name: str) -> bool:
    import fnmatch

    from .._options import KEPT_PREFIX, KEPT_VARIABLES

    said = policy["environment"]
    usual = said["inherit"] == "kept" and (name in KEPT_VARIABLES or name.startswith(KEPT_PREFIX))
    return usual or any(fnmatch.fnmatchcase(name, kept) for kept in said["keep"])
