"""Whether hardware runs the guest's code (kvm), or QEMU does (tcg).

A /dev/kvm that opens proves nothing: there are hosts whose KVM is software of its own, where stock kernels do not come up. So
`auto` boots a kernel, once, in bounded time, and remembers what came of it as long as nothing that it depends on has changed.
"""

from __future__ import annotations

import os

from .. import _host
from ..errors import Unenforceable
from . import store

ACCELS = ("auto", "kvm", "tcg")
KVM = "/dev/kvm"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How long the kernel of the trial may take to its init; with hardware it takes a tenth of that.
_PATIENCE = 6.0

#: A number: hosts that are that much slower (machines in machines) wait that much longer for a machine to come up.
PATIENCE = "SKERRY_PATIENCE"

#: What the agent says where it is not told of a channel: the kernel is up and has started it.
_SIGN = b"skerry-agent"


class Choice:
    """What holds: `accel` is "kvm" or "tcg", and `why` not kvm."""

    __slots__ = ("accel", "why")

    def __init__(self, accel: str, why: str = "") -> None:
        self.accel = accel
        self.why = why


def chosen(wanted: str, program: Callable[[], str], files: Callable[[], tuple[str, str]]) -> Choice:
    """What `wanted` comes to on this host; kvm that was asked for by name and does not work is an error."""
    why = _trouble(program, files)
    if not why:
        return Choice("kvm")
    if wanted == "kvm":
        raise Unenforceable("accel", "microvm", f"kvm does not work here: {why}")
    return Choice("tcg", why)


def _trouble(find_program: Callable[[], str], files: Callable[[], tuple[str, str]]) -> str:
    """Why there is no kvm, or nothing."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{KVM}: {error.strerror}"
    program, (image, initramfs) = find_program(), files()
    path = os.path.join(store.directory(), "trial.json")
    key = store.name_of(identity(program), image, os.stat(KVM).st_rdev, _boot(), os.geteuid())
    remembered = _remembered(path)
    if remembered.get("key") != key:
        remembered = {"key": key, "why": _trial(program, image, initramfs)}
        import json

        part = f"{path}.{os.getpid()}.part"
        with open(part, "w", encoding="utf-8") as file:
            json.dump(remembered, file)
        os.rename(part, path)
    return remembered["why"]


def _remembered(path: str) -> dict[str, str]:
    import json

    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return {name: str(found[name]) for name in ("key", "why")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _trial(program: str, image: str, initramfs: str) -> str:
    """A machine with nothing of the caller's in it, booted until its init has said a word."""
    import select
    import subprocess
    import time

    words = [
        program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35", "-accel", "kvm",
        "-cpu", "host",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-m", "192M", "-kernel", image, "-initrd", initramfs, "-serial", "stdio",
        "-append", "console=ttyS0 quiet reboot=t panic=-1 -- --engine guest",
    ]  # fmt: skip
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        return f"{program}: {error.strerror}"
    said = b""
    seconds = patient(_PATIENCE)
    deadline = time.monotonic() + seconds
    assert process.stdout is not None
    try:
        while _SIGN not in said and (left := deadline - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left)[0]:
                break
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            said = (said + data)[-(1 << 16) :]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if _SIGN in said:
        return ""
    last = said.decode("utf-8", "backslashreplace").strip().rpartition("\n")[2][-200:]
    return f"a kernel that was started with it did not come up in {seconds:g} s" + (f": {last}" if last else "")


def patient(time: float) -> float:
    """As long as that, or longer where the environment says so (SKERRY_PATIENCE)."""
    try:
        return time * min(max(float(os.environ.get(PATIENCE) or 1), 1), 1000)
    except ValueError:
        return time


def identity(path: str) -> str:
    """Changes whenever the file does."""
    found = os.stat(path)
    return f"{path} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_rdev}"


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def counter_khz() -> int:
    """How fast the time stamp counter goes, which under tcg is the host's: half of what Linux calls bogomips; 0: not known."""
    try:
        return int(float(_host.processor().get("bogomips", "0")) * 500)
    except ValueError:
        return 0
