"""A small command-line parser: one table of options gives the parsing, the messages and the help text.

Options may stand before the command only: the first word that is no option, or what follows `--`, is the command.
"""

from __future__ import annotations

from ..errors import UsageError
from . import suggestion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Option:
    """One option. `metavar` None is a flag; `many` may be given again and again, of the others the last one holds."""

    __slots__ = ("help", "key", "many", "metavar", "names", "value")

    def __init__(self, names: str, key: str, metavar: str | None, help: str, *, many: bool = False, value: bool = True) -> None:
        self.names = names.split()
        self.key = key
        self.metavar = metavar
        self.help = help
        self.many = many
        #: What a flag sets.
        self.value = value


def parse(options: Sequence[Option], arguments: Sequence[str], *, operands: bool = True) -> tuple[dict[str, object], list[str]]:
    """The values by key (a list for `many`), and the words after the options."""
    by_name = {name: option for option in options for name in option.names}
    values: dict[str, object] = {option.key: [] for option in options if option.many}
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if word == "--":
            index += 1
            break
        if not word.startswith("-") or word == "-":
            break
        index += 1
        name, equals, value = word.partition("=")
        if not word.startswith("--"):  # -e NAME or -eNAME
            name, value = word[:2], word[2:]
            equals = value
        option = by_name.get(name)
        if option is None:
            raise UsageError(f"unknown option {name}{suggestion(name, by_name)}")
        if option.metavar is None:
            if equals:
                raise UsageError(f"{name} takes no value")
            values[option.key] = option.value
            continue
        if not equals:
            if index == len(arguments):
                raise UsageError(f"{name} needs a value: {name} {option.metavar}")
            value = arguments[index]
            index += 1
        if option.many:
            values[option.key].append(value)  # type: ignore[attr-defined]
        else:
            values[option.key] = value
    rest = list(arguments[index:])
    if rest and not operands:
        raise UsageError(f"unexpected argument {rest[0]!r}")
    return values, rest


def help_text(usage: str, about: str, options: Sequence[Option], *notes: str) -> str:
    """What `--help` prints."""
    lines = [f"usage: {usage}", "", about, "", "options:"]
    for option in options:
        head = ", ".join(option.names) + (f" {option.metavar}" if option.metavar else "")
        if len(head) > 24:
            lines.append(f"  {head}")
            head = ""
        lines.append(f"  {head:<24}  {option.help}")
    for note in notes:
        lines += ["", note]
    return "\n".join(lines)
