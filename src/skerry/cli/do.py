"""`skerry do [OPTIONS] -- COMMAND [ARG...]`: one command in a sandbox of its own.

The command gets our own standard streams: nothing is copied here. On a terminal it gets a terminal inside, and ours is in
raw mode meanwhile. Signals to us go on to the command. Our part is the exit status, the timeout and the reports.
"""

from __future__ import annotations

import os
import select
import signal
import time

from .. import _spawn, errors
from ..control import messages
from ..sandbox import Sandbox
from . import EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_TIMEOUT, EXIT_USAGE, complain, printable
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO, Any

    from .._process import Process
    from ._terminal import RawTerminal

OPTIONS = [
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
    Option("--network", "network", "none|loopback", "loopback (the default) stays inside the sandbox"),
    Option("--engine", "engine", "NAME", "the wall ('skerry engines' lists them; default: sentry)"),
    Option("--require", "require", "LAYER", "fail unless LAYER is in force: " + ", ".join(messages.LAYERS), many=True),
    Option("-t --tty", "tty", None, "give the command a terminal (by itself where yours is one)"),
    Option("-T --no-tty", "tty", None, "give it none", value=False),
    Option("--trace", "trace", None, "print every system call to standard error"),
    Option("--events", "events", "FILE", "write events to FILE, as JSON lines"),
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

#: To the command alone, as `kill` does; and to its process group, as the terminal does.
_TO_PROCESS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_TO_GROUP = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)

