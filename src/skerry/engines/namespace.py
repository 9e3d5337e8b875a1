"""The `namespace` engine: the host's kernel, which shows the guest a system of its own. `skerry-agent` is the guest's init."""

from __future__ import annotations

import os
import sys

from .. import errors
from ..control import messages
from .base import NO_NETWORK_OUTSIDE, Capabilities, Probe, probe_by_boot, told_where_asked
from .sentry import ProgramGuest, find_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .._options import Options

PROGRAM = "skerry-agent"


class NamespaceEngine:
    """Starts agents, each the init of one guest."""

    name = "namespace"
    capabilities = Capabilities(
        level=2,
        refuses={
            "trace": "the host's kernel answers system calls, and tells nobody of them",
            **NO_NETWORK_OUTSIDE,
            "profile": "there is no guest kernel between programs and the host's files",
        },
    )

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it. Without privileges an overlay cannot be written to below directories of others: those that
        the caller is likely to mean get one of their own.
        """
        boot = told_where_asked(options.boot_message(), options)
        if os.geteuid() == 0 or options.overlay_dir is not None:
            return boot
        taken = {messages.read_bytes(mount["target"]) for mount in boot["mounts"]}
        likely = {os.path.realpath(options.cwd), os.path.realpath(options.environment.get("HOME", "/"))}
        for path in sorted(likely, reverse=True):
            try:
                own = os.stat(path).st_uid == os.geteuid() and os.path.isdir(path)
            except OSError:
                continue
            if own and not any(f"{path}/".startswith(f"{place}/") for place in taken if place != "/"):
                boot["mounts"].insert(1, messages.mount_overlay(path, path, None))
        return boot

    def update(self, memory: int | None, cpus: float | None) -> list[dict[str, Any]]:
        """Its groups take other limits, and nothing else has to know of them."""
        return [messages.update(memory=memory, cpus=cpus)]

    def probe(self) -> Probe:
        """By a guest that boots."""
        return probe_by_boot(self.name, "run it as root, or allow user namespaces: see above")

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> ProgramGuest:
        """An agent that waits for its `boot`."""
        return start_agent(self.name, "init", on_event, on_end)


def start_agent(
    engine: str,
    role: str,
    on_event: Callable[[Mapping[str, Any]], None],
    on_end: Callable[[errors.SandboxError], None],
) -> ProgramGuest:
    """The agent of an engine, the guest's `role`. Of the caller's environment it gets nothing."""
    command = [find_beside(PROGRAM), "--engine", engine]
    if parts := weakened(engine):
        command += ["--weaken", ",".join(parts)]
    return ProgramGuest(command, {}, f"the guest's {role} ({PROGRAM})", on_event, on_end)


#: Tests that a wall can fail: parts that are taken out of it on purpose, as ENGINE:PART,... (crates/agent/src/weaken.rs). A
#: variable of the caller's and nothing else: no option, no policy and no program inside gets there.
WEAKEN_SWITCH = "SKERRY_TEST_WEAKEN"
WEAKENABLE = ("seccomp", "landlock", "capabilities", "user_namespace", "masks", "descriptors", "keyring", "links")


def weakened(engine: str) -> list[str]:
    """What is taken out of an engine, if anything; told on standard error each time."""
    parts = []
    for word in os.environ.get(WEAKEN_SWITCH, "").split(","):
        name, _, part = word.partition(":")
        if word and (name not in ("namespace", "rules") or part not in WEAKENABLE):
            raise errors.UsageError(f"{WEAKEN_SWITCH}: {word!r} is no ENGINE:PART; unset it: it is for tests")
        if name == engine:
            parts.append(part)
    if parts:
        text = f"skerry: WEAKENED FOR A TEST, this is no sandbox: without {', '.join(parts)} ({WEAKEN_SWITCH}; unset it)"
        print(text, file=sys.stderr, flush=True)
    return parts
