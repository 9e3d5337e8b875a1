"""What each engine supplies to the suite: its name, and what it cannot do, by name. Everything else is the same for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import harness
import skerry


@dataclass(frozen=True)
class Traits:
    """An engine under test. `cannot`: features that it refuses or lacks, each with the reason."""

    name: str
    cannot: dict[str, str] = field(default_factory=dict)

    def need(self, feature: str) -> None:
        """Leaves out a test of what the engine says that it cannot do."""
        if feature in self.cannot:
            pytest.skip(f"{self.name} cannot: {feature}: {self.cannot[feature]}")


NO_KERNEL = "no kernel of its own"
NO_NAMESPACE = "no namespace of its own"

ENGINES = [
    Traits("sentry"),
    Traits("namespace", {"trace": NO_KERNEL, "profile": NO_KERNEL}),
    Traits(
        "rules",
        {
            # Options, which it refuses by name.
            "trace": NO_KERNEL,
            "profile": NO_KERNEL,
            "hostname": NO_NAMESPACE,
            "read_only to another place": NO_NAMESPACE,
            "tmpfs": NO_NAMESPACE,
            "overlay_dir": NO_NAMESPACE,
            "network loopback": NO_NAMESPACE,
            # The rest.
            "a tree of its own": "it is the host's, read-only",
            "numbers of its own": "processes and terminals have the host's",
            "users of its own": "an ordinary caller does not appear as root",
            "sockets between programs": "without ports in its rules there are none, and sockets by path cannot be held",
            "shared memory": "System V IPC is everybody's, and denied",
        },
    ),
    Traits("unikernel", {"programs of Linux": "it runs images, of which test_unikernel.py asks the same"}),
]


@pytest.fixture(params=ENGINES, ids=lambda traits: traits.name, scope="session")
def traits(request: pytest.FixtureRequest, native_only: bool) -> Traits:
    if native_only:
        pytest.skip("--native-only")
    harness.usable_engine(request.param.name)
    return request.param


@pytest.fixture
def make(traits: Traits) -> Callable[..., skerry.Sandbox]:
    """A sandbox of the engine, by `Sandbox`'s own options."""
    return lambda **options: skerry.Sandbox(engine=traits.name, **options)


@pytest.fixture
def writable(traits: Traits, tmp_path: Path) -> tuple[dict[str, object], str]:
    """Options, and a directory that programs can write to with them."""
    if "a tree of its own" in traits.cannot:
        return {"read_write": [tmp_path]}, os.path.realpath(tmp_path)
    return {}, "/tmp"  # inside the sandbox


@pytest.fixture
def do(traits: Traits, caller: harness.Caller) -> Callable[..., harness.Completed]:
    """`skerry do` with the engine, as root and as nobody."""

    def run(*words: str, options: tuple[str, ...] = (), **rest: object) -> harness.Completed:
        rest.setdefault("cwd", "/")
        return caller.do(["--engine", traits.name, *options], words, **rest)

    return run
