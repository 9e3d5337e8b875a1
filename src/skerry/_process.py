"""A command that runs in a sandbox: its streams, its end, and the signals to it."""

from __future__ import annotations

import threading
import time

from . import errors
from ._records import Result, Usage
from .control import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO, Any

    from ._output import Sink, Tail
    from .sandbox import Sandbox

#: How long a command that was told to end (TERM) may take before it is killed.
GRACE = 1.0

_TERM, _KILL = 15, 9

#: After so many seconds without an answer the guest kernel is taken to hang.
_PATIENCE = 10.0


class _End:
    """How a command ended, shared by every `Process` that stands for it."""

    __slots__ = ("callbacks", "done", "exited", "failure", "out_of_memory", "state")

    def __init__(self) -> None:
        self.exited: messages.Exited | None = None
        self.failure: errors.SandboxError | None = None
        self.out_of_memory = False
        self.done = threading.Event()
        self.state = threading.Lock()
        self.callbacks: list[Callable[[], None]] = []


class Process:
    """Made by `Sandbox.spawn`. The streams are None where no pipe was asked for."""

    def __init__(
        self,
        sandbox: Sandbox,
        args: Sequence[str | bytes],
        identifier: int,
        *,
        terminal: bool = False,
        end: _End | None = None,
    ) -> None:
        self._sandbox = sandbox
        self.args = args
        #: The process id inside the sandbox.
        self.id = identifier
        #: Whether it runs on a terminal of its own.
        self.pty = terminal
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self._end = end or _End()
        self._tails: tuple[Tail | None, Tail | None] | None = None
        self._unsent = memoryview(b"")
        self._sinks: tuple[Sink | None, Sink | None] | None = None

    # --- its end ---

    @property
    def returncode(self) -> int | None:
        """The command's own status, 128+N when signal N killed it, None while it runs."""
        return None if self._end.exited is None else self._end.exited.returncode

    @property
    def exit_signal(self) -> int | None:
        """The signal that killed it, where one did."""
        return None if self._end.exited is None else self._end.exited.signal

    @property
    def usage(self) -> Usage | None:
        """What had been used when it ended; None while it runs."""
        return None if self._end.exited is None else self._end.exited.usage

    def poll(self) -> int | None:
        """`returncode`; an error if the sandbox was lost before the command ended."""
        if self._end.exited is None and self._end.failure is not None:
            raise self._end.failure.with_traceback(None)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and gives `returncode`. After `timeout` seconds: `TimeoutExpired`, and the command runs on."""
        if not self._end.done.wait(timeout):
            assert timeout is not None
            raise errors.TimeoutExpired(self.args, timeout)
        returncode = self.poll()
        assert returncode is not None
        return returncode

    def result(self, /, stdout: Any = b"", stderr: Any = b"", **more: Any) -> Result:
        """The ended command as a `Result`."""
        exited = self._end.exited
        if exited is None:
            raise errors.UsageError("the command still runs; wait() for it first")
        return Result(
            self.args,
            exited.returncode,
            stdout,
            stderr,
            signal=exited.signal,
            core_dumped=exited.core_dumped,
            out_of_memory=self._end.out_of_memory,
            usage=exited.usage,
            **more,
        )

    def communicate(self, input: bytes | str | None = None, timeout: float | None = None) -> tuple[bytes | None, bytes | None]:
        """Sends `input`, reads both outputs to their ends and waits, as `subprocess.Popen.communicate` does.

        After `TimeoutExpired` it may be called again: nothing that was read is lost.
        """
        from ._output import Sink, exchange

        if self._sinks is None:
            self._sinks = (Sink.of(self.stdout), Sink.of(self.stderr))
        out, err = self._sinks
        deadline = None if timeout is None else time.monotonic() + timeout
        if not exchange(self, input, out, err, deadline):
            assert timeout is not None
            raise errors.TimeoutExpired(
                self.args, timeout, None if out is None else out.data(), None if err is None else err.data()
            )
        return (None if out is None else out.data(), None if err is None else err.data())

    # --- signals ---

    def signal(self, number: int, *, target: str = "process") -> None:
        """Sends a signal to the process, its process "group", or "all" processes of the sandbox. None if it has ended."""
        if target not in ("process", "group", "all"):
            raise errors.UsageError(f"{target!r} is none of process, group, all", option="target")
        if self._end.done.is_set() and target != "all":
            return
        try:
            self._sandbox._call("signal", messages.signal(self.id, int(number), target), timeout=_PATIENCE)
        except errors.NoSuchProcess:
            pass  # it ended meanwhile, as subprocess has it

    send_signal = signal

    def terminate(self) -> None:
        """SIGTERM to the process."""
        self.signal(_TERM)

    def kill(self) -> None:
        """SIGKILL to the process and its process group."""
        self.signal(_KILL, target="group")
        self.signal(_KILL)

    def stop(self, grace: float = GRACE) -> None:
        """SIGTERM to the process group, and SIGKILL if it has not ended after `grace` seconds."""
        self.signal(_TERM, target="group")
        if not self._end.done.wait(grace):
            self.kill()
            self._end.done.wait(grace)

    def resize(self, columns: int, rows: int) -> None:
        """Sets the size of the process's terminal; SIGWINCH follows inside."""
        if not self.pty:
            raise errors.UsageError("the process has no terminal; spawn it with pty=True")
        if not (0 < columns < 1 << 16 and 0 < rows < 1 << 16):
            raise errors.UsageError("columns and rows are from 1 to 65535")
        try:
            self._sandbox._call("resize", messages.resize(self.id, columns, rows))
        except errors.NoSuchProcess:
            pass

    # --- housekeeping ---

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, from another thread, when the command has ended or the sandbox was lost."""
        with self._end.state:
            if not self._end.done.is_set():
                self._end.callbacks.append(callback)
                return
        callback()

    def close(self) -> None:
        """Closes our ends of the streams; the command sees the end of its input, or a broken pipe."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass  # what was buffered for a command that has ended

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        try:
            self.wait()
        except errors.SandboxError:
            pass  # it was reported to whoever used the sandbox

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode={self.returncode}"
        return f"<skerry.Process {self.id} {list(self.args)!r} {state}>"

    # Called by the sandbox, from the reader thread.

    def _finish(self, exited: messages.Exited | None, failure: errors.SandboxError | None) -> None:
        end = self._end
        with end.state:
            if end.done.is_set():
                return
            end.exited = exited
            end.failure = failure
            end.done.set()
            callbacks, end.callbacks = end.callbacks, []
        for callback in callbacks:
            callback()
