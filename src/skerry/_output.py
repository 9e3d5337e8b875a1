"""What commands write, in bounded memory: `Sink` keeps the head of a finite output, `Tail` the end of an endless one."""

from __future__ import annotations

import io
import os
import select
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    from ._process import Process

_CHUNK = 1 << 16


class Sink:
    """Takes one stream's output: keeps up to `limit` bytes and hands everything to `callback`."""

    def __init__(
        self, stream: IO[Any], limit: int | None = None, callback: Callable[[Any], object] | None = None, decoder: Any = None
    ) -> None:
        self.stream = stream
        self.limit = limit
        self.truncated = False
        self._kept = bytearray()
        self._callback = callback
        self._decoder = decoder

    @classmethod
    def of(cls, stream: IO[Any] | None, *more: Any) -> Sink | None:
        """A sink where there is a stream."""
        return None if stream is None else cls(stream, *more)

    def feed(self, data: bytes) -> None:
        """More output; b"" at its end."""
        room = len(data) if self.limit is None else self.limit - len(self._kept)
        if len(data) > room:
            self.truncated = True
        self._kept += data[: max(room, 0)]
        if self._callback is not None:
            shown = data if self._decoder is None else self._decoder.decode(data, not data)
            if shown:
                self._callback(shown)

    def data(self) -> bytes:
        """What is kept."""
        return bytes(self._kept)


def exchange(process: Process, input: bytes | str | None, out: Sink | None, err: Sink | None, deadline: float | None) -> bool:
    """Writes `input`, reads both outputs to their ends, waits for the command; False if `deadline` came first.

    Called again with input=None it goes on where it stopped.
    """
    poll = select.poll()
    readers: dict[int, Sink] = {}
    for sink in (out, err):
        if sink is not None and not sink.stream.closed:
            readers[sink.stream.fileno()] = sink
            poll.register(sink.stream.fileno(), select.POLLIN)
    if input is not None:
        process._unsent = memoryview(input.encode() if isinstance(input, str) else input).cast("B")
    pending = process._unsent
    writer = -1
    if process.stdin is not None and not process.stdin.closed:
        if pending:
            _quietly(process.stdin.flush)
            writer = process.stdin.fileno()
            os.set_blocking(writer, False)
            poll.register(writer, select.POLLOUT)
        else:
            _quietly(process.stdin.close)
    while readers or writer >= 0:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            return False
        for descriptor, _ in poll.poll(None if remaining is None else max(1, int(remaining * 1000))):
            if descriptor == writer:
                try:
                    pending = pending[os.write(writer, pending[:_CHUNK]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    pending = pending[len(pending) :]
                process._unsent = pending
                if not pending:
                    poll.unregister(writer)
                    _quietly(process.stdin.close)  # type: ignore[union-attr]
                    writer = -1
                continue
            sink = readers[descriptor]
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                continue
            except OSError:  # a terminal whose other end is gone says EIO
                data = b""
            sink.feed(data)
            if not data:
                poll.unregister(descriptor)
                del readers[descriptor]
                sink.stream.close()
    remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
    if not process._end.done.wait(remaining):
        return False
    process.poll()
    return True


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except OSError:
        pass  # the command has closed its input


class Tail:
    """The last `limit` bytes of a stream that a thread drains, so that a background command never blocks on it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._start = 0  # the position in the stream of the first byte that is kept
        self._ended = False
        self._changed = threading.Condition()

    def drain(self, descriptor: int) -> None:
        """Reads `descriptor` to its end and closes it."""
        try:
            while data := os.read(descriptor, _CHUNK):
                with self._changed:
                    self._data += data
                    excess = len(self._data) - self._limit
                    if excess > 0:
                        del self._data[:excess]
                        self._start += excess
                    self._changed.notify_all()
        except OSError:
            pass  # a terminal whose other end is gone says EIO
        finally:
            os.close(descriptor)
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def read_from(self, position: int, length: int) -> tuple[bytes, int]:
        """Waits for bytes at `position` or after it; the bytes (none at the end) and the position behind them."""
        with self._changed:
            while not self._ended and self._start + len(self._data) <= position:
                self._changed.wait()
            offset = max(0, position - self._start)
            data = bytes(self._data[offset : offset + length])
            return data, self._start + offset + len(data)

    def open(self) -> io.BufferedReader:
        """A new reader, from the first byte that is kept on."""
        return io.BufferedReader(_TailReader(self))


class _TailReader(io.RawIOBase):
    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, self._position = self._tail.read_from(self._position, len(buffer))
        buffer[: len(data)] = data
        return len(data)
