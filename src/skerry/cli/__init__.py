"""The `skerry` command: one module per command, each loaded only when it is asked for."""

from __future__ import annotations

import os
import sys

from ..errors import SkerryError, UnsupportedHost, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

#: Exit statuses of our own (the command's own otherwise); 128+N where signal N killed it.
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
EXIT_FAILURE = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127

#: Each command's module, its summary, and whether it needs a host that Skerry works on.
COMMANDS = {
    "do": ("do", "run a command in a sandbox"),
    "doctor": ("doctor", "say what this host grants, and how to mend what it does not"),
    "policy": ("policy", "check, show and list policies"),
    "learn": ("learn", "run a command, and write the policy for what it does"),
    "verify": ("verify", "try whether a policy holds in each engine"),
    "explain": ("explain", "say why something was denied, or died, in the last run"),
    "engines": ("engines", "list the walls that a sandbox can be made of"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = arguments[0] if arguments else "help"
    try:
        if name in ("help", "-h", "--help"):
            return _help(arguments[1:])
        if name in ("--version", "-V", "version"):
            from .. import __version__

            print(f"skerry {__version__}")
            return 0
        if name not in COMMANDS:
            raise UsageError(f"there is no command {name!r}{suggestion(name, COMMANDS)}; 'skerry help' lists them")
        from .._host import require_supported_host

        require_supported_host()
        status: int = __import__(f"{__name__}.{COMMANDS[name][0]}", fromlist=["run"]).run(arguments[1:])
        return status
    except UsageError as error:
        complain(str(error))
        return EXIT_USAGE
    except UnsupportedHost as error:
        complain(str(error))
        return EXIT_FAILURE
    except SkerryError as error:
        complain(str(error))
        return EXIT_FAILURE
    except BrokenPipeError:  # `skerry help | head`
        _discard_output()
        return 0
    except KeyboardInterrupt:
        return 130


def entry() -> NoReturn:
    """The console script: `main`, and out without the interpreter's tidying up, which takes milliseconds."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            status = status or EXIT_FAILURE  # what was printed did not arrive
    os._exit(status)


def complain(text: str) -> None:
    """One message of ours on standard error."""
    try:
        print(f"skerry: {printable(text)}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens


def printable(text: str) -> str:
    """`text` without what could move a terminal's cursor or worse: it may come from inside the sandbox."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


def suggestion(word: str, known: object) -> str:
    """ "; did you mean ...?", or nothing."""
    from difflib import get_close_matches

    # Dashes are alike in all options, and make none of them near.
    names = {str(name).lstrip("-"): str(name) for name in known}  # type: ignore[attr-defined]
    close = get_close_matches(word.lstrip("-"), list(names), 1, cutoff=0.7)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def _help(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        return main([arguments[0], "--help"])
    print("usage: skerry COMMAND [OPTIONS]\n\nRuns code that you do not trust.\n\ncommands:")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<10}{summary}")
    print("  help       explain a command: skerry help do")
    print("  --version  print the version")
    sys.stdout.flush()
    return 0


def _discard_output() -> None:
    """So that the interpreter's own flush at exit does not complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        pass
