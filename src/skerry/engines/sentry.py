"""The `sentry` engine: finds, starts and ends one `skerry-sentry` process per sandbox.

The process gets one end of a socket pair as its only extra descriptor, a session of its own, /dev/null as standard
input and output, and a pipe as standard error, of which the last lines go into the message if it dies by itself.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading

from .. import errors
from ..control.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

PROGRAM = "skerry-sentry"

_STDERR_KEPT = 16 << 10
#: How long a sentry may take to end after its control socket closed, before it is killed.
_END_GRACE = 5.0


def find_sentry(environment: Mapping[str, str] | None = None) -> str:
    """The path of the `skerry-sentry` program; the error lists each place that was looked at."""
    environment = os.environ if environment is None else environment
    override = environment.get("SKERRY_SENTRY")
    if override:
        if _is_program(override):
            return override
        raise errors.SentryNotFound(f"SKERRY_SENTRY names {override!r}, which is not an executable file; unset or mend it")
    looked: list[str] = []
    for place in _places(environment):
        path = os.path.join(place, PROGRAM)
        if path in looked:
            continue
        if _is_program(path):
            return path
        looked.append(path)
    listing = "\n  ".join(looked)
    raise errors.SentryNotFound(
        f"the program {PROGRAM!r} is not installed; install Skerry with 'pip install skerry', or set SKERRY_SENTRY to "
        f"its path. Looked at:\n  {listing}"
    )


def _places(environment: Mapping[str, str]) -> Any:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    yield os.path.join(package, "_bin")
    if sys.executable:
        yield os.path.dirname(sys.executable)
    site = os.path.dirname(package)
    # PREFIX/lib/pythonX.Y/site-packages/skerry -> PREFIX/bin (also a user's own prefix); `pip install --target DIR` -> DIR/bin.
    yield os.path.normpath(os.path.join(site, "..", "..", "..", "bin"))
    yield os.path.join(site, "bin")
    import sysconfig  # late: it is slow to import, and the places above are where it nearly always is

    yield sysconfig.get_path("scripts")
    for place in environment.get("PATH", os.defpath).split(os.pathsep):
        if place:
            yield place


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _signal_name(number: int) -> str:
    import signal  # late: only for this message

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def sweep_groups(program: str) -> list[str]:
    """Takes away the cgroups that killed sandboxes have left; gives their paths."""
    try:
        done = subprocess.run(
            [program, "--sweep"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return []  # the next sandbox that needs a cgroup tries again
    return os.fsdecode(done.stdout).splitlines()


class SentryEngine:
    """Starts sentries."""

    name = "sentry"

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> SentryGuest:
        """A sentry that waits for its `boot`."""
        return SentryGuest(find_sentry(), on_event, on_end)


class SentryGuest:
    """One sentry process and the client that speaks to it."""

    def __init__(
        self,
        program: str,
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> None:
        self._program = program
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stderr_tail = bytearray()
        self._closing = threading.Lock()
        self._closed = False
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [program, "--control-fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise errors.SentryNotFound(f"{program!r} could not be started: {error.strerror}; reinstall Skerry") from error
        assert self._process.stderr is not None
        stderr = self._process.stderr.fileno()
        os.set_blocking(stderr, False)
        self.client = Client(
            ours,
            on_event=on_event,
            on_end=on_end,
            describe_end=self._describe_end,
            watched={stderr: self._read_stderr},
        )

    @property
    def pid(self) -> int:
        """The host's process id of the sentry."""
        return self._process.pid

    def close(self) -> None:
        """Closes the control socket, waits until the sentry has ended everything, and kills it if it does not."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self.client.close()
            if not self._wait(_END_GRACE):
                self._process.kill()
                self._process.wait()
            if self._process.returncode < 0:
                self._sweep()
            if self._process.stderr is not None:
                self._process.stderr.close()

    def _sweep(self) -> None:
        """A sentry that was killed could not take its cgroups away."""
        assert self._process.stderr is not None
        poll = select.poll()
        poll.register(self._process.stderr, select.POLLIN)
        # The end of the stream: all that shared it are dead.
        while poll.poll(_END_GRACE * 1000) and self._read_stderr():
            pass
        sweep_groups(self._program)

    def _wait(self, timeout: float) -> bool:
        """Waits for the process without the polling intervals of `Popen.wait`."""
        if self._process.poll() is not None:
            return True
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except OSError:  # a seccomp profile may forbid it
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                return False
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout * 1000)) and self._process.wait() is not None
        finally:
            os.close(descriptor)

    def _read_stderr(self) -> bool:
        """Takes what there is; False at the end of the stream."""
        assert self._process.stderr is not None
        try:
            data = os.read(self._process.stderr.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._stderr_tail += data
        del self._stderr_tail[:-_STDERR_KEPT]
        return bool(data)

    def _describe_end(self) -> errors.SandboxError:
        ended = self._wait(2.0)
        assert self._process.stderr is not None
        poll = select.poll()
        poll.register(self._process.stderr, select.POLLIN)
        while poll.poll(0) and self._read_stderr():
            pass  # the last words
        text = self._stderr_tail.decode("utf-8", "backslashreplace").strip()
        status = self._process.returncode if ended else None
        if status is None:
            how = "closed its control socket and did not end"
        elif status < 0:
            how = f"was killed by {_signal_name(-status)}"
        else:
            how = f"ended with status {status}"
        said = f"; it said:\n{text}" if text else ""
        return errors.SentryDied(
            f"the guest kernel ({PROGRAM}) {how}, and every process of the sandbox ended with it; start a new sandbox{said}",
            status=status,
            stderr=text,
        )
