"""What an engine is: something that makes a wall and answers the control protocol behind it.

Every engine is asked in the same way: `capabilities` says what it can enforce at all, `probe` what this host grants it,
`start` makes a guest, whose `client` speaks the control protocol (boot first) and whose `close` takes everything away.
An option that the engine cannot enforce is an error that names both, never ignored.
"""

from __future__ import annotations

from ..errors import EngineNotBuilt, EngineUnavailable, SkerryError, Unenforceable, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from typing import Any, Protocol

    from .._options import Options
    from ..control.client import Client
    from ..errors import SandboxError

    class Guest(Protocol):
        """One running sandbox. `client` speaks to it; `close` ends it and leaves nothing behind."""

        client: Client

        @property
        def pid(self) -> int:
            """The host's process id of the engine."""

        def close(self) -> None: ...

        def hand_over(self) -> dict[str, Any]:
            """After the client's last request: what another program in our place needs (state.rs of the attendant)."""

    class Engine(Protocol):
        """Makes guests."""

        name: str

        @property
        def capabilities(self) -> Capabilities: ...

        def boot(self, options: Options) -> dict[str, Any]:
            """The parameters of the `boot` request."""

        def update(self, memory: int | None, cpus: float | None) -> Iterable[dict[str, Any]]:
            """The parameters of the `update` requests that change limits while it runs; those were given at the start. Each is
            asked for when the one before it has been answered; after a failure no more are.
            """

        def probe(self) -> Probe:
            """Whether it works on this host. To be tried, not guessed, and without a trace."""

        def start(
            self,
            boot: Mapping[str, Any],
            on_event: Callable[[Mapping[str, Any]], None],
            on_end: Callable[[SandboxError], None],
        ) -> Guest:
            """Starts a guest that has not been booted yet; the caller sends `boot` as the first request."""


class Capabilities:
    """What an engine can enforce. `refuses`: options that it cannot hold on any host, each with the reason. `runs`: "programs"
    of Linux, or "unikernels", which alone have devices.
    """

    __slots__ = ("level", "refuses", "runs")

    def __init__(self, level: int, refuses: Mapping[str, str] | None = None, *, runs: str = "programs") -> None:
        self.level = level
        self.refuses = refuses or {}
        self.runs = runs


class Probe:
    """What the host grants an engine: `why` not, and how to `mend` it, where it is not usable."""

    __slots__ = ("mend", "usable", "why")

    def __init__(self, usable: bool, why: str = "", mend: str = "") -> None:
        self.usable = usable
        self.why = why
        self.mend = mend


#: Refused by engines that have no network but their own.
NO_NETWORK_OUTSIDE = {
    "network user": "there is no network outside of the sandbox; use the engine 'microvm'",
    "network.domains": "there is no network outside of the sandbox, so no name is resolved; use the engine 'microvm'",
    "network.addresses": "there is no network outside of the sandbox; use the engine 'microvm'",
}


def told_where_asked(boot: dict[str, Any], options: Options) -> dict[str, Any]:
    """Where the host's kernel answers the calls, they are looked at only if somebody listens: it costs each of them time."""
    if not options.listened:
        boot.pop("observe", None)
    elif "observe" not in boot:
        boot["observe"] = "refusals"
    return boot


def probe_by_boot(name: str, mend: str) -> Probe:
    """Whether a sandbox of the engine `name` boots here; `mend` is told where none does."""
    from ..sandbox import Sandbox

    try:
        with Sandbox(engine=name):
            return Probe(True)
    except SkerryError as error:
        return Probe(False, str(error), mend)


#: Each engine: name, isolation level, the wall, whether it is built. The levels: 1, the host's kernel decides by rules; 2, it
#: shows a system of its own; 3, another kernel answers the application; 4, on virtual hardware.
ENGINES = (
    ("sentry", 3, "a guest kernel in user space answers the application's system calls", True),
    ("kvm", 4, "the same guest kernel, the application behind virtual hardware", False),
    ("microvm", 4, "a Linux guest under a virtual machine monitor (level 3 without kvm)", True),
    ("uml", 3, "User Mode Linux: a kernel as a process, in a jail", True),
    ("unikernel", 4, "a library operating system over at most nine host calls", True),
    ("namespace", 2, "namespaces, cgroups, capabilities and seccomp", True),
    ("rules", 1, "seccomp, Landlock and security labels on a plain process", True),
)

LEVELS = (1, 2, 3, 4)

AUTO = "auto"


def engine(name: str, options: Options | None = None) -> Engine:
    """The engine of that name, for these options."""
    if name == "sentry":
        from .sentry import SentryEngine

        return SentryEngine()
    if name == "namespace":
        from .namespace import NamespaceEngine

        return NamespaceEngine()
    if name == "rules":
        from .rules import RulesEngine

        return RulesEngine()
    if name == "microvm":
        from .microvm import MicrovmEngine

        return MicrovmEngine() if options is None else MicrovmEngine(options.accel, options.vmm, options.snapshot)
    if name == "uml":
        from .uml import UmlEngine

        return UmlEngine()
    if name == "unikernel":
        from .unikernel import UnikernelEngine

        return UnikernelEngine()
    if any(name == row[0] for row in ENGINES):
        raise EngineNotBuilt(f"the engine {name!r} is not built yet; use 'sentry'")
    raise UsageError(f"there is no engine {name!r}; 'skerry engines' lists them", option="engine")


def chosen(options: Options) -> Engine:
    """The engine that the options name, or for "auto" the one of the highest level that can run them here."""
    if options.engine == AUTO:
        return _highest(options)
    found = engine(options.engine, options)
    problem = _refusal(found, options.given, options.min_isolation)
    if problem is not None:
        raise problem
    return found


#: Options that only a virtual machine has.
_OF_MACHINES = dict.fromkeys(
    ("accel", "vmm", "snapshot", "root_image"), "it is about virtual machines; use the engine 'microvm'"
)


def _refusal(found: Engine, given: Collection[str], min_isolation: int) -> Unenforceable | None:
    can = found.capabilities
    if can.level < min_isolation:
        return Unenforceable(
            "min_isolation",
            found.name,
            f"its level is {can.level}, and {min_isolation} was asked for; use an engine of that level",
        )
    for device in ("block", "net"):
        if device in given and can.runs != "unikernels":
            return Unenforceable(device, found.name, "programs see files and sockets; devices are for --engine unikernel")
    refuses = can.refuses if found.name == "microvm" else {**can.refuses, **_OF_MACHINES}
    for option, why in refuses.items():
        if option in given or any(clause.startswith(f"{option}.") for clause in given):
            return Unenforceable(option.split()[0], found.name, why)
    return None


def _highest(options: Options) -> Engine:
    reasons = []
    engines = [engine(name, options) for name, _, _, built in ENGINES if built]
    for found in sorted(engines, key=lambda one: -one.capabilities.level):
        name = found.name
        if found.capabilities.runs != "programs":
            continue  # asked for by name only
        problem = _refusal(found, options.given, options.min_isolation)
        if problem is not None:
            reasons.append(f"{name}: {problem}")
            continue
        probe = found.probe()
        if probe.usable:
            return found
        reasons.append(f"{name}: {probe.why}")
    raise EngineUnavailable("no engine can run this here:\n  " + "\n  ".join(reasons))
