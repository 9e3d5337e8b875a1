"""`skerry engines`: the walls that a sandbox can be made of."""

from __future__ import annotations

from ..engines.base import ENGINES
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = [Option("-h --help", "help", None, "print this text")]


def run(arguments: Sequence[str]) -> int:
    """Prints the list."""
    values, _ = parse(_OPTIONS, arguments, operands=False)
    if values.get("help"):
        print(help_text("skerry engines", "Lists the walls that a sandbox can be made of.", _OPTIONS))
        return 0
    for name, wall, built in ENGINES:
        state = ("default" if name == "sentry" else "built") if built else "not built yet"
        print(f"{name:<11}{state:<15}{wall}")
    return 0
