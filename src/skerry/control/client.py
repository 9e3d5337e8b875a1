"""The client of the control protocol: one per sandbox, used by every engine.

One reader thread owns the receiving side; any thread may `call`. A reply is handed to the thread that waits for it,
`on_reply` runs in the reader thread *before* any later message is looked at (so that an `exited` event always finds the
process that a `spawn` has made), and events go to `on_event` in the reader thread, in order.

Lock order: `_sending` is never taken while `_state` is held.
"""

from __future__ import annotations

import _socket  # the C half: the module around it takes a millisecond to import
import os
import select
import threading

from .. import errors
from . import frame, messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


class _Pending:
    """A request whose reply is awaited."""

    __slots__ = ("done", "error", "last", "on_reply", "value")

    def __init__(self, on_reply: Callable[[Any], Any] | None) -> None:
        self.last = False
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self.on_reply = on_reply


class Client:
    """See the module's text. `describe_end` says why the other side went away, as an error to raise."""

    def __init__(
        self,
        connection: _socket.socket,
        *,
        on_event: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[errors.SandboxError], None],
        describe_end: Callable[[], errors.SandboxError],
        watched: Mapping[int, Callable[[], bool]] | None = None,
    ) -> None:
        self._connection = connection
        self._on_event = on_event
        self._on_end = on_end
        self._describe_end = describe_end
        self._watched = dict(watched or {})
        self._sending = threading.Lock()
        self._state = threading.Lock()
        self._next_identifier = 1
        self._pending: dict[int, _Pending] = {}
        self._end: errors.SandboxError | None = None
        self._closing = False
        self._handed_over = False
        self._unread = b""
        self._reader = threading.Thread(target=self._read_until_end, name="skerry-control", daemon=True)
        self._reader.start()

    def call(
        self,
        method: str,
        params: Any = None,
        descriptors: Sequence[int] = (),
        on_reply: Callable[[Any], Any] | None = None,
        timeout: float | None = None,
        last: bool = False,
    ) -> Any:
        """Sends a request and waits for its reply: the value (what `on_reply` made of it), or the failure as an error.

        After the reply to the `last` request nothing more is read: see `hand_over`.
        """
        pending = _Pending(on_reply)
        pending.last = last
        with self._state:
            if self._end is not None:
                raise self._end.with_traceback(None)
            identifier = self._next_identifier
            self._next_identifier += 1
            self._pending[identifier] = pending
        try:
            self._send(frame.encode(messages.request(identifier, method, params, len(descriptors))), descriptors)
            if not pending.done.wait(timeout):
                raise errors.ProtocolError(f"no reply to {method!r} within {timeout:g} s; the sandbox hangs: close it")
        finally:
            with self._state:
                self._pending.pop(identifier, None)
        if pending.error is not None:
            raise pending.error
        return pending.value

    def hand_over(self) -> tuple[int, bytes]:
        """After the last request: the connection's descriptor, and the bytes that were read and not looked at."""
        self._reader.join()
        return self._connection.fileno(), self._unread

    def close(self, timeout: float = 2.0) -> None:
        """Closes the socket, which ends the sandbox, and waits for the reader."""
        self._closing = True
        try:
            self._connection.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # the other side went first
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout)
        with self._sending:
            self._connection.close()

    def _send(self, data: bytes, descriptors: Sequence[int]) -> None:
        try:
            with self._sending:
                sent = 0
                if descriptors:  # they travel with the frame's first byte
                    words = b"".join(number.to_bytes(4, "little") for number in descriptors)
                    sent = self._connection.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, words)])
                self._connection.sendall(data[sent:])
        except OSError:
            # The reader finds the same end and knows more about it; its verdict comes through `pending`.
            self._reader.join(5.0)
            with self._state:
                end = self._end
            raise end or errors.ProtocolError("the control socket is broken; close the sandbox") from None

    # --- the reader thread ---

    def _read_until_end(self) -> None:
        problem: errors.SandboxError | None = None
        try:
            self._read()
            if self._handed_over:
                return
        except errors.SandboxError as error:
            problem = error
        except Exception as error:  # a message that nobody foresaw must end the sandbox, not the reader alone
            problem = errors.ProtocolError(f"a message could not be handled: {type(error).__name__}: {error}")
        if self._closing:
            problem = errors.SandboxClosed("the sandbox was closed; make a new one")
        elif problem is None:
            problem = self._describe_end()
        with self._state:
            self._end = problem
            waiting = list(self._pending.values())
            self._pending.clear()
        try:
            self._connection.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass
        self._on_end(problem)
        for pending in waiting:
            pending.error = problem
            pending.done.set()

    def _read(self) -> None:
        poll = select.poll()
        control = self._connection.fileno()
        poll.register(control, select.POLLIN)
        for descriptor in self._watched:
            poll.register(descriptor, select.POLLIN)
        buffer = bytearray()
        while True:
            for descriptor, _ in poll.poll():
                if descriptor != control:
                    if not self._watched[descriptor]():
                        poll.unregister(descriptor)
                    continue
                try:
                    data = self._connection.recv(1 << 16)
                except ConnectionError:
                    return
                if not data:
                    return
                buffer += data
                while (message := frame.take(buffer)) is not None:
                    self._dispatch(message)
                    if self._handed_over:
                        self._unread = bytes(buffer)
                        return

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
            return
        identifier = message.get("id")
        with self._state:
            # Taken out here: an end that follows at once must not be put in the place of this reply.
            pending = self._pending.pop(identifier, None) if isinstance(identifier, int) else None
        if pending is None:
            return  # the caller gave up waiting
        self._handed_over = pending.last and "ok" in message
        try:
            if "ok" in message:
                pending.value = message["ok"]
                if pending.on_reply is not None:
                    pending.value = pending.on_reply(pending.value)
            elif "error" in message:
                pending.error = error_of(messages.read_failure(message["error"]))
            else:
                raise errors.ProtocolError("a reply has neither 'ok' nor 'error'")
        except Exception as error:
            pending.error = error
            raise
        finally:
            pending.done.set()


def error_of(failure: messages.Failure) -> errors.SkerryError:
    """The error that stands for a reply's failure."""
    kind, text = failure.kind, failure.message
    if kind == "not_found":
        return errors.CommandNotFound(text)
    if kind == "not_executable":
        return errors.CommandNotExecutable(text, failure.errno)
    if kind == "invalid":
        return errors.UsageError(text)
    if kind == "unenforceable":
        return errors.LayerUnavailable(text)
    if kind == "unsupported":
        return errors.UnsupportedHost(text)
    if kind == "no_process":
        return errors.NoSuchProcess(text)
    if kind == "file":
        if failure.errno is None:
            return errors.FileError(text)
        return errors.file_error(failure.errno, os.strerror(failure.errno), text)
    return errors.InternalError(f"{text}; this is a fault of Skerry's own: please report it")
