"""What an engine is: something that makes a wall and answers the control protocol behind it."""

from __future__ import annotations

from ..errors import EngineNotBuilt, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from ..control.client import Client
    from ..errors import SandboxError

    class Guest(Protocol):
        """One running sandbox. `client` speaks to it; `close` ends it and leaves nothing behind."""

        client: Client

        def close(self) -> None: ...

        def hand_over(self) -> dict[str, Any]:
            """After the client's last request: what another program in our place needs (state.rs of the attendant)."""

    class Engine(Protocol):
        """Makes guests. An option that the engine cannot enforce is an error that names it, never ignored."""

        name: str

        def start(
            self,
            boot: Mapping[str, Any],
            on_event: Callable[[Mapping[str, Any]], None],
            on_end: Callable[[SandboxError], None],
        ) -> Guest:
            """Starts a guest that has not been booted yet; the caller sends `boot` as the first request."""


#: Each engine: name, the wall, whether it is built.
ENGINES = (
    ("sentry", "a guest kernel in user space answers the application's system calls", True),
    ("kvm", "the same guest kernel, the application behind virtual hardware", False),
    ("microvm", "a Linux guest under a virtual machine monitor", False),
    ("uml", "User Mode Linux", False),
    ("unikernel", "a library operating system over a handful of host calls", False),
    ("namespace", "namespaces, cgroups, capabilities and seccomp", False),
    ("rules", "seccomp, Landlock and security labels on a plain process", False),
)


def engine(name: str) -> Engine:
    """The engine of that name."""
    if name == "sentry":
        from .sentry import SentryEngine

        return SentryEngine()
    if any(name == known for known, _, _ in ENGINES):
        raise EngineNotBuilt(f"the engine {name!r} is not built yet; use 'sentry'")
    raise UsageError(f"there is no engine {name!r}; 'skerry engines' lists them", option="engine")
