"""The `sentry` engine: finds, starts and ends one `skerry-sentry` process per sandbox.

The process gets one end of a socket pair as its only extra descriptor, a session of its own, /dev/null as standard
input and output, and a pipe as standard error, of which the last lines go into the message if it dies by itself.
"""

from __future__ import annotations

import _socket  # the C half, as in the client
import os
import select
import sys
import threading
import time

from .. import errors
from ..control import messages
from ..control.client import Client
from .base import NO_NETWORK_OUTSIDE, Capabilities, Probe, probe_by_boot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from .._options import Options

PROGRAM = "skerry-sentry"
ATTENDANT = "skerry-attendant"

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
    return _find(PROGRAM, environment)


def find_attendant(environment: Mapping[str, str] | None = None) -> str:
    """The path of the `skerry-attendant` program, which the command line becomes."""
    return find_beside(ATTENDANT, environment)


def find_beside(program: str, environment: Mapping[str, str] | None = None) -> str:
    """The path of another program of ours: beside the sentry that is in use."""
    environment = os.environ if environment is None else environment
    override = environment.get("SKERRY_SENTRY")
    beside = os.path.join(os.path.dirname(override), program) if override else ""
    return beside if _is_program(beside) else _find(program, environment)


def _find(program: str, environment: Mapping[str, str]) -> str:
    looked: list[str] = []
    for place in _places(environment):
        path = os.path.join(place, program)
        if path in looked:
            continue
        if _is_program(path):
            return path
        looked.append(path)
    listing = "\n  ".join(looked)
    raise errors.SentryNotFound(
        f"the program {program!r} is not installed; install Skerry with 'pip install skerry', or set SKERRY_SENTRY to "
        f"the sentry's path. Looked at:\n  {listing}"
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
    import subprocess  # late: it is slow to import

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
    capabilities = Capabilities(level=3, refuses=NO_NETWORK_OUTSIDE)

    def boot(self, options: Options) -> dict[str, Any]:
        """As the options have it."""
        return options.boot_message()

    def update(self, memory: int | None, cpus: float | None) -> list[dict[str, Any]]:
        """Of memory; CPUs stay as they are."""
        if cpus is not None:
            why = "programs have been told how many there are; start another sandbox"
            raise errors.Unenforceable("cpus", self.name, why)
        return [messages.update(memory=memory)]

    def probe(self) -> Probe:
        """By a sandbox that boots."""
        return probe_by_boot(self.name, "'skerry doctor' says what is missing")

    def start(
        self,
        boot: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> ProgramGuest:
        """A sentry that waits for its `boot`."""
        return ProgramGuest([find_sentry()], os.environ, f"the guest kernel ({PROGRAM})", on_event, on_end)


class _Child:
    """An engine's process: started without the `subprocess` module, whose import takes longer than the start."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], control: int, stderr: int) -> None:
        """OSError where it cannot be started."""
        # Where a caller has closed standard streams, ours may have their numbers: out of the way first.
        control, stderr = (_above(descriptor) for descriptor in (control, stderr))
        try:
            self.pid = os.posix_spawn(
                command[0],
                [command[0], "--control-fd", "3", *command[1:]],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (os.POSIX_SPAWN_DUP2, stderr, 2),
                    (os.POSIX_SPAWN_DUP2, control, 3),  # the engine closes all others itself
                ],
                setsid=True,
                setsigdef=_IGNORED_BY_PYTHON,
            )
        finally:
            os.close(control)
            os.close(stderr)
        self._lock = threading.Lock()
        self._status: int | None = None

    def poll(self) -> int | None:
        """The status (negative: the signal that killed it), or None while it runs."""
        with self._lock:
            if self._status is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # the caller ignores SIGCHLD, or waits for all its children
                    pid, status = self.pid, 0
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
            return self._status

    def wait(self, timeout: float) -> int | None:
        """Its status, waited for at most `timeout` seconds."""
        if self.poll() is None:
            try:
                descriptor = os.pidfd_open(self.pid)
            except OSError:  # a seccomp profile may forbid it, or it has just been waited for
                deadline = time.monotonic() + timeout
                while self.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.005)
            else:
                try:
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll(timeout * 1000)
                finally:
                    os.close(descriptor)
        return self.poll()

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        with self._lock:
            if self._status is None:
                os.kill(self.pid, 9)


#: SIGPIPE and SIGXFSZ, which Python ignores and its children would inherit so.
_IGNORED_BY_PYTHON = (13, 25)


def _above(descriptor: int) -> int:
    """A copy of a descriptor above all numbers that the start uses."""
    import fcntl  # small, and built in nearly everywhere

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)


class ProgramGuest:
    """One process of an engine's program, told `name` in messages, and the client that speaks to it."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        name: str,
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
    ) -> None:
        self._program = program = command[0]
        self._name = name
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._stderr, stderr = os.pipe()
        self._stderr_tail = bytearray()
        self._closing = threading.Lock()
        self._closed = False
        try:
            self._process = _Child(command, environment, theirs.fileno(), stderr)
        except OSError as error:
            ours.close()
            os.close(self._stderr)
            raise errors.SentryNotFound(f"{program!r} could not be started: {error.strerror}; reinstall Skerry") from error
        finally:
            theirs.close()
            os.close(stderr)
        os.set_blocking(self._stderr, False)
        self.client = Client(
            ours,
            on_event=on_event,
            on_end=on_end,
            describe_end=self._describe_end,
            watched={self._stderr: self._read_stderr},
        )

    @property
    def pid(self) -> int:
        """The host's process id of the engine."""
        return self._process.pid

    def hand_over(self) -> dict[str, Any]:
        """See `Guest`; both descriptors are inherited by the program that we become."""
        import binascii

        control, unread = self.client.hand_over()
        for descriptor in (control, self._stderr):
            os.set_inheritable(descriptor, True)
        return {
            "control": control,
            "engine_stderr": self._stderr,
            "engine_pid": self._process.pid,
            "engine_program": self._name,
            "engine_cleanup": [self._program, "--sweep"],
            "unread": binascii.b2a_base64(unread, newline=False).decode("ascii"),
        }

    def close(self) -> None:
        """Closes the control socket, waits until the engine has ended everything, and kills it if it does not."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self.client.close()
            if self._process.wait(_END_GRACE) is None:
                self._process.kill()
                self._process.wait(_END_GRACE)
            if (self._process.poll() or 0) < 0:
                # An engine that was killed could not take its cgroups away. The end of its standard error: all are dead.
                poll = select.poll()
                poll.register(self._stderr, select.POLLIN)
                while poll.poll(_END_GRACE * 1000) and self._read_stderr():
                    pass
                sweep_groups(self._program)
            os.close(self._stderr)

    def _read_stderr(self) -> bool:
        """Takes what there is; False at the end of the stream."""
        try:
            data = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._stderr_tail += data
        del self._stderr_tail[:-_STDERR_KEPT]
        return bool(data)

    def _describe_end(self) -> errors.SandboxError:
        status = self._process.wait(2.0)
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        while poll.poll(0) and self._read_stderr():
            pass  # the last words
        text = self._stderr_tail.decode("utf-8", "backslashreplace").strip()
        if status is None:
            how = "closed its control socket and did not end"
        elif status < 0:
            how = f"was killed by {_signal_name(-status)}"
        else:
            how = f"ended with status {status}"
        said = f"; it said:\n{text}" if text else ""
        return errors.SentryDied(
            f"{self._name} {how}, and every process of the sandbox ended with it; start a new sandbox{said}",
            status=status,
            stderr=text,
        )
