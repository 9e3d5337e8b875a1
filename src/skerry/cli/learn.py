"""`skerry learn [OPTIONS] -- COMMAND [ARG...]`: runs a command in the guest kernel, and writes the policy for what it did."""

from __future__ import annotations

import os
import sys

from .. import errors
from . import EXIT_FAILURE, complain
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: Options of `skerry do` that change what the command finds.
_OF_DO = (
    "read_write", "read_only", "hide", "tmpfs", "env", "env_all", "cwd", "user", "hostname", "timeout", "memory", "cpus",
    "pids", "network",
)  # fmt: skip


def _options() -> list[Option]:
    from . import do

    return [
        Option("-o --out", "out", "FILE", "where the policy goes (default: PROGRAM.toml here; - is standard output)"),
        Option("--merge", "merge", "FILE|NAME", "a policy of an earlier run whose permissions are kept", many=True),
        Option("--no-generalise", "refuse", "NAME", "do without a generalisation; 'all' for all", many=True),
        Option("--limits", "limits", None, "make limits of what it used of memory and processes"),
        *(option for option in do.OPTIONS if option.key in _OF_DO),
        Option("-h --help", "help", None, "print this text"),
    ]


def run(arguments: Sequence[str]) -> int:
    """Gives the command's own status."""
    from ..policy import Policy, _learn

    options = _options()
    values, command = parse(options, arguments)
    if values.get("help"):
        note = "generalisations: " + ", ".join(_learn.GENERALISATIONS) + " (docs/policy.md)"
        about = "Runs COMMAND in the engine sentry, sees all that it does, and writes a policy that allows that."
        print(help_text("skerry learn [OPTIONS] -- COMMAND [ARG...]", about, options, note))
        return 0
    if not command:
        raise errors.UsageError("there is no command; write: skerry learn [OPTIONS] -- COMMAND [ARG...]")
    refuse = {str(name) for name in values.pop("refuse")}  # type: ignore[attr-defined]
    for name in refuse - {*_learn.GENERALISATIONS, "all"}:
        raise errors.UsageError(f"--no-generalise: {name!r} is none of {', '.join(_learn.GENERALISATIONS)}")
    if "all" in refuse:
        refuse = set(_learn.GENERALISATIONS)
    merge = [Policy.load(str(name)) for name in values.pop("merge")]  # type: ignore[attr-defined]
    program = os.path.basename(command[0])
    out = str(values.pop("out", None) or f"{program}.toml")
    limits = bool(values.pop("limits", False))
    status, seen, cwd = _watched(values, command)
    learnt = _learn.learn(seen, program, cwd, merge=merge, refuse=refuse, limits=limits)
    head = f"Learnt by skerry learn from: {' '.join(command)}\n{learnt.surface}\n"
    text = learnt.policy.to_toml(learnt.comments, head + "".join(f"{note}\n" for note in learnt.notes))
    try:
        if out == "-":
            sys.stdout.write(text)
        else:
            with open(out, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise errors.UsageError(f"--out: {out!r} cannot be written: {error.strerror}") from None
    for note in learnt.notes:
        complain(f"learn: {note}")
    complain(f"learn: {learnt.surface}")
    complain(f"learn: the command ended with status {status}; the policy is in {out}")
    return status


def _watched(values: dict[str, Any], command: list[str]) -> tuple[int, Any, str]:
    """Runs the command with everything told; its status, what was seen, and where it ran."""
    from ..policy import _compile, _learn
    from ..sandbox import Sandbox
    from . import do

    values = dict(values)
    values["inherit_env"] = "all" if values.pop("env_all", False) else "kept"
    values["env"] = do._environment(values["env"])
    values["read_only"] = [do._source_and_target(text) for text in values["read_only"]]
    sandbox = Sandbox(**values)
    sandbox._options.observe = "everything"
    seen = _learn.Observations(values["read_write"])
    sandbox._on_event_now = seen.note
    found = _compile.program_files(command, sandbox._options.cwd, sandbox._options.environment.get("PATH"))
    with sandbox:
        process = sandbox.spawn(command, stdin=None, stdout=None, stderr=None)
        try:
            status = process.wait(sandbox._options.timeout)
        except errors.TimeoutExpired:
            process.stop()
            status = 124
        except KeyboardInterrupt:
            process.stop()
            status = 130
    if found:
        seen.note_program(found[0])
    if status == EXIT_FAILURE and not seen.calls:
        raise errors.SandboxClosed("nothing was seen of the command")
    return status, seen, sandbox._options.cwd