#: What ends us while there is no command yet.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_GRACE = 1.0


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
    """One run, from the command line to the exit status."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.values, self.command = parse(OPTIONS, arguments)
        self.sandbox: Sandbox | None = None
        self.process: Process | None = None
        self.terminal: RawTerminal | None = None
        self.events_file: IO[str] | None = None
        self.json_file: IO[str] | None = None
        self.started = False
        self.timed_out = False
        self.out_of_memory = False
        self.wake_reader = self.wake_writer = -1

    def run(self) -> int:
        if self.values.get("help"):
            print(help_text("skerry do [OPTIONS] -- COMMAND [ARG...]", "Runs COMMAND in a sandbox.", OPTIONS, *_NOTES))
            return 0
        if not self.command:
            raise errors.UsageError("there is no command; write: skerry do [OPTIONS] -- COMMAND [ARG...]")
        _fill_standard_descriptors()
        argv = _spawn.arguments(self.command, False)
        options = self._sandbox_options()
        trace = bool(self.values.get("trace"))
        self.sandbox = Sandbox(trace=trace, **options)
        self.json_file = self._open_report("json")
        self.events_file = self._open_report("events")
        self.sandbox._on_event_now = self._on_event
        on_terminal = self._wants_terminal()
        self._take_signals()
        try:
            if on_terminal and os.isatty(0):
                from ._terminal import RawTerminal

                self.terminal = RawTerminal(0)
                self.terminal.start()
            self.sandbox.start()
            self.started = True  # the command may run before the reply is here: from now on signals are for it
            self.process = self._spawn(argv, on_terminal)
            self.process.add_done_callback(self._wake)
            status = self._wait()
        finally:
            try:
                self.sandbox.close()
            finally:
                if self.terminal is not None:
                    self.terminal.restore()
                if self.events_file is not None:
                    self.events_file.close()
        if self.out_of_memory and status == 137:
            complain(f"do: out of memory: the sandbox reached its limit of {self.sandbox._options.memory} bytes (--memory)")
        self.report(status)
        return status

    # --- options ---

    def _sandbox_options(self) -> dict[str, Any]:
        values = dict(self.values)
        for key in ("tty", "trace", "events", "json", "help"):
            values.pop(key, None)
        values["inherit_env"] = "all" if values.pop("env_all", False) else "kept"
        values["env"] = _environment(values["env"])
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

    def _wants_terminal(self) -> bool:
        """By itself on a terminal; where only standard error leads elsewhere, it still does."""
        chosen = self.values.get("tty")
        return bool(chosen) if chosen is not None else os.isatty(0) and os.isatty(1)

    # --- the command ---

    def _spawn(self, argv: list[Any], on_terminal: bool) -> Process:
        assert self.sandbox is not None
        if on_terminal:
            from ._terminal import window_size

            columns, rows = window_size(1 if os.isatty(1) else 0)
            # Standard error that leads elsewhere goes there and not to the terminal.
            stdio = messages.stdio_terminal(0, 1, None if os.isatty(2) else 2, columns, rows)
        else:
            stdio = messages.stdio_descriptors(0, 1, 2)
        return _spawn.start(self.sandbox, argv, stdio, [0, 1, 2], cwd=None, env=None, user=None, terminal=on_terminal)

    def _take_signals(self) -> None:
        """From here on each signal is a byte in a pipe, in order. What the caller ignores stays ignored."""
        self.wake_reader, self.wake_writer = os.pipe()
        os.set_blocking(self.wake_reader, False)
        os.set_blocking(self.wake_writer, False)
        signal.set_wakeup_fd(self.wake_writer, warn_on_full_buffer=False)
        for number in _TO_PROCESS + _TO_GROUP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._noted)

    def _noted(self, number: int, _: object) -> None:
        """The pipe has it already; before there is a command, what would end us does."""
        if not self.started and number in _ENDING:
            raise _Interrupted(number)

    def _wake(self) -> None:
        """The command has ended: byte 0."""
        try:
            os.write(self.wake_writer, b"\0")
        except BlockingIOError:
            pass  # it is full of signals: it wakes anyway

    def _wait(self) -> int:
        """Passes signals on until the command ends; keeps its time."""
        assert self.sandbox is not None and self.process is not None
        seconds = self.sandbox._options.timeout
        deadline = None if seconds is None else time.monotonic() + seconds
        escalation = iter((signal.SIGTERM, signal.SIGKILL))
        poll = select.poll()
        poll.register(self.wake_reader, select.POLLIN)
        while True:
            returncode = self.process.poll()
            if returncode is not None:
                return EXIT_TIMEOUT if self.timed_out else returncode
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                self.timed_out = True
                stronger = next(escalation, None)
                if stronger is None:  # it outlives SIGKILL: the sandbox ends with us
                    return EXIT_TIMEOUT
                self.process.signal(stronger, target="all")
                deadline = time.monotonic() + _GRACE
                continue
            poll.poll(None if remaining is None else max(1, int(remaining * 1000)))
            try:
                numbers = os.read(self.wake_reader, 4096)
            except BlockingIOError:
                continue
            for number in numbers:
                if number:
                    self._pass_on(signal.Signals(number))

    def _pass_on(self, number: signal.Signals) -> None:
        assert self.process is not None
        if number == signal.SIGWINCH and self.process.pty:
            from ._terminal import window_size

            self.process.resize(*window_size(1 if os.isatty(1) else 0))
            return
        self.process.signal(number, target="group" if number in _TO_GROUP else "process")
        if number == signal.SIGTSTP and self.terminal is None:
            # The caller's shell waits for us to stop too; its SIGCONT comes in as a signal to pass on.
            os.kill(os.getpid(), signal.SIGSTOP)

    # --- reports ---

    def _on_event(self, event: Mapping[str, Any]) -> None:
        """In the reader thread: a slow file or terminal slows the sandbox's events, and loses none."""
        kind = event.get("event")
        if kind == "out_of_memory":
            self.out_of_memory = True
        elif kind == "trace" and self.values.get("trace"):
            text = printable(f"[{event.get('process')}] {event.get('text')}")
            end = "\r\n" if self.terminal is not None else "\n"
            try:
                os.write(2, (text + end).encode("utf-8", "backslashreplace"))
            except OSError:
                pass  # nobody listens
        if self.events_file is not None:
            import json

            try:
                self.events_file.write(json.dumps(event) + "\n")
                self.events_file.flush()
            except OSError as error:
                self.events_file = None
                complain(f"do: --events: {error.strerror}; no more events are written")

    def report(self, status: int, error: str | None = None) -> None:
        """Writes the file of --json; `error` is why there was no command to its end."""
        if self.json_file is None:
            return
        import json

        exited = None if self.process is None else self.process._end.exited
        info = None if self.sandbox is None else self.sandbox._booted
        report: dict[str, Any] = {
            "exit_status": status,
            "status": None if exited is None else exited.status,
            "signal": None if exited is None else exited.signal,
            "core_dumped": exited is not None and exited.core_dumped,
            "timed_out": self.timed_out,
            "out_of_memory": self.out_of_memory,
            "error": error,
            "usage": None if exited is None else exited.usage.as_dict(),
            "layers": None if info is None else info.layers,
            "missing": None if info is None else [layer.as_dict() for layer in info.missing],
            "limits": None if info is None else info.limits,
            "guest_memory": None if info is None else info.guest_memory,
            "version": None if info is None else info.version,
        }
        file, self.json_file = self.json_file, None
        try:
            with file:
                json.dump(report, file, indent=2)
                file.write("\n")
        except OSError as problem:
            complain(f"do: --json: the result could not be written: {problem.strerror}")


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
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
