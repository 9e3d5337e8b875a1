"""`skerry verify POLICY`: tries in each engine what the policy denies and allows; status 1 if a control does not hold."""

from __future__ import annotations

from .. import errors
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_OPTIONS = [
    Option("--engine", "engine", "NAME", "in that engine only (may be given again; default: all that are built)", many=True),
    Option("--json", "json", None, "as JSON"),
    Option("-q --quiet", "quiet", None, "only what does not hold"),
    Option("-h --help", "help", None, "print this text"),
]


def run(arguments: Sequence[str]) -> int:
    """Prints the table."""
    from ..engines.base import ENGINES, engine
    from ..policy import Policy, _verify

    values, words = parse(_OPTIONS, arguments)
    if values.get("help"):
        about = "Tries what a policy denies and allows, live, in each engine. Exit status 1: a control does not hold."
        print(help_text("skerry verify [OPTIONS] FILE|NAME [-- COMMAND [ARG...]]", about, _OPTIONS))
        return 0
    if not words:
        raise errors.UsageError("there is no policy; write: skerry verify [OPTIONS] FILE|NAME [-- COMMAND [ARG...]]")
    command = words[2:] if words[1:2] == ["--"] else words[1:]
    policy = Policy.load(words[0]).for_command(command or ["/bin/true"])
    named = [str(name) for name in values["engine"]]  # type: ignore[attr-defined]
    for name in named:
        engine(name)
    rows = _verify.verify(policy, named or [name for name, _, _, built in ENGINES if built])
    # An engine that was asked for by name must hold the policy; of the others one that refuses it by name does right.
    broken = [row for row in rows if row.held is False or (row.clause == "-" and named)]
    if values.get("json"):
        import json

        print(json.dumps({"policy": policy.source, "holds": not broken, "controls": [row.as_dict() for row in rows]}, indent=2))
    else:
        _print(broken if values.get("quiet") else rows)
        tried = sum(row.held is not None for row in rows)
        print(f"{tried - len(broken)} of {tried} controls hold" + ("" if not broken else "; see NO above"))
    return 1 if broken else 0


def _print(rows: Sequence[Any]) -> None:
    from . import printable

    head = ("engine", "clause", "probe", "expected", "found", "holds")
    marks = {True: "yes", False: "NO", None: "-"}
    table = [(row.engine, row.clause, row.probe, row.expected, row.found, marks[row.held]) for row in rows]
    widths = [min(60, max(len(str(line[column])) for line in [head, *table])) for column in range(6)]
    for line in [head, *table]:
        print(printable("  ".join(str(text).ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()))
