"""`skerry surface`: how much of the host's kernel each wall leaves to one command, and how much of it really ran."""

from __future__ import annotations

import os
import shlex
import signal
import sys

from .. import errors
from . import printable
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from .._surface.subjects import Findings, Process, Subject

_OPTIONS = [
    Option("--engines", "engines", "NAME[,NAME]", "engines to look at, also NAME:PROFILE (default: sentry)"),
    Option(
        "--peer", "peer", "NAME=WORDS", "something else, by the words before a command: bwrap='bwrap --bind / /'", many=True
    ),
    Option("--daemon", "daemon", "NAME=PROCESS[,..]", "processes that work for that peer, by name or number", many=True),
    Option("--image", "image", "WORDS", "what engines run that take images and no programs"),
    Option("--no-functions", "functions", None, "do not look for the kernel's functions (it takes several runs)", value=False),
    Option("--svg", "svg", "FILE", "draw it"),
    Option("--json", "json", None, "print everything as JSON, the names of calls and functions too"),
    Option("-h --help", "help", None, "print this text"),
]

_USAGE = "skerry surface [OPTIONS] -- COMMAND [ARG...]"
_NOTE = (
    "reachable: calls that a filter lets the application's process make, whatever their arguments. made: calls of the whole\n"
    "  sandbox while the command ran. functions: of the host's kernel, that ran for it. docs/surface.md has the method."
)


def run(arguments: Sequence[str]) -> int:
    """The command line's `surface`; gives the exit status."""
    values, command = parse(_OPTIONS, arguments)
    if values.get("help"):
        print(help_text(_USAGE, "Measures what the host's kernel has to do with a command.", _OPTIONS, _NOTE))
        return 0
    if not command:
        raise errors.UsageError(f"there is no command; write: {_USAGE}")
    from .._surface import plot, tracing
    from .._surface.subjects import Findings

    subjects = _subjects(values, command)
    svg = values.get("svg")
    if svg is not None and not os.path.isdir(os.path.dirname(os.path.abspath(str(svg)))):
        raise errors.UsageError(f"--svg {svg}: there is no such directory")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    top = tracing.place()
    found: list[Findings] = []
    for subject in subjects:
        if not values.get("json"):
            print(f"looking at {subject.name} ...", file=sys.stderr, flush=True)
        try:
            found.append(subject.look(top, functions=bool(values.get("functions", True))))
        except errors.UsageError:
            raise
        except errors.SkerryError as error:  # of this one: the others can be looked at all the same
            found.append(Findings(subject.name))
            found[-1].notes.append(printable(str(error)))
    if svg is not None:
        try:
            with open(str(svg), "w", encoding="utf-8") as file:
                file.write(plot.as_svg(shlex.join(command), found))
        except OSError as error:
            raise errors.UsageError(f"--svg {svg}: {error.strerror}") from None
    if values.get("json"):
        import json

        print(json.dumps({"command": list(command), "subjects": [one.as_dict() for one in found]}, indent=2))
    else:
        print(_table(found))
    return 0


def _end(number: int, _: object) -> NoReturn:
    """As an exception: what was set up is taken away."""
    raise SystemExit(128 + number)


def _subjects(values: dict[str, object], command: list[str]) -> list[Subject]:
    from .._surface.subjects import Engine, Peer

    chosen: list[Subject] = []
    peers = list(values["peer"])  # type: ignore[call-overload]
    names = values.get("engines")
    image = shlex.split(str(values.get("image") or ""))
    for name in str(names).split(",") if names is not None else [] if peers else ["sentry"]:
        engine = Engine(name.strip(), command)
        if engine.images and image:
            engine.command = image
        chosen.append(engine)
    for entry in peers:
        name, equals, words = entry.partition("=")
        if not (name and equals and words.strip()):
            raise errors.UsageError(f"--peer {entry}: write NAME='WORDS before the command'")
        chosen.append(Peer(name, words, command))
    for entry in values["daemon"]:  # type: ignore[attr-defined]
        name, _, processes = entry.partition("=")
        of = [subject for subject in chosen if subject.name == name]
        if not of or not processes:
            raise errors.UsageError(f"--daemon {entry}: write NAME=PROCESS with the name of a peer")
        of[0].helpers = processes.split(",")
    return chosen


_HEAD = ("", "reachable", "asked", "made", "calls", "functions", "time")


def _table(found: Sequence[Findings]) -> str:
    rows = [_HEAD]
    for one in found:
        made = ("-", "-") if one.calls is None else (str(len(one.calls.counts)), str(sum(one.calls.counts.values())))
        functions = "-"
        if one.functions is not None:
            known = "" if one.functions.complete else "+"
            functions = f"{len(one.functions.names)}{known}{' sampled' if one.functions.how == 'sampled' else ''}"
        rows.append(
            (one.name, *_counts(one.application), *made, functions, "-" if one.seconds is None else f"{one.seconds:.2f} s")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    for one in found:
        lines += ["", f"{one.name}: the application can make {_calls(one.application)}"]
        if one.others:
            lines.append(f"  beside it: {', '.join(f'{other.name} {_counts(other)[0]}' for other in one.others)}")
        lines += [f"  {note}" for note in one.notes]
    return "\n".join(lines)


def _counts(process: Process | None) -> tuple[str, str]:
    if process is None or process.filters is None:
        return "-", "-"
    return str(len(process.reached)), str(len(process.asked))


#: So many calls are named.
_NAMED = 40


def _calls(process: Process | None) -> str:
    if process is None or process.filters is None:
        return "what is not known"
    if process.filters == 0:
        return f"all {len(process.reached)} calls: it is under no filter"

    def shown(names: Sequence[str]) -> str:
        return f"{len(names)} calls" if len(names) > _NAMED else ", ".join(names) or "none"

    parts = [shown(process.reached)]
    if process.asked:
        parts.append(f"by asking, {shown(process.asked)}")
    if process.compatibility:
        parts.append(f"and {process.compatibility} of 32 bits")
    return "; ".join(parts)
