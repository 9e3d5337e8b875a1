"""One policy for every engine: what a program may do with files, network, system calls, resources, environment and secrets.

A policy is TOML (docs/policy.md) or made in Python:

    policy = skerry.Policy(files={"default": "hidden", "read_only": ["/usr"]}, network={"mode": "none"})
    policy = skerry.Policy.load("build")            # a ready-made one, or a file

`_model` is what can be said, `_compile` what of it becomes a sandbox's mounts, rules and limits. Ready-made ones: ready/.
"""

from __future__ import annotations

import os

from ..errors import PolicyError
from . import _model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: More than this is no policy.
_SIZE_MAXIMUM = 4 << 20

READY = ("build", "pure", "python", "service")


class Policy:
    """A checked policy. Sections are read as `policy["files"]["read_only"]`; nothing in it is to be changed."""

    __slots__ = ("_sections", "source")

    def __init__(self, data: Mapping[str, Any] | None = None, *, source: str = "the policy", **sections: Any) -> None:
        self._sections = _model.checked({**(data or {}), **sections}, source)
        #: Where it comes from, as messages name it.
        self.source = source

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Policy:
        """A file, a ready-made policy, or one of your own by its name (~/.config/skerry/policies/NAME.toml)."""
        path = find(os.fspath(name))
        try:
            with open(path, "rb") as file:
                data = file.read(_SIZE_MAXIMUM + 1)
        except OSError as error:
            raise PolicyError(f"cannot be read: {error.strerror}", path) from None
        if len(data) > _SIZE_MAXIMUM:
            raise PolicyError(f"is larger than {_SIZE_MAXIMUM} bytes", path)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise PolicyError("is not text (UTF-8)", path) from None
        return cls.from_text(text, path)

    @classmethod
    def from_text(cls, text: str, source: str = "the policy") -> Policy:
        """From TOML."""
        from importlib import import_module

        try:
            toml = import_module("tomllib")
        except ImportError:
            try:
                toml = import_module("tomli")  # the same, for older Pythons
            except ImportError:
                raise PolicyError("needs Python 3.11 or newer, or the package tomli", source) from None
        try:
            data = toml.loads(text)
        except ValueError as error:
            raise PolicyError(f"is no TOML: {error}", source) from None
        return cls(data, source=source)

    def __getitem__(self, section: str) -> dict[str, Any]:
        return self._sections[section]

    @property
    def name(self) -> str:
        """Its own name, else the file's."""
        return self._sections[""]["name"] or os.path.basename(self.source).removesuffix(".toml")

    def for_command(self, args: Any, cwd: str | None = None, path: str | None = None) -> Policy:
        """The same, with the words that begin with @ replaced by the places that they mean for a command."""
        from . import _compile

        return _compile.for_command(self, args, cwd, path)

    def clauses(self) -> list[str]:
        """The clauses that say something, as "section.key"."""
        found = []
        for section, clauses in _model.SECTIONS.items():
            for key, clause in clauses.items():
                if section and self._sections[section][key] != clause.default:
                    found.append(f"{section}.{key}")
        return [*found, *(f"secrets.{name}" for name in self._sections["secrets"])]

    def as_dict(self) -> dict[str, Any]:
        """What it says, without defaults."""
        data: dict[str, Any] = {"version": 1}
        for section, clauses in _model.SECTIONS.items():
            said = {key: value for key, value in self._sections[section].items() if value != clauses[key].default}
            if section == "":
                data.update(said)
            elif said:
                data[section] = said
        if self._sections["secrets"]:
            data["secrets"] = self._sections["secrets"]
        return data

    def to_toml(self, comments: Mapping[str, str] | None = None, head: str = "") -> str:
        """As a file. `comments`: text by "section.key" that goes above."""
        return _toml(self.as_dict(), comments or {}, head)

    def __repr__(self) -> str:
        return f"<skerry.Policy {self.name!r} from {self.source}>"


def find(name: str) -> str:
    """The file that a name means."""
    if "/" in name or name.endswith(".toml"):
        return name
    if name in READY:
        return os.path.join(os.path.dirname(__file__), "ready", f"{name}.toml")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    own = os.path.join(config, "skerry", "policies", f"{name}.toml")
    if os.path.isfile(own):
        return own
    raise PolicyError(f"there is no policy {name!r}; ready-made are {', '.join(READY)}; a file is named with / or .toml", name)


def _toml(data: Mapping[str, Any], comments: Mapping[str, str], head: str) -> str:
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for key, value in data.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {_literal(value)}")
    for section, values in data.items():
        if not isinstance(values, dict):
            continue
        lines += ["", f"[{_key(section)}]"]
        for key, value in values.items():
            lines += [f"# {line}" for line in comments.get(f"{section}.{key}", "").splitlines()]
            lines.append(f"{_key(key)} = {_literal(value)}")
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _literal(name)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        shown = "".join(
            f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}"
            for c in value
        )
        return f'"{shown}"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_literal(one)}" for key, one in value.items()) + " }"
    items = [_literal(item) for item in value]
    if len(", ".join(items)) <= 100:
        return f"[{', '.join(items)}]"
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) > 118:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "[\n" + "\n".join([*lines, line]) + "\n]"
