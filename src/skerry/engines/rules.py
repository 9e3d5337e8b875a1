"""The `rules` engine: a plain process of the host, held by seccomp, Landlock and rlimits. No privilege, no namespace."""

from __future__ import annotations

import os

from .. import errors
from ..control import messages
from .base import Capabilities, Probe, probe_by_boot, told_where_asked
from .namespace import start_agent
from .sentry import ProgramGuest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from .._options import Options

#: Devices that do no harm.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

#: Of what the kernel shows: what tells of the machine, and nothing that tells what happens on it.
_SYSTEM = ("bus", "block", "class", "dev", "devices", "fs/cgroup", "kernel/mm")

#: Written by the engines that have a tree of their own; here the host's are what they are.
_NAMES = ("/etc/hosts", "/etc/hostname")

#: Kinds of mounts, with what may be done below each. What the others would show is not there: nothing may be done.
_RIGHTS = {
    "overlay": messages.READ_RIGHTS,
    "proc": messages.READ_RIGHTS,
    "host_read_only": messages.READ_RIGHTS,
    "host_read_write": messages.READ_RIGHTS + messages.WRITE_RIGHTS,
}


class RulesEngine:
    """Starts agents, each the parent of one guest's processes."""

    name = "rules"
    capabilities = Capabilities(
        level=1,
        refuses={
            "read_only to another place": "programs see the host's files, in their own places",
            "files.private": "writes cannot be kept apart without a mount namespace; say read_write, read_only, or private_or",
            "resources.disk": "what is written goes to the host's disk, and nobody counts it; say wall_time, or use namespace",
            "tmpfs": "it takes a mount namespace",
            "overlay_dir": "it takes a mount namespace; writes are denied outside of 'read_write'",
            "hostname": "it takes a namespace",
            "network user": "there are no sockets but for the TCP ports that a policy grants; use the engine 'microvm'",
            "network.domains": "there are no sockets but for the TCP ports that a policy grants",
            "network.addresses": "there are no sockets but for the TCP ports that a policy grants",
            "network loopback without ports": "an interface of its own takes a namespace",
            "trace": "the host's kernel answers system calls, and tells nobody of them",
            "profile": "there is no guest kernel between programs and the host's files",
        },
    )

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it: the mounts that other engines make become rights on the host's own files."""
        boot = told_where_asked(options.boot_message(), options)
        said = boot.get("rules", {})
        # A policy's loopback without ports: less is served.
        network = options.network or ("loopback" if "ports" in said else "none")
        if network == "none":
            said = {name: rule for name, rule in said.items() if name != "ports"}
        elif "ports" not in said:
            why = "an interface of its own takes a namespace; a policy can name ports (network.connect, network.bind)"
            raise errors.Unenforceable("network", self.name, why)
        names = [os.path.realpath(name) for name in _NAMES]
        mounts = [(messages.read_bytes(mount["target"]), mount) for mount in boot["mounts"]]
        shown = {place: mount for place, mount in mounts if mount["type"] != "file" or place not in names}
        files = list(_granted(shown, self.name))
        temporary: tuple[str, ...] = messages.READ_RIGHTS + messages.WRITE_RIGHTS
        if "files" in said:
            # Of programs only these are started.
            temporary = tuple(right for right in temporary if right != "execute")
            programs = [rule for rule in said["files"] if rule["rights"] == ["execute"]]
            files = [{**rule, "rights": [right for right in rule["rights"] if right != "execute"]} for rule in files]
            files = [*(rule for rule in files if rule["rights"]), *programs]
        boot["mounts"] = [messages.mount_host("/", "/", writable=False)]
        boot["network"] = network
        boot["limits"]["memory_files"] = None
        if not {"pids", "resources.processes"} & set(options.given):
            # Moving into a cgroup takes longer than all the rest of the start.
            boot["limits"]["pids"] = None
        boot["rules"] = {**said, **messages.rules(files=files, scopes=messages.SCOPES, temporary=temporary)}
        return boot

    def update(self, memory: int | None, cpus: float | None) -> list[dict[str, Any]]:
        """Its groups take other limits, and nothing else has to know of them."""
        return [messages.update(memory=memory, cpus=cpus)]

    def probe(self) -> Probe:
        """By a guest that boots."""
        return probe_by_boot(
            self.name, "use Linux from 5.19 on with 'landlock' in its lsm= list, and not inside of an LXD or sysbox container"
        )

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> ProgramGuest:
        """An agent that waits for its `boot`."""
        return start_agent(self.name, "parent", on_event, on_end)


def _granted(mounts: Mapping[str, Mapping[str, Any]], engine: str) -> Iterator[dict[str, Any]]:
    """Rules for what the mounts, by their places, would show and let be written."""
    places: dict[str, tuple[str, ...]] = {}
    for place, mount in mounts.items():
        if mount["type"] == "file":
            raise errors.Unenforceable("secrets", engine, f"a file at {place} takes a mount namespace; give it as a variable")
        if mount["type"] != "symlink":
            places[place] = _RIGHTS.get(mount["type"], ())
    for place, rights in places.items():
        if rights:
            yield from _grant(place, rights, places, engine)
    for name in _SYSTEM:
        yield messages.file_rule(f"/sys/{name}", messages.READ_RIGHTS)
    for name in _DEVICES:
        yield messages.file_rule(f"/dev/{name}", ("read_file", "write_file", "truncate", "ioctl_dev"))


def _grant(path: str, rights: tuple[str, ...], places: Mapping[str, tuple[str, ...]], engine: str) -> Iterator[dict[str, Any]]:
    """Landlock takes nothing out of what it grants: where less may be done to something below, each entry of the directory is
    granted by itself, and the directory cannot be listed.
    """
    below = f"{path.rstrip('/')}/"
    less = [place for place in places if place.startswith(below) and place != path and not set(rights) <= set(places[place])]
    if not less:
        yield messages.file_rule(path, rights)
        return
    if set(rights) & set(messages.WRITE_RIGHTS):
        why = f"{less[0]} is below {path}, which is writable with all that is in it"
        raise errors.Unenforceable("read_only" if places[less[0]] else "hide", engine, why)
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.path for entry in entries if not entry.is_symlink())
    except OSError:
        return  # neither can the program list it
    for name in names:
        if name not in places:
            yield from _grant(name, rights, places, engine)
