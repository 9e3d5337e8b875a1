"""`skerry do [OPTIONS] -- COMMAND [ARG...]`: one command in a sandbox of its own.

This is its first half: it reads the options, boots the sandbox, and then becomes `skerry-attendant` (crates/sentry), which
starts the command and stays with it, so that no interpreter is in memory while a command runs. The command gets our own
standard streams: nothing is copied.
"""

from __future__ import annotations

import os
import sys

from .. import _spawn, _state, errors
from ..control import messages
from ..sandbox import Sandbox
from . import EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_USAGE, complain
from ._parser import Option, help_text, parse

try:
    import _signal as signal  # type: ignore[import-not-found]  # the C half: the module around it imports `enum`
except ImportError:
    import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO, Any, NoReturn

    from .._records import SandboxInfo

OPTIONS = [
    Option("--policy", "policy", "FILE|NAME", "what it may do (docs/policy.md); ready-made: build, pure, python, service"),
    Option("--rw", "read_write", "PATH", "writes below PATH go to the host", many=True),
    Option("--ro", "read_only", "SRC[:DST]", "the host's SRC, read-only, at DST (or in its own place)", many=True),
    Option("--hide", "hide", "PATH", "show nothing at PATH", many=True),
    Option("--tmpfs", "tmpfs", "PATH", "an empty directory in memory at PATH", many=True),
    Option("--overlay-dir", "overlay_dir", "DIR", "keep all other writes in DIR on the host, not in memory"),
    Option("-e --env", "env", "NAME[=VALUE]", "set a variable, or take yours over", many=True),
    Option("--env-all", "env_all", None, "take over all of your environment"),
    Option("--cwd", "cwd", "DIR", "working directory inside (default: yours)"),
    Option("--user", "user", "UID[:GID]|caller", "run as that user (default: you appear as root)"),
    Option("--hostname", "hostname", "NAME", "host name inside (default: skerry)"),
    Option("--timeout", "timeout", "TIME", "end it after TIME: 10, 500ms, 2m (TERM, then KILL)"),
    Option("--memory", "memory", "SIZE", "memory limit: 512m, 2g"),
    Option("--cpus", "cpus", "N", "CPU limit: 1.5"),
    Option("--pids", "pids", "N", "limit of processes and threads (default: 4096)"),
    Option(
        "--network", "network", "none|loopback|user", "loopback (the default) stays inside; user also reaches out (microvm)"
    ),
    Option("--block", "block", "NAME=FILE[,ro]", "a unikernel's block device (also ,size=BYTES: of its blocks)", many=True),
    Option("--net", "net", "NAME=tap:IFACE", "a unikernel's net device (also ,mac=ADDRESS)", many=True),
    Option("--engine", "engine", "NAME", "the wall, or auto ('skerry engines' lists them; default: sentry)"),
    Option("--min-isolation", "min_isolation", "LEVEL", "the least level that the wall must have: 1 to 4"),
    Option("--accel", "accel", "auto|kvm|tcg", "microvm: what runs the guest (default: kvm where it works)"),
    Option("--vmm", "vmm", "NAME", "microvm: the monitor: qemu, qemu-microvm, firecracker, cloud-hypervisor, xen"),
    Option(
        "--root-image", "root_image", "PATH", "microvm: the tree, on a disk: an image (erofs, ext4), or a directory for one"
    ),
    Option("--snapshot", "snapshot", "auto|never", "microvm: start from a kept machine that has booted, or never"),
    Option("--require", "require", "LAYER", "fail unless LAYER is in force: " + ", ".join(messages.LAYERS), many=True),
    Option("--profile", "profile", "default|strict", "strict: no file of the host is read, written or mapped natively"),
    Option("-t --tty", "tty", None, "give the command a terminal (by itself where yours is one)"),
    Option("-T --no-tty", "tty", None, "give it none", value=False),
    Option("--trace", "trace", None, "print every system call to standard error"),
    Option("--events", "events", "FILE", "write events to FILE, as JSON lines"),
    Option("--explain", "explain", None, "let the host's kernel be looked at, too: what it denies, for 'skerry explain'"),
    Option("--json", "json", "FILE", "write the result to FILE, as JSON"),
    Option("-h --help", "help", None, "print this text"),
]

_NOTES = (
    "The host's files are there read-only; what is written stays in memory and is gone at the end.",
    (
        "exit status: the command's own; 128+N if signal N killed it; 124 timeout; 125 failure of Skerry's own;\n"
        "  126 not executable; 127 not found; 2 wrong usage"
    ),
)

_FLAGS = {option.key: option.names[-1] for option in OPTIONS}
_FLAGS["inherit_env"] = "--env-all"

