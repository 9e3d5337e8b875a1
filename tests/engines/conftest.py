"""What each engine supplies to the suite: its name, and what it cannot do, by name. Everything else is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

import harness
import skerry


@dataclass(frozen=True)
class Traits:
    """An engine under test. `cannot`: features that it refuses or lacks, each with the reason."""

    name: str
    cannot: dict[str, str] = field(default_factory=dict)


ENGINES = [
    Traits("sentry"),
    Traits("namespace", {"trace": "no kernel of its own", "profile": "no kernel of its own"}),
]


@pytest.fixture(params=ENGINES, ids=lambda traits: traits.name, scope="session")
def traits(request: pytest.FixtureRequest, native_only: bool) -> Traits:
    if native_only:
        pytest.skip("--native-only")
    return request.param


@pytest.fixture
def make(traits: Traits) -> Callable[..., skerry.Sandbox]:
    """A sandbox of the engine, by `Sandbox`'s own options."""
    return lambda **options: skerry.Sandbox(engine=traits.name, **options)


@pytest.fixture
def do(traits: Traits, caller: harness.Caller) -> Callable[..., harness.Completed]:
    """`skerry do` with the engine, as root and as nobody."""

    def run(*words: str, options: tuple[str, ...] = (), **rest: object) -> harness.Completed:
        rest.setdefault("cwd", "/")
        return caller.do(["--engine", traits.name, *options], words, **rest)

    return run
