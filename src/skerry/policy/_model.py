"""The model: what a policy may say, clause by clause, as data. Checks, the JSON schema and the reference come from it."""

from __future__ import annotations

import errno as _errno
import ipaddress
import re

from .. import _values
from ..errors import PolicyError, UsageError
from ._calls import GROUPS, NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: What stands for a place that is known when a command runs.
TOKENS = {
    "@program": "the command's program, with its interpreter and the links that lead there",
    "@libraries": "the system's libraries (/lib, /lib64, /usr/lib, /usr/lib64, /usr/local/lib, the linker's cache)",
    "@cwd": "the working directory",
    "@home": "the caller's home directory",
}

#: The most ports that one range names.
_PORTS_MAXIMUM = 1024


class Clause:
    """One key of one section: how a value is checked, its JSON schema, and what it means."""

    __slots__ = ("check", "default", "help", "schema")

    def __init__(self, check: Callable[[Any], Any], default: Any, schema: Mapping[str, Any], help: str) -> None:
        self.check = check
        self.default = default
        self.schema = schema
        self.help = help


class _Wrong(Exception):
    """A value is not what the clause takes; `place` is an index or a key in it."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _Wrong(f"{value!r} is not text; write it in quotes")
    return value


def _choice(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise _Wrong(f"{value!r} is none of {', '.join(choices)}")
        return str(value)

    return check


def _list(check: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def check_all(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise _Wrong(f"{value!r} is not a list; write [...]")
        checked = []
        for index, one in enumerate(value):
            try:
                checked.append(check(one))
            except _Wrong as wrong:
                raise _Wrong(str(wrong), f"[{index}]") from None
        return checked

    return check_all


def _path(value: Any) -> str:
    path = _text(value)
    head = path.split("/", 1)[0]
    if not path.startswith("/") and head not in TOKENS:
        raise _Wrong(f"{path!r} is no absolute path; begin it with / or with one of {', '.join(TOKENS)}")
    if "/../" in f"{path}/":
        raise _Wrong(f"{path!r} has .. in it; write where that leads")
    return path.rstrip("/") or "/"


def _call(value: Any) -> str:
    name = _text(value)
    if name not in NUMBERS and name not in GROUPS:
        from difflib import get_close_matches

        close = get_close_matches(name, [*NUMBERS, *GROUPS], 1)
        hint = f"; did you mean {close[0]!r}?" if close else "; system calls are named as in syscalls(2)"
        raise _Wrong(f"there is no system call {name!r}{hint}")
    return name


def _endpoint(value: Any) -> str:
    found = re.fullmatch(r"(tcp|udp):(\d+)(?:-(\d+))?", value) if isinstance(value, str) else None
    if found is None:
        raise _Wrong(
            f"{value!r} is no endpoint; write tcp:PORT, udp:PORT or tcp:FIRST-LAST, as in tcp:8080 (0: any that is free)"
        )
    first, last = int(found[2]), int(found[3] or found[2])
    if not first <= last < 1 << 16 or last - first >= _PORTS_MAXIMUM:
        raise _Wrong(f"{value!r}: ports go from 0 to 65535, the lower one first, and at most {_PORTS_MAXIMUM} at once")
    return str(value)


def _address(value: Any) -> str:
    try:
        ipaddress.ip_network(_text(value), strict=False)
    except ValueError as error:
        raise _Wrong(f"{error}; write an address or a network, as in 10.0.0.0/8") from None
    return str(value)


def _domain(value: Any) -> str:
    name = _text(value)
    if not re.fullmatch(r"(\*\.)?([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}", name):
        raise _Wrong(f"{name!r} is no domain; write example.org, or *.example.org for all below it")
    return name


def _error_name(value: Any) -> str:
    if value not in _errno.errorcode.values():
        raise _Wrong(f"{value!r} is no errno; write its name, as in EPERM")
    return str(value)


def _value(check: Callable[[Any, str], Any]) -> Callable[[Any], Any]:
    """A check of `_values`, whose value is kept as it was written."""

    def checked(value: Any) -> Any:
        try:
            check(value, "")
        except UsageError as error:
            raise _Wrong(error.message) from None
        return value

    return checked


def _variable(value: Any) -> str:
    if not re.fullmatch(r"[^=\0]+", _text(value)):
        raise _Wrong(f"{value!r} is not the name of a variable")
    return str(value)


def _assignments(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _Wrong(f'{value!r} is not a table; write {{ NAME = "value" }}')
    return {_variable(name): _text(text) for name, text in value.items()}


def _secret(value: Any) -> dict[str, str]:
    """{ env = NAME } or { file = PATH }: where the caller has it; path = where the program finds it, else a variable."""
    if not isinstance(value, dict):
        raise _Wrong('a secret is where you have it: { env = "NAME" } or { file = "/path" }, never its value')
    for key in value:
        if key not in ("env", "file", "path"):
            raise _Wrong(f"unknown key {key!r}; a secret has env or file, and may have path")
    if ("env" in value) == ("file" in value):
        raise _Wrong("give one of env and file: where you have the secret")
    checked = {key: _text(text) for key, text in value.items()}
    if not checked.get("path", "/").startswith("/"):
        raise _Wrong(f"path {checked['path']!r} is no absolute path")
    return checked


_TEXT = {"type": "string"}
_PATHS = {"type": "array", "items": {"type": "string", "pattern": "^(/|@(program|libraries|cwd|home)(/|$))"}}
_CALLS = {"type": "array", "items": {"$ref": "#/$defs/call"}}
_ENDPOINTS = {"type": "array", "items": {"type": "string", "pattern": "^(tcp|udp):[0-9]+(-[0-9]+)?$"}}
_AMOUNT = {"type": ["string", "integer"]}


def _paths(help: str) -> Clause:
    return Clause(_list(_path), [], _PATHS, help)


def _calls(help: str) -> Clause:
    return Clause(_list(_call), [], _CALLS, help)


#: Section, key: the clause. The section "" is the head of the file.
SECTIONS: dict[str, dict[str, Clause]] = {
    "": {
        "version": Clause(lambda value: _version(value), 1, {"const": 1}, "of this format: 1"),
        "name": Clause(_text, "", _TEXT, "how reports call it"),
        "description": Clause(_text, "", _TEXT, "one line for people"),
    },
    "files": {
        "default": Clause(
            _choice("hidden", "read_only", "private"), "private", {"enum": ["hidden", "read_only", "private"]},
            "what no list names: not there; readable; or readable, with writes kept in memory",
        ),
        "read_only": _paths("readable; nothing can be written"),
        "read_write": _paths("readable, and written through to the host"),
        "private": _paths("readable; what is written stays in memory (directories)"),
        "private_or": Clause(
            _choice("refused", "read_only"), "refused", {"enum": ["refused", "read_only"]},
            "where an engine cannot keep writes apart: it refuses the policy; or what is private can be read only",
        ),
        "temporary": _paths("an empty directory in memory"),
        "hidden": _paths("not readable, whatever else is said of what is above"),
        "execute": Clause(
            _list(_path), None, _PATHS, "programs that may be started, or directories of such; where it is not given, all may"
        ),
    },
    "network": {
        "mode": Clause(
            _choice("none", "loopback", "user"), "loopback", {"enum": ["none", "loopback", "user"]},
            "no interface at all, one of its own, or a way out beside that (microvm)",
        ),
        "connect": Clause(_list(_endpoint), None, _ENDPOINTS, "where sockets may connect and send to"),
        "bind": Clause(_list(_endpoint), None, _ENDPOINTS, "what sockets may be bound to"),
        "domains": Clause(
            _list(_domain), None, {"type": "array", "items": _TEXT}, "names that may be reached (mode user); without it all"
        ),
        "addresses": Clause(
            _list(_address), None, {"type": "array", "items": _TEXT},
            "networks that may be reached (mode user); without it all but the host itself, and its link",
        ),
    },
    "system_calls": {
        "default": Clause(
            _choice("allow", "log", "errno", "kill"), "allow", {"enum": ["allow", "log", "errno", "kill"]},
            "for calls that no list names",
        ),
        "error": Clause(_error_name, "EPERM", _TEXT, "what `errno` answers"),
        "allow": _calls("allowed"),
        "log": _calls("allowed, and told as an event"),
        "errno": _calls("answered with `error`"),
        "kill": _calls("the process dies of SIGSYS"),
    },
    "resources": {
        "memory": Clause(_value(_values.size), None, _AMOUNT, "bytes of all processes together"),
        "cpus": Clause(_value(_values.cpus), None, {"type": "number"}, "CPUs, also a fraction"),
        "processes": Clause(_value(_values.count), None, {"type": "integer"}, "processes and threads"),
        "disk": Clause(_value(_values.size), None, _AMOUNT, "bytes of files kept in memory"),
        "wall_time": Clause(_value(_values.duration), None, {"type": ["string", "number"]}, "how long a command may run"),
    },
    "environment": {
        "inherit": Clause(
            _choice("none", "kept", "all"), "kept", {"enum": ["none", "kept", "all"]},
            "what is taken over from the caller's: nothing, the usual harmless names, all",
        ),
        "keep": Clause(_list(_variable), [], {"type": "array", "items": _TEXT}, "names (with * and ?) that are taken over too"),
        "set": Clause(_assignments, {}, {"type": "object", "additionalProperties": _TEXT}, "variables with their values"),
    },
}  # fmt: skip

_SECRET_SCHEMA = {
    "type": "object",
    "properties": {"env": _TEXT, "file": _TEXT, "path": {"type": "string", "pattern": "^/"}},
    "additionalProperties": False,
    "oneOf": [{"required": ["env"]}, {"required": ["file"]}],
}


def _version(value: Any) -> int:
    if value != 1 or isinstance(value, bool):
        raise _Wrong(f"{value!r}: this Skerry reads version 1; write version = 1")
    return 1


def checked(data: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """`data` with every clause checked and every default put in; else one `PolicyError`."""
    sections: dict[str, dict[str, Any]] = {}
    head = {key: value for key, value in data.items() if not isinstance(value, dict) and key not in SECTIONS}
    for name, value in data.items():
        if name in (*SECTIONS, "secrets"):
            if not isinstance(value, dict):
                raise PolicyError(f"{value!r} is not a table; write [{name}] and the keys below it", source, name)
        elif name not in SECTIONS[""]:
            known = [*SECTIONS[""], *(section for section in SECTIONS if section), "secrets"]
            raise PolicyError(f"unknown {'section' if isinstance(value, dict) else 'key'}{_close(name, known)}", source, name)
    for name, clauses in SECTIONS.items():
        given = head if name == "" else data.get(name, {})
        section = sections[name] = {}
        for key, value in given.items():
            where = f"{name}.{key}" if name else key
            if key not in clauses:
                raise PolicyError(f"unknown key{_close(key, clauses)}", source, where)
            try:
                section[key] = clauses[key].check(value)
            except _Wrong as wrong:
                raise PolicyError(str(wrong), source, where + wrong.place) from None
        for key, clause in clauses.items():
            default = clause.default
            section.setdefault(key, default.copy() if isinstance(default, (list, dict)) else default)
    secrets = sections["secrets"] = {}
    for name, value in data.get("secrets", {}).items():
        try:
            secrets[_variable(name)] = _secret(value)
        except _Wrong as wrong:
            raise PolicyError(str(wrong), source, f"secrets.{name}") from None
    return sections


def _close(word: str, known: Any) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(known)}"


def schema() -> dict[str, Any]:
    """The JSON schema of a policy."""
    properties: dict[str, Any] = {}
    for name, clauses in SECTIONS.items():
        of_section = {key: {**clause.schema, "description": clause.help} for key, clause in clauses.items()}
        if name == "":
            properties.update(of_section)
        else:
            properties[name] = {"type": "object", "properties": of_section, "additionalProperties": False}
    properties["secrets"] = {"type": "object", "additionalProperties": _SECRET_SCHEMA}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A policy of Skerry",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"call": {"enum": [*GROUPS, *NUMBERS]}},
    }