#: What ends us while there is no command yet.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

#: What is passed on to the command, once there is one.
_PASSED_ON = (*_ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)

#: The identifier of the request that starts the command; the boot's is 1.
_SPAWN = 2


def run(arguments: Sequence[str]) -> int:
    """The command line's `do`; gives the exit status."""
    this = None
    try:
        this = _Run(arguments)
        return this.run()
    except _Interrupted as interrupted:
        return 128 + interrupted.number
    except errors.SkerryError as error:
        status, message = _verdict(error)
        complain(f"do: {message}")
        if this is not None and this.json_file is not None:
            this.report(status, message)
        return status


def _verdict(error: errors.SkerryError) -> tuple[int, str]:
    """The exit status and the message that stand for an error."""
    if isinstance(error, errors.UsageError):
        flag = _FLAGS.get(error.option or "", error.option)
        return EXIT_USAGE, f"{flag}: {error.message}" if flag else error.message
    if isinstance(error, errors.EngineNotBuilt):
        return EXIT_USAGE, f"--engine: {error}"
    if isinstance(error, errors.CommandNotFound):
        return EXIT_NOT_FOUND, str(error)
    if isinstance(error, errors.CommandNotExecutable):
        return EXIT_NOT_EXECUTABLE, str(error)
    return EXIT_FAILURE, str(error)


