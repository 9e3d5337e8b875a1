"""`skerry policy check|show|list|schema`: what a policy says, and whether it says it rightly."""

from __future__ import annotations

from .. import errors
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = [
    Option("--engine", "engine", "NAME", "check and show: whether that engine can hold it (may be given again)", many=True),
    Option("--json", "json", None, "show: as JSON"),
    Option("-h --help", "help", None, "print this text"),
]

_USAGE = "skerry policy check|show|list|schema [OPTIONS] [FILE|NAME...] [-- COMMAND [ARG...]]"


def run(arguments: Sequence[str]) -> int:
    """Does what the first word says."""
    verb = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    values, words = parse(_OPTIONS, arguments[1:] if verb else arguments)
    if words and words[0].startswith("-"):
        raise errors.UsageError(f"options stand before names: {words[0]}")
    if values.get("help"):
        print(help_text(_USAGE, "Checks, shows and lists policies (docs/policy.md).", _OPTIONS))
        return 0
    engines = [str(name) for name in values["engine"]]  # type: ignore[attr-defined]
    if verb == "check" and words:
        return _check(words, engines)
    if verb == "show" and words:
        return _show(words[0], words[2:] if words[1:2] == ["--"] else words[1:], engines, bool(values.get("json")))
    if verb == "list" and not words:
        return _list()
    if verb == "schema" and not words:
        return _schema()
    raise errors.UsageError(f"write: {_USAGE}")


def _refusals(policy: object, engines: Sequence[str]) -> list[str]:
    from ..engines.base import engine
    from ..policy import Policy, _compile

    assert isinstance(policy, Policy)
    mode = policy["network"]["mode"]
    wanted = [(clause.split()[0], clause) for clause in _compile.clauses(policy, mode)]
    wanted += [("network.mode", "network user")] if mode == "user" else []
    found = []
    for name in engines:
        refuses = engine(name).capabilities.refuses
        for clause, words in wanted:
            why = next((why for option, why in refuses.items() if option == words or words.startswith(f"{option}.")), None)
            if why is not None:
                found.append(f"{clause}: the engine {name!r} cannot enforce it: {why}")
    return found


def _check(names: Sequence[str], engines: Sequence[str]) -> int:
    from ..policy import Policy
    from . import complain

    status = 0
    for name in names:
        try:
            policy = Policy.load(name)
        except errors.PolicyError as error:
            complain(f"policy: {error.message}")
            status = 1
            continue
        problems = _refusals(policy, engines)
        for problem in problems:
            complain(f"policy: {policy.source}: {problem}")
            status = 1
        if not problems:
            print(f"{policy.source}: good; it says: {', '.join(policy.clauses()) or 'nothing'}")
    return status


def _show(name: str, command: Sequence[str], engines: Sequence[str], as_json: bool) -> int:
    from ..policy import Policy

    policy = Policy.load(name)
    if command:
        policy = policy.for_command(list(command))
    if as_json:
        import json

        print(json.dumps(policy.as_dict(), indent=2))
    else:
        print(policy.to_toml(head=f"{policy.name}: {policy['']['description'] or 'no description'}"), end="")
    problems = _refusals(policy, engines)
    for problem in problems:
        print(f"# {problem}")
    return 1 if problems else 0


def _list() -> int:
    import os

    from ..policy import READY, Policy

    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    own = os.path.join(config, "skerry", "policies")
    names = sorted(
        entry.removesuffix(".toml") for entry in (os.listdir(own) if os.path.isdir(own) else ()) if entry.endswith(".toml")
    )
    for name in [*READY, *(name for name in names if name not in READY)]:
        try:
            text = Policy.load(name)[""]["description"]
        except errors.PolicyError as error:
            text = f"cannot be used: {error.message}"
        print(f"{name:<12}{text}")
    return 0


def _schema() -> int:
    import json

    from ..policy import _model

    text = json.dumps(_model.schema(), indent=2)
    print(text)
    return 0
