"""`AsyncSandbox`: the same sandbox for asyncio. Each call runs the synchronous core in a thread; no logic is repeated here.

A thread per call, not the default executor: its few workers could all be waiting for commands that wait for another one.
"""

from __future__ import annotations

import asyncio
import functools
import threading

from ._files import Files
from ._process import GRACE, Process
from .sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import IO, Any, Concatenate, ParamSpec, TypeVar

    from ._records import Result, Usage

    P = ParamSpec("P")
    R = TypeVar("R")


async def _in_thread(function: Callable[P, R], /, *args: P.args, **keywords: P.kwargs) -> R:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    def work() -> None:
        value, error = None, None
        try:
            value = function(*args, **keywords)
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody waits any more

    threading.Thread(target=work, name="skerry-async", daemon=True).start()
    return await future


def _twin(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """The asynchronous form of `method`, called on what `self._sync` is."""

    @functools.wraps(method)
    async def call(self: Any, /, *args: P.args, **keywords: P.kwargs) -> R:
        return await _in_thread(method, self._sync, *args, **keywords)

    return call


def _parameters_of(
    method: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """For type checkers and `help`: the decorated method takes what `method` takes."""

    def decorate(function: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        return functools.wraps(method, assigned=("__doc__",))(function)

    return decorate


class AsyncStream:
    """One of a process's streams."""

    def __init__(self, stream: IO[Any]) -> None:
        self._sync = stream

    async def read(self, size: int = -1) -> Any:
        """Up to `size` bytes, or all there are to the end."""
        return await _in_thread(self._sync.read, size)

    async def readline(self) -> Any:
        """One line; nothing at the end."""
        return await _in_thread(self._sync.readline)

    async def write(self, data: Any) -> None:
        """Writes all of `data` through to the command."""

        def write() -> None:
            self._sync.write(data)
            self._sync.flush()

        await _in_thread(write)

    async def close(self) -> None:
        """Closes our end."""
        await _in_thread(self._sync.close)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while line := await self.readline():
            yield line


class AsyncProcess:
    """A command in an `AsyncSandbox`."""

    def __init__(self, process: Process) -> None:
        self._sync = process
        self.args = process.args
        self.id = process.id
        self.pty = process.pty
        self.stdin = None if process.stdin is None else AsyncStream(process.stdin)
        self.stdout = None if process.stdout is None else AsyncStream(process.stdout)
        self.stderr = None if process.stderr is None else AsyncStream(process.stderr)

    @property
    def returncode(self) -> int | None:
        """The command's own status, 128+N when signal N killed it, None while it runs."""
        return self._sync.returncode

    @property
    def exit_signal(self) -> int | None:
        """The signal that killed it, where one did."""
        return self._sync.exit_signal

    @property
    def usage(self) -> Usage | None:
        """What had been used when it ended; None while it runs."""
        return self._sync.usage

    wait = _twin(Process.wait)
    communicate = _twin(Process.communicate)
    signal = _twin(Process.signal)
    send_signal = _twin(Process.signal)
    terminate = _twin(Process.terminate)
    kill = _twin(Process.kill)
    stop = _twin(Process.stop)
    resize = _twin(Process.resize)
    close = _twin(Process.close)

    @_parameters_of(Process.result)
    def result(self, *args: Any, **keywords: Any) -> Result:
        return self._sync.result(*args, **keywords)

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _in_thread(self._sync.__exit__, *_)

    def __repr__(self) -> str:
        return repr(self._sync).replace("Process", "AsyncProcess", 1)


class AsyncFiles:
    """`AsyncSandbox.files`."""

    def __init__(self, files: Files) -> None:
        self._sync = files

    read = _twin(Files.read)
    read_text = _twin(Files.read_text)
    write = _twin(Files.write)
    list = _twin(Files.list)
    stat = _twin(Files.stat)
    exists = _twin(Files.exists)
    remove = _twin(Files.remove)
    mkdir = _twin(Files.mkdir)
    rename = _twin(Files.rename)


class AsyncSandbox:
    """`Sandbox` for asyncio: the same options and methods, awaited. Cancelling a `run` ends its command.

    async with skerry.AsyncSandbox(memory="512m") as sandbox:
        result = await sandbox.run(["python3", "-c", "print(6 * 7)"], timeout=10, text=True)
    """

    @_parameters_of(Sandbox.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        self._sync = Sandbox(*args, **options)
        self.files = AsyncFiles(self._sync.files)

    async def start(self) -> AsyncSandbox:
        """Starts the sandbox now; everything else does so at its first use."""
        await _in_thread(self._sync.start)
        return self

    close = _twin(Sandbox.close)
    processes = _twin(Sandbox.processes)
    usage = _twin(Sandbox.usage)
    info = _twin(Sandbox.info)
    update = _twin(Sandbox.update)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._sync.closed

    async def __aenter__(self) -> AsyncSandbox:
        try:
            return await self.start()
        except asyncio.CancelledError:
            await _in_thread(self._sync.close)
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(_in_thread(self._sync.close))

    @_parameters_of(Sandbox.run)
    async def run(self, *args: Any, **keywords: Any) -> Result:
        processes: list[Process] = []
        cancelled = False

        def started(process: Process) -> None:
            processes.append(process)
            if cancelled:
                process.kill()

        running = asyncio.ensure_future(_in_thread(self._sync.run, *args, _started=started, **keywords))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            cancelled = True
            for process in processes:
                await _in_thread(process.kill)
            await asyncio.wait([running], timeout=GRACE)
            if running.done() and not running.cancelled():
                running.exception()  # seen: nobody else asks for it
            raise

    @_parameters_of(Sandbox.spawn)
    async def spawn(self, *args: Any, **keywords: Any) -> AsyncProcess:
        return AsyncProcess(await _in_thread(self._sync.spawn, *args, **keywords))

    @_parameters_of(Sandbox.connect)
    async def connect(self, *args: Any, **keywords: Any) -> AsyncProcess:
        return AsyncProcess(self._sync.connect(*args, **keywords))

    @_parameters_of(Sandbox.kill)
    async def kill(self, process: Any) -> None:
        await _in_thread(self._sync.kill, process._sync if isinstance(process, AsyncProcess) else process)