class _Interrupted(BaseException):
    """A signal that ends us came before there was a command to pass it on to."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Run:
    """One run, from the command line to the program that goes on with it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments
        self.values, self.command = parse(OPTIONS, arguments)
        self.sandbox: Sandbox | None = None
        self.events: list[Mapping[str, Any]] = []
        self.events_file: IO[str] | None = None
        self.json_file: IO[str] | None = None

    def run(self) -> int:
        if self.values.get("help"):
            print(help_text("skerry do [OPTIONS] -- COMMAND [ARG...]", "Runs COMMAND in a sandbox.", OPTIONS, *_NOTES))
            return 0
        if not self.command:
            raise errors.UsageError("there is no command; write: skerry do [OPTIONS] -- COMMAND [ARG...]")
        _fill_standard_descriptors()
        argv = _spawn.arguments(self.command, False)
        self.sandbox = Sandbox(trace=bool(self.values.get("trace")), **self._sandbox_options(argv))
        if self.sandbox._options.observe == "nothing":
            self.sandbox._options.observe = "refusals"
        self.sandbox._options.listened = bool(self.values.get("events") or self.values.get("explain"))
        self.json_file = self._open_report("json")
        self.events_file = self._open_report("events")
        self.sandbox._on_event_now = self.events.append
        self.sandbox._handed_over = True
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # what the caller ignores stays ignored
                signal.signal(number, _interrupt)
        try:
            self.sandbox.start()
            self._go_on(argv)
        finally:
            self.sandbox.close()

    def _go_on(self, argv: list[Any]) -> NoReturn:
        """Becomes the program that starts the command and stays with it. Signals from here on are for the command."""
        from ..control import frame
        from ..engines.sentry import find_attendant

        assert self.sandbox is not None and self.sandbox._guest is not None
        on_terminal = self._wants_terminal()
        info, options = self.sandbox._booted, self.sandbox._options
        state = {
            **self.sandbox._guest.hand_over(),
            "spawn": messages.request(_SPAWN, "spawn", _spawn.parameters(options, argv, _stdio(on_terminal)), 3),
            "descriptors": [0, 1, 2],
            "events": self.events,
            "on_terminal": on_terminal,
            "raw_terminal": on_terminal and os.isatty(0),
            "timeout_ns": None if options.timeout is None else int(options.timeout * 1e9),
            "memory": options.memory,
            "trace": bool(self.values.get("trace")),
            "events_file": _inherited(self.events_file),
            "report_file": _inherited(self.json_file),
            "record_file": self._record(),
            "record_maximum": _state.RECORD_MAXIMUM,
            "report": _facts(info),
        }
        program = find_attendant()
        shown = [b"do", *map(os.fsencode, self.arguments)]  # for those who look at the list of processes
        handed = os.memfd_create("skerry-attendant", 0)
        with open(handed, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as file:
            file.write(frame.dumps(state))
        os.lseek(handed, 0, os.SEEK_SET)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        # What comes between the two programs waits for the second.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        try:
            os.execv(program, [os.fsencode(program), b"%d" % handed, *shown])  # noqa: S606  # no shell is wanted
        except OSError as error:
            raise errors.SentryNotFound(f"{program!r} could not be started: {error.strerror}; reinstall Skerry") from error

    # --- options ---

    def _sandbox_options(self, argv: list[Any]) -> dict[str, Any]:
        values = dict(self.values)
        if (name := values.get("policy")) is not None:
            from ..policy import Policy

            values["policy"] = Policy.load(str(name)).for_command(argv, self.values.get("cwd"))  # type: ignore[arg-type]
        for key in ("tty", "trace", "events", "explain", "json", "help"):
            values.pop(key, None)
        values["inherit_env"] = "all" if values.pop("env_all", False) else "kept"
        values["env"] = _environment(values["env"])
        for key in ("block", "net"):
            values[key] = _devices(values[key], key)
        values["read_only"] = [_source_and_target(text) for text in values["read_only"]]  # type: ignore[attr-defined]
        return values

    def _open_report(self, key: str) -> IO[str] | None:
        """The file of --json or --events, opened before anything starts: a bad name is the caller's mistake."""
        name = self.values.get(key)
        if name is None:
            return None
        try:
            return open(str(name), "w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise errors.UsageError(f"{name!r} cannot be written: {error.strerror}", option=key) from None

    def _record(self) -> int | None:
        """What `skerry explain` will read; None where it cannot be kept."""
        assert self.sandbox is not None
        options = self.sandbox._options
        record = _state.begin_record(
            {
                "command": list(self.command),
                "cwd": options.cwd,
                "engine": options.engine,
                "listened": options.listened,
                "policy": None if options.policy is None else options.policy.as_dict(),
                "policy_source": None if options.policy is None else options.policy.source,
            }
        )
        if record is not None:
            os.set_inheritable(record, True)
        return record

    def _wants_terminal(self) -> bool:
        """By itself on a terminal; where only standard error leads elsewhere, it still does."""
        assert self.sandbox is not None
        chosen = self.values.get("tty")
        if chosen:
            self.sandbox._need("pty")
        elif self.sandbox._engine is not None and "pty" in self.sandbox._engine.capabilities.refuses:
            return False
        return bool(chosen) if chosen is not None else os.isatty(0) and os.isatty(1)

    def report(self, status: int, error: str) -> None:
        """Writes the file of --json, where there was no command; `error` is why."""
        if self.json_file is None:
            return
        import json

        report: dict[str, Any] = {
            "exit_status": status,
            "status": None,
            "signal": None,
            "core_dumped": False,
            "timed_out": False,
            "out_of_memory": False,
            "error": error,
            "usage": None,
            **_facts(None if self.sandbox is None else self.sandbox._booted),
        }
        file, self.json_file = self.json_file, None
        try:
            with file:
                json.dump(report, file, indent=2)
                file.write("\n")
        except OSError as problem:
            complain(f"do: --json: the result could not be written: {problem.strerror}")


def _interrupt(number: int, _: object) -> None:
    """There is no command yet: what would end us does."""
    raise _Interrupted(number)


def _facts(info: SandboxInfo | None) -> dict[str, Any]:
    """What the report says of the sandbox itself."""
    return {
        "layers": None if info is None else info.layers,
        "missing": None if info is None else [layer.as_dict() for layer in info.missing],
        "limits": None if info is None else info.limits,
        "profile": None if info is None else info.profile,
        "guest_memory": None if info is None else info.guest_memory,
        "version": None if info is None else info.version,
    }


def _inherited(file: IO[str] | None) -> int | None:
    if file is None:
        return None
    os.set_inheritable(file.fileno(), True)
    return file.fileno()


def _stdio(on_terminal: bool) -> dict[str, Any]:
    if not on_terminal:
        return messages.stdio_descriptors(0, 1, 2)
    try:
        columns, rows = os.get_terminal_size(1 if os.isatty(1) else 0)
    except OSError:
        columns = rows = 0
    # Standard error that leads elsewhere goes there and not to the terminal.
    return messages.stdio_terminal(0, 1, None if os.isatty(2) else 2, columns or 80, rows or 24)


def _environment(entries: Any) -> dict[str, str]:
    environment: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals:
            if name not in os.environ:
                continue  # nothing to take over
            value = os.environ[name]
        environment[name] = value
    return environment


def _devices(entries: Any, option: str) -> dict[str, str]:
    devices: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or name in devices:
            raise errors.UsageError(f"{entry!r}: write NAME=..., each name once", option=option)
        devices[name] = value
    return devices


def _source_and_target(text: str) -> Any:
    source, colon, target = text.partition(":")
    if not colon:
        return source
    if not source or not target:
        raise errors.UsageError(f"{text!r} is not SRC or SRC:DST", option="read_only")
    return source, target


def _fill_standard_descriptors() -> None:
    """Puts /dev/null where a standard stream is closed: else a descriptor of our own could take its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
