"""`skerry machines`: what is kept for virtual machines: kernels, first file systems, and snapshots."""

from __future__ import annotations

import os

from .. import errors
from ..vmm import kernel, store
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = [
    Option("--fetch-kernel", "fetch", None, "bring the distribution's kernel for machines, by apt, without installing it"),
    Option("--delete", "delete", "NAME|all", "take away what is kept under that name", many=True),
    Option("-h --help", "help", None, "print this text"),
]

_NOTE = """What is deleted is made again when it is needed. Root's --fetch-kernel is for everybody (/var/lib/skerry/kernels),
an ordinary user's for that user. SKERRY_KERNEL names a kernel elsewhere."""


def run(arguments: Sequence[str]) -> int:
    """Fetches, deletes, or lists."""
    values, _ = parse(_OPTIONS, arguments, operands=False)
    if values.get("help"):
        print(help_text("skerry machines [OPTIONS]", "Lists what is kept for virtual machines.", _OPTIONS, _NOTE))
        return 0
    if values.get("fetch"):
        print(kernel.fetch().path)
        return 0
    names: list[str] = values["delete"]  # type: ignore[assignment]
    if names:
        kept = [name for name, _, _ in store.listed()]
        for name in kept if "all" in names else names:
            if not store.delete(name):
                raise errors.UsageError(f"nothing is kept under the name {name!r}; 'skerry machines' lists what is")
        return 0
    try:
        found = kernel.find()
        print(f"kernel in use: {found.path} (modules: {found.modules})")
    except errors.EngineUnavailable as error:
        print(f"kernel in use: none: {error}")
    print(f"kept in {store.directory()}:")
    for name, size, about in store.listed():
        print(f"  {name:<34}{size / (1 << 20):>7.1f} MiB  {about}".rstrip())
    for place in kernel.fetched_directories():
        for release in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            if not release.startswith("."):
                print(f"fetched: {os.path.join(place, release)}")
    return 0
