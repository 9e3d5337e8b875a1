"""The SDK's object: one living sandbox, any number of commands in it.

Threads: every method may be called from any thread. Replies and events arrive on the client's reader thread; the `events`
callback runs on a thread of its own, so that it may use the sandbox.

Lock order: `_updating`, `_starting`, then `_state`.
"""

from __future__ import annotations

import os
import threading
import time

from . import _values, errors
from ._options import DEFAULT_HOSTNAME, DEFAULT_PIDS, Options
from ._process import GRACE, Process
from .control import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import IO, Any

    from ._files import Files
    from ._records import ProcessState, Result, SandboxInfo, Usage
    from .engines.base import Engine, Guest
    from .policy import Policy

    StrPath = str | os.PathLike[str]
    Arguments = StrPath | bytes | Sequence[StrPath | bytes]
    User = int | str | tuple[int, int]
    Stream = int | IO[Any] | None

#: The values that `subprocess` has for the same things.
PIPE = -1
STDOUT = -2
DEVNULL = -3

#: How much of each output `run` keeps where `max_output` is not given.
DEFAULT_MAX_OUTPUT = 64 << 20
#: How much of each output a background command keeps.
DEFAULT_KEEP_OUTPUT = 1 << 20


class Sandbox:
    """A sandbox. Use it in a `with` statement; it starts at the first use and ends at `close`.

        with skerry.Sandbox(memory="512m") as sandbox:
            result = sandbox.run(["python3", "-c", "print(6 * 7)"], timeout=10, text=True)

    The host's tree is there read-only, with writes kept in memory. Options:

    read_write, read_only, hide, tmpfs
        Paths: written through to the host; read-only; hidden; empty and in memory. An entry of `read_only` may be a
        pair (host path, path inside).
    overlay_dir
        A host directory that keeps the writes.
    env, inherit_env
        Variables to add (None as a value takes one away); what is taken over from the caller: "kept" (the names in the
        documentation: PATH, HOME, LANG ...), "all" or "none".
    cwd, user, hostname
        Working directory; uid, (uid, gid), "UID:GID" or "caller" (by default the caller appears as root); host name.
    timeout, memory, cpus, pids
        Default timeout of `run`; limits for the whole sandbox, as numbers or text such as "512m".
    network
        "none", "loopback" (the default where the engine has it), or "user": also what is outside, as far as
        the policy goes (engine `microvm`).
    engine, min_isolation, require
        The wall ("auto": the highest level that can run this here); the least level, 1 to 4 (`skerry engines` lists them);
        layers that must be in force (else `LayerUnavailable`). What an engine cannot enforce is `Unenforceable`.
    accel, vmm, snapshot, root_image
        Of the engine `microvm`: "auto", "kvm" or "tcg"; the monitor; "auto" or "never"; the tree as an image, or a
        directory that one is made of (docs/engines/microvm.md).
    profile
        "default", or "strict": all data goes through the sentry, and what is mapped of the host's files is a copy.
    block, net
        Devices of a unikernel (engine "unikernel"), by the names that its image has for them: "FILE[,ro][,size=BYTES]", and
        "tap:INTERFACE[,mac=ADDRESS]".
    policy
        A `Policy`, or the name or file of one: what programs may do. Other options that are given hold where it says
        otherwise; paths are added to its own.
    trace, events
        Report every system call; a function that gets each event as a dictionary.
    """

    def __init__(
        self,
        *,
        read_write: Iterable[StrPath] | StrPath = (),
        read_only: Iterable[StrPath | tuple[StrPath, StrPath]] | StrPath = (),
        hide: Iterable[StrPath] | StrPath = (),
        tmpfs: Iterable[StrPath] | StrPath = (),
        overlay_dir: StrPath | None = None,
        env: Mapping[str, str | None] | None = None,
        inherit_env: str = "kept",
        cwd: StrPath | None = None,
        user: User | None = None,
        hostname: str = DEFAULT_HOSTNAME,
        timeout: float | str | None = None,
        memory: int | str | None = None,
        cpus: float | str | None = None,
        pids: int | None = DEFAULT_PIDS,
        network: str | None = None,
        engine: str = "sentry",
        min_isolation: int | str | None = None,
        accel: str = "auto",
        vmm: str = "qemu",
        snapshot: str = "auto",
        root_image: StrPath | None = None,
        profile: str = "default",
        trace: bool = False,
        require: Iterable[str] | str = (),
        policy: Policy | StrPath | None = None,
        block: Mapping[str, StrPath] | None = None,
        net: Mapping[str, str] | None = None,
        events: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        hidden_features = os.environ.get("SKERRY_TEST_WITHOUT", "")  # tests: features of the host to treat as absent
        self._options = Options(
            read_write=read_write,
            read_only=read_only,
            hide=hide,
            tmpfs=tmpfs,
            overlay_dir=overlay_dir,
            env=env,
            inherit_env=inherit_env,
            cwd=cwd,
            user=user,
            hostname=hostname,
            timeout=timeout,
            memory=memory,
            cpus=cpus,
            pids=pids,
            network=network,
            engine=engine,
            min_isolation=min_isolation,
            accel=accel,
            vmm=vmm,
            snapshot=snapshot,
            root_image=root_image,
            profile=profile,
            trace=trace,
            require=require,
            policy=policy,
            block=block,
            net=net,
            without=[name for name in hidden_features.split(",") if name],
        )
        if events is not None and not callable(events):
            raise errors.UsageError("must be a function that takes one event", option="events")
        self._options.listened = events is not None
        self._events_callback = events
        self._events: _EventThread | None = None
        self._on_event_now: Callable[[Mapping[str, Any]], None] | None = None  # the command line's own, in the reader thread
        self._handed_over = False  # the command line's: another program goes on after the boot
        self._starting = threading.Lock()
        self._updating = threading.Lock()
        self._state = threading.Lock()
        self._guest: Guest | None = None
        self._engine: Engine | None = None
        self._booted: SandboxInfo | None = None
        self._closed = False
        self._processes: dict[int, Process] = {}
        self._ended_early: dict[int, messages.Exited] = {}  # told before the reply to their `spawn`
        self._out_of_memory_early: set[int] = set()  # likewise
        self._files: Files | None = None

    # --- its life ---

    def start(self) -> Sandbox:
        """Starts the sandbox now; everything else does so at its first use."""
        self._started()
        return self

    def close(self) -> None:
        """Ends every process and the sandbox. Nothing of it is left on the host; a second call does nothing."""
        with self._starting:
            self._closed = True
            guest = self._guest
        if guest is not None:
            guest.close()
        if self._events is not None:
            self._events.finish()
        with self._state:
            processes = list(self._processes.values())
            self._processes.clear()
        for process in processes:
            process._finish(None, errors.SandboxClosed("the sandbox was closed while the command ran"))

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # --- commands ---

    def run(
        self,
        args: Arguments,
        *,
        input: bytes | str | None = None,
        timeout: float | str | None = None,
        check: bool = False,
        shell: bool = False,
        on_stdout: Callable[[Any], object] | None = None,
        on_stderr: Callable[[Any], object] | None = None,
        max_output: int | str | None = DEFAULT_MAX_OUTPUT,
        stdin: Stream = DEVNULL,
        stderr: Stream = PIPE,
        text: bool = False,
        encoding: str = "utf-8",
        errors: str = "replace",
        cwd: StrPath | None = None,
        env: Mapping[str, str | None] | None = None,
        user: User | None = None,
        _started: Callable[[Process], object] | None = None,
    ) -> Result:
        """Runs a command to its end and gives its `Result`, as `subprocess.run(..., capture_output=True)` does.

        `timeout`: SIGTERM, one second later SIGKILL, then `TimeoutExpired`. `check`: a status other than 0 raises
        `CommandFailed`. `shell`: `args` is a line for /bin/sh. `on_stdout` and `on_stderr` get the output as it comes
        (bytes, or text with `text=True`). Of each output `max_output` bytes are kept; the rest is read and dropped, and
        the result says so. `env` is added to the sandbox's environment.
        """
        return self._run(
            args, input=input, timeout=timeout, check=check, shell=shell, on_stdout=on_stdout, on_stderr=on_stderr,
            max_output=max_output, stdin=stdin, stderr=stderr, text=text, encoding=encoding, decode_errors=errors, cwd=cwd,
            env=env, user=user, started=_started,
        )  # fmt: skip

    def spawn(
        self,
        args: Arguments,
        *,
        stdin: Stream | bool = PIPE,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        shell: bool = False,
        pty: bool | tuple[int, int] = False,
        background: bool = False,
        keep_output: int | str = DEFAULT_KEEP_OUTPUT,
        text: bool = False,
        encoding: str = "utf-8",
        errors: str = "replace",
        cwd: StrPath | None = None,
        env: Mapping[str, str | None] | None = None,
        user: User | None = None,
    ) -> Process:
        """Starts a command and gives its `Process`, as `subprocess.Popen` does, with pipes where nothing else is said.

        A stream is PIPE, DEVNULL, a descriptor or file of yours, None (your own stream) or, for stderr, STDOUT. `pty`
        gives the command a terminal (True, or (columns, rows)): then `stdin` and `stdout` are its other end. With
        `background` the outputs are read all the time and their last `keep_output` bytes kept, so that the command never
        waits for a reader; `connect` finds it again.
        """
        from . import _spawn

        return _spawn.spawn(
            self, args, stdin=DEVNULL if background and stdin == PIPE else stdin, stdout=stdout, stderr=stderr, shell=shell,
            pty=pty, background=background, keep_output=keep_output, text=text, encoding=encoding, decode_errors=errors,
            cwd=cwd, env=env, user=user,
        )  # fmt: skip

    def processes(self) -> list[ProcessState]:
        """The commands started here that still run."""
        return messages.read_processes(self._call("processes"))

    def connect(self, process: int | ProcessState) -> Process:
        """The running command of that id. Of a background command the streams start with what is kept of its output."""
        identifier = process if isinstance(process, int) else process.process
        with self._state:
            found = self._processes.get(identifier)
        if found is None:
            raise errors.NoSuchProcess(f"no command with id {identifier} runs in this sandbox; processes() lists them")
        if found._tails is not None:
            from . import _spawn

            return _spawn.reconnect(found)
        return found

    def kill(self, process: int | ProcessState | Process) -> None:
        """SIGKILL to a command and its process group."""
        (process if isinstance(process, Process) else self.connect(process)).kill()

    # --- the rest of it ---

    @property
    def files(self) -> Files:
        """Its files."""
        if self._files is None:
            from ._files import Files

            self._files = Files(self)
        return self._files

    def usage(self) -> Usage:
        """Resources used so far."""
        return messages.read_usage(self._call("usage"))

    def info(self) -> SandboxInfo:
        """Which layers of the wall are in force, which are not and why, and how each limit is held."""
        return messages.read_booted(self._call("info"))

    def update(self, *, memory: int | str | None = None, cpus: float | str | None = None) -> SandboxInfo:
        """Changes limits while it runs: those that it was started with, as far as its engine can (else `Unenforceable`).

        What programs use beyond less memory is taken back where it can be, else they are ended. After an error the limits are
        as they were before, and it can be asked for again.
        """
        wanted: dict[str, Any] = {
            "memory": None if memory is None else _values.size(memory, "memory"),
            "cpus": None if cpus is None else _values.cpus(cpus, "cpus"),
        }
        if wanted["memory"] is wanted["cpus"] is None:
            raise errors.UsageError("nothing is to be changed; give memory or cpus", option="memory")
        self._started()
        assert self._engine is not None
        for name, value in wanted.items():
            if value is not None and getattr(self._options, name) is None:
                raise errors.Unenforceable(name, self._engine.name, "it was started without that limit, so nothing holds one")
        with self._updating:
            for request in self._engine.update(**wanted):
                found: SandboxInfo = self._call("update", request, on_reply=messages.read_booted)
            for name, value in wanted.items():
                if value is not None:
                    setattr(self._options, name, value)
        return found

    # --- inside ---

    def _call(
        self,
        method: str,
        params: Any = None,
        descriptors: Sequence[int] = (),
        on_reply: Any = None,
        timeout: float | None = None,
    ) -> Any:
        return self._started().client.call(method, params, descriptors, on_reply, timeout)

    def _started(self) -> Guest:
        with self._starting:
            if self._closed:
                raise errors.SandboxClosed("the sandbox was closed; make a new one")
            if self._guest is None:
                from ._host import require_supported_host
                from .engines.base import chosen

                require_supported_host()
                engine = chosen(self._options)
                boot = engine.boot(self._options)
                if self._events_callback is not None:
                    self._events = _EventThread(self._events_callback)
                guest = engine.start(boot, self._on_event, self._on_end)
                try:
                    self._booted = guest.client.call("boot", boot, on_reply=messages.read_booted, last=self._handed_over)
                    self._require_limits(engine.name)
                except BaseException:
                    guest.close()
                    if self._events is not None:
                        self._events.finish()
                    raise
                self._guest, self._engine = guest, engine
            return self._guest

    def _need(self, feature: str) -> None:
        """What only a command or an operation asks for, and not every engine has."""
        self._started()
        assert self._engine is not None
        why = self._engine.capabilities.refuses.get(feature)
        if why is not None:
            raise errors.Unenforceable(feature, self._engine.name, why)

    def _require_limits(self, engine: str) -> None:
        """A limit that was asked for by name and that the engine cannot hold on this host is an error."""
        assert self._booted is not None
        for name, how in self._booted.limits.items():
            if how.startswith("not held") and name in self._options.given:
                raise errors.LayerUnavailable(f"{name}: the engine {engine!r} cannot enforce it on this host: {how}")

    def _run(
        self,
        args: Arguments,
        *,
        input: bytes | str | None,
        timeout: float | str | None,
        check: bool,
        max_output: int | str | None,
        on_stdout: Callable[[Any], object] | None,
        on_stderr: Callable[[Any], object] | None,
        stdin: Stream,
        text: bool,
        encoding: str,
        decode_errors: str,
        started: Callable[[Process], object] | None,
        **more: Any,
    ) -> Result:
        """`run`; `started` is told of the process, so that the asynchronous twin can end it."""
        from . import _spawn, _values
        from ._output import Sink, exchange

        seconds = self._options.timeout if timeout is None else _values.duration(timeout, "timeout")
        limit = None if max_output is None else 0 if max_output == 0 else _values.size(max_output, "max_output")
        if input is not None and stdin != DEVNULL:
            raise errors.UsageError("give input= or stdin=, not both", option="input")
        if isinstance(input, str):
            input = input.encode(encoding)
        process = _spawn.spawn(
            self, args, stdin=stdin if input is None else PIPE, stdout=PIPE, pty=False, background=False, keep_output=1,
            text=False, encoding=encoding, decode_errors=decode_errors, **more,
        )  # fmt: skip
        try:
            if started is not None:
                started(process)
            deadline = None if seconds is None else time.monotonic() + seconds
            decoders = (_spawn.decoder(encoding, decode_errors) if text else None for _ in range(2))
            sinks = [
                Sink.of(stream, limit, callback, decoder)
                for stream, callback, decoder in zip(
                    (process.stdout, process.stderr), (on_stdout, on_stderr), decoders, strict=True
                )
            ]
            out, err = sinks
            expired = not exchange(process, input, out, err, deadline)
            if expired:  # the outputs are read on, so that a handler of the command's can end in peace
                for number in (15, 9):
                    process.signal(number, target="group")
                    process.signal(number)
                    if exchange(process, None, out, err, time.monotonic() + GRACE):
                        break

            def shown(sink: Sink | None) -> Any:
                data = b"" if sink is None else sink.data()
                return _spawn.decode(data, encoding, decode_errors) if text else data

            if expired:
                assert seconds is not None
                raise errors.TimeoutExpired(process.args, seconds, shown(out), shown(err))
            result = process.result(
                shown(out),
                shown(err),
                stdout_truncated=out is not None and out.truncated,
                stderr_truncated=err is not None and err.truncated,
            )
        except BaseException:
            if process.returncode is None and process._end.failure is None:
                try:
                    process.kill()
                except errors.SandboxError:
                    pass  # the sandbox went first
            raise
        finally:
            process.close()
        if check:
            result.check_returncode()
        return result

    def _on_event(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "exited":
            exited = messages.read_exited(event)
            with self._state:
                process = self._processes.pop(exited.process, None)
                if process is None and len(self._ended_early) < 1024:  # as many spawns may be under way
                    self._ended_early[exited.process] = exited
            if process is not None:
                process._finish(exited, None)
        elif kind == "out_of_memory":
            with self._state:
                number = event.get("process", 0)
                victim = self._processes.get(number)
                if victim is None and len(self._out_of_memory_early) < 1024:
                    self._out_of_memory_early.add(number)
                # A child of a command was killed: whichever runs may be the one that it belonged to.
                for process in [victim] if victim is not None else list(self._processes.values()):
                    process._end.out_of_memory = True
        if self._on_event_now is not None:
            self._on_event_now(event)
        if self._events is not None:
            self._events.put(event)

    def _register(self, process: Process) -> None:
        """A command has been started; its end may have been told already."""
        with self._state:
            exited = self._ended_early.pop(process.id, None)
            if process.id in self._out_of_memory_early:
                self._out_of_memory_early.discard(process.id)
                process._end.out_of_memory = True
            if exited is None:
                self._processes[process.id] = process
        if exited is not None:
            process._finish(exited, None)

    def _on_end(self, problem: errors.SandboxError) -> None:
        with self._state:
            processes = list(self._processes.values())
            self._processes.clear()
        for process in processes:
            process._finish(None, problem)


class _EventThread:
    """Hands events to the user's function. A function that is too slow loses events and is told how many."""

    _LIMIT = 10_000

    def __init__(self, callback: Callable[[Mapping[str, Any]], object]) -> None:
        self._callback = callback
        self._waiting: list[Mapping[str, Any]] = []
        self._lost = 0
        self._finished = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="skerry-events", daemon=True)
        self._thread.start()

    def put(self, event: Mapping[str, Any]) -> None:
        with self._changed:
            if len(self._waiting) >= self._LIMIT:
                self._lost += 1
                return
            self._waiting.append(event)
            self._changed.notify()

    def finish(self) -> None:
        """Waits until what is there has been handed over."""
        with self._changed:
            self._finished = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._finished:
                    self._changed.wait()
                events, self._waiting = self._waiting, []
                if self._lost:
                    events.append({"event": "lost", "count": self._lost})
                    self._lost = 0
                if not events:
                    return
            for event in events:
                try:
                    self._callback(event)
                except Exception:
                    import sys
                    import traceback

                    print("skerry: the events callback failed:", file=sys.stderr)
                    traceback.print_exc()
