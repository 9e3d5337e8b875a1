"""What each engine supplies to the suite: its name, and what it cannot do, by name. Everything else is the same for all."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
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
    #: Its guests have a kernel of their own, which takes a second or two to come up.
    boots: bool = False
    options: dict[str, str] = field(default_factory=dict)

    def need(self, feature: str) -> None:
        """Leaves out a test of what the engine says that it cannot do."""
        if feature in self.cannot:
            pytest.skip(f"{self.name} cannot: {feature}: {self.cannot[feature]}")


SOURCES = Path(__file__).parent / "unikernel"
CFLAGS = (
    "-std=gnu11 -O1 -ffreestanding -fno-pic -no-pie -nostdlib -static -fno-stack-protector -fcf-protection=none "
    "-fno-asynchronous-unwind-tables -Wall -Werror -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 -Wl,--build-id=none"
).split()

VARIANTS = {
    "tasks": [],
    "storage": ["-DWITH_STORAGE"],
    "devices": ["-DWITH_DEVICES"],
    "hvt-tasks": ["-DTARGET=1"],
    "hvt-storage": ["-DTARGET=1", "-DWITH_STORAGE"],
    "hvt-devices": ["-DTARGET=1", "-DWITH_DEVICES"],
    "virtio": ["-DTARGET=3"],
    "old": ["-DVERSION=1"],
}

NO_KERNEL = "no kernel of its own"
NO_KERNEL_OF_OURS = "its kernel is Linux's own"
NO_NAMESPACE = "no namespace of its own"
NO_CARD = "no network card"

ENGINES = [
    Traits("sentry", {"network user": NO_CARD}),
    Traits("namespace", {"trace": NO_KERNEL, "profile": NO_KERNEL, "network user": NO_CARD}),
    Traits(
        "uml",
        {
            "trace": NO_KERNEL_OF_OURS,
            "profile": NO_KERNEL_OF_OURS,
            "overlay_dir": "hostfs has no extended attributes",
            "network user": NO_CARD,
        },
        boots=True,
    ),
    Traits(
        "microvm",
        {
            "trace": NO_KERNEL_OF_OURS,
            "profile": NO_KERNEL_OF_OURS,
            "overlay_dir": "what is written stays in the guest's memory",
        },
        boots=True,
        options={"accel": "tcg"},
    ),
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
            "network user": NO_CARD,
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
    return lambda **options: skerry.Sandbox(engine=traits.name, **traits.options, **options)


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
        own = [word for name, value in traits.options.items() for word in (f"--{name}", value)]
        return caller.do(["--engine", traits.name, *own, *options], words, **rest)

    return run


@pytest.fixture(scope="session")
def built_images(native_only: bool) -> Iterator[Path]:
    """A directory of images that everybody can read; SKERRY_TEST_IMAGES: it is there already."""
    if native_only:
        pytest.skip("--native-only")
    if there := os.environ.get("SKERRY_TEST_IMAGES"):
        yield Path(there)
        return
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="skerry-test-") as directory:
        os.chmod(directory, 0o755)
        for name, flags in VARIANTS.items():
            output = ["-o", f"{directory}/{name}"]
            subprocess.run(
                ["gcc", *CFLAGS, *flags, f"-Wl,-T,{SOURCES}/image.ld", str(SOURCES / "tasks.c"), *output],
                check=True,
                timeout=60,
            )
        yield Path(directory)


@pytest.fixture(scope="session")
def images(native_only: bool, built_images: Path) -> Path:
    """The same, where the engine can be used."""
    harness.usable_engine("unikernel")
    return built_images
