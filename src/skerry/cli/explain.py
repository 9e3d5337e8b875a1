"""`skerry explain [FILE]`: for each denial and death of a run, which clause and layer it was, and what would allow it."""

from __future__ import annotations

from .. import _state, errors
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_OPTIONS = [
    Option("--policy", "policy", "FILE|NAME", "the policy of the run, where FILE does not name it"),
    Option("--json", "json", None, "as JSON"),
    Option("-h --help", "help", None, "print this text"),
]

_CAUSES = {
    "policy": "the policy, or an option",
    "engine": "the engine lacks it, or the wall forbids it",
    "program": "the program's own error",
}

#: More of a file of events is not read.
_SIZE_MAXIMUM = 64 << 20


def run(arguments: Sequence[str]) -> int:
    """Explains the last run of `skerry do`, or a file of events."""
    values, words = parse(_OPTIONS, arguments)
    if values.get("help"):
        about = "Explains what was denied, and what died, in the last run of skerry do, or in a file of --events."
        print(help_text("skerry explain [OPTIONS] [FILE]", about, _OPTIONS))
        return 0
    if len(words) > 1:
        raise errors.UsageError(f"unexpected argument {words[1]!r}")
    from ..policy import Policy, _explain

    path = words[0] if words else _state.last_run_path()
    header, events = _read(path, bool(words))
    policy = None
    if (name := values.get("policy")) is not None:
        policy = Policy.load(str(name)).for_command(header.get("command") or [], header.get("cwd"))
    findings = _explain.Explainer(header, policy).explain(events)
    if values.get("json"):
        import json

        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
        return 0
    _print(header, findings)
    return 0


def _read(path: str, named: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    import json

    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_SIZE_MAXIMUM)
    except OSError as error:
        if not named and isinstance(error, FileNotFoundError):
            raise errors.UsageError("no run is on record; run 'skerry do' first, or name a file of --events") from None
        raise errors.UsageError(f"{path!r}: {error.strerror}") from None
    header: dict[str, Any] = {}
    events = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            event = json.loads(line)
        except ValueError:
            if number == text.count("\n") + 1:
                continue  # the last line of a run that goes on
            raise errors.UsageError(f"{path!r}, line {number}: not an event (JSON)") from None
        if not isinstance(event, dict):
            raise errors.UsageError(f"{path!r}, line {number}: not an event (JSON)")
        if event.get("event") == "run":
            header = event
        else:
            events.append(event)
    return header, events


def _print(header: dict[str, Any], findings: Sequence[Any]) -> None:
    from . import printable

    if header:
        policy = f", policy {header['policy_source']}" if header.get("policy_source") else ""
        command = " ".join(str(word) for word in header.get("command") or [])
        print(printable(f"run: {command} (engine {header.get('engine')}{policy})"))
    if header.get("engine") not in (None, "sentry") and not header.get("listened"):
        print("note: the host's kernel tells of calls only; 'skerry do --explain' (or --events) has files and addresses, too")
    if not findings:
        print("Nothing was denied, and nothing died.")
    for number, finding in enumerate(findings, 1):
        who = f", by {finding.program} [{finding.process}]" if finding.program else ""
        print(printable(f"{number}. {finding.what}{who}"))
        print(f"   cause   {_CAUSES.get(finding.cause, finding.cause)}")
        if finding.clause:
            print(printable(f"   clause  {finding.clause}"))
        if finding.layer:
            print(f"   layer   {finding.layer}")
        if finding.allow:
            print(printable(f"   {'change ' if finding.cause == 'policy' else 'note   '} {finding.allow}"))
