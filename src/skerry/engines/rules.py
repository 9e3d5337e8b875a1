"""The `rules` engine: a plain process of the host, held by seccomp, Landlock and rlimits. No privilege, no namespace."""

from __future__ import annotations

import os

from .. import errors
from ..control import messages
from .base import Capabilities, Probe, probe_by_boot
from .namespace import PROGRAM
from .sentry import ProgramGuest, find_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from .._options import Options

#: Devices that do no harm.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

#: Of what the kernel shows: what tells of the machine, and nothing that tells what happens on it.
_SYSTEM = ("bus", "block", "class", "dev", "devices", "fs/cgroup", "kernel/mm")

#: Directories of / that are not granted as they are.
_NOT_WHOLE = ("dev", "sys")


class RulesEngine:
    """Starts agents, each the parent of one guest's processes."""

    name = "rules"
    capabilities = Capabilities(
        level=1,
        refuses={
            "read_only to another place": "programs see the host's files, in their own places",
            "hide": "Landlock grants what is below a path and takes nothing out of it; a policy can grant less",
            "tmpfs": "it takes a mount namespace",
            "overlay_dir": "it takes a mount namespace; writes are denied outside of 'read_write'",
            "hostname": "it takes a namespace",
            "network loopback": "a loopback interface of its own takes a namespace",
            "files.private": "writes kept in memory take a mount namespace; name what is to be written to (files.read_write)",
            "files.hidden": "Landlock grants what is below a path and takes nothing out of it; a policy can grant less",
            "network.domains": "there is no network outside of the sandbox yet, so no name is resolved",
            "network.addresses": "there is no network outside of the sandbox yet",
            "trace": "the host's kernel answers system calls, and tells nobody of them",
            "profile": "there is no guest kernel between programs and the host's files",
        },
    )

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it: the host's tree to be read, a directory of its own and `read_write` to be written to."""
        boot = options.boot_message()
        said = boot.get("rules", {})
        if options.policy is not None:
            # The root, its links and what is in memory are mounts, which there are none of.
            boot["mounts"] = [mount for _, mount in options.mounts]
        shown = [mount for mount in boot["mounts"] if mount["type"] in ("host_read_only", "host_read_write")]
        writable = [messages.read_bytes(mount["target"]) for mount in shown if mount["type"] == "host_read_write"]
        for mount in shown:
            path = messages.read_bytes(mount["target"])
            above = [place for place in writable if place != path and f"{path}/".startswith(f"{place.rstrip('/')}/")]
            if mount["type"] == "host_read_only" and above:
                raise errors.Unenforceable(
                    "read_only", self.name, f"{path} is below {above[0]}, which is writable with all that is in it"
                )
        boot["mounts"] = [messages.mount_host("/", "/", writable=False), *shown]
        boot["network"] = options.network or "none"
        boot["limits"]["memory_files"] = None
        files = [*readable()]
        if options.policy is not None:
            from ..policy import _compile

            files = _compile.landlock_files(options.policy, files, devices())
            if options.probes:
                files.append(messages.file_rule(options.probes, messages.READ_RIGHTS))
                rights = [right for right in messages.READ_RIGHTS if right != "execute" or _compile.starts_all(options.policy)]
                files.append(messages.file_rule(options.probes_readable, rights))
        boot["rules"] = messages.rules(
            files=[*files, *(messages.file_rule(path, messages.READ_RIGHTS + messages.WRITE_RIGHTS) for path in writable)],
            ports=said.get("ports"),
            calls=said.get("calls"),
            scopes=messages.SCOPES,
            temporary=True,
        )
        return boot

    def probe(self) -> Probe:
        """By a guest that boots."""
        return probe_by_boot(
            self.name, "use Linux from 6.12 on with 'landlock' in its lsm= list, and not inside of an LXD or sysbox container"
        )

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> ProgramGuest:
        """An agent that waits for its `boot`. Of the caller's environment it gets nothing."""
        command = [find_beside(PROGRAM), "--engine", self.name]
        return ProgramGuest(command, {}, f"the guest's parent ({PROGRAM})", on_event, on_end)


def readable() -> Iterator[dict[str, Any]]:
    """Rules that let the host's tree be read, but for devices. Landlock takes nothing out of what it grants, so each
    directory of / is granted by itself, and / cannot be listed.
    """
    with os.scandir("/") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.is_symlink() and entry.name not in _NOT_WHOLE:
                yield messages.file_rule(entry.path, messages.READ_RIGHTS)
    yield from devices()


def devices() -> Iterator[dict[str, Any]]:
    """What every program may use of devices and of what the kernel shows."""
    for name in _SYSTEM:
        yield messages.file_rule(f"/sys/{name}", messages.READ_RIGHTS)
    for name in _DEVICES:
        yield messages.file_rule(f"/dev/{name}", ("read_file", "write_file", "truncate", "ioctl_dev"))
    yield messages.file_rule("/dev/fd", ("read_dir",))
