"""How a command is started: arguments and streams in the caller's habits become a `spawn` request with descriptors."""

from __future__ import annotations

import os
import threading

from . import _values, errors
from ._output import Tail
from ._process import Process
from .control import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO, Any

    from ._options import Options
    from .sandbox import Sandbox

_PIPE, _STDOUT, _DEVNULL = -1, -2, -3


def arguments(args: Any, shell: bool) -> list[Any]:
    """argv, with `subprocess`'s meaning of a string and of `shell`."""
    if isinstance(args, (str, bytes, os.PathLike)):
        argv = [args]
    else:
        try:
            argv = list(args)
        except TypeError:
            raise errors.UsageError(f"{args!r} is not a list of arguments", option="args") from None
    if shell:
        argv = ["/bin/sh", "-c", *argv]
    if not argv:
        raise errors.UsageError("there is no command", option="args")
    for argument in argv:
        if not isinstance(argument, (str, bytes, os.PathLike)):
            raise errors.UsageError(f"the argument {argument!r} is not text, bytes or a path", option="args")
        if b"\0" in os.fsencode(argument):
            raise errors.UsageError(f"the argument {argument!r} holds a zero byte", option="args")
    if not os.fsencode(argv[0]):
        raise errors.CommandNotFound("the name of the command is empty")
    return [argument if isinstance(argument, (str, bytes)) else os.fsdecode(argument) for argument in argv]


def spawn(
    sandbox: Sandbox,
    args: Any,
    *,
    stdin: Any,
    stdout: Any,
    stderr: Any,
    shell: bool,
    pty: bool | tuple[int, int],
    background: bool,
    keep_output: int | str,
    text: bool,
    encoding: str,
    decode_errors: str,
    cwd: Any,
    env: Mapping[str, str | None] | None,
    user: Any,
) -> Process:
    """`Sandbox.spawn`."""
    if pty:
        sandbox._need("pty")
    if env:
        sandbox._need("env")
    argv = arguments(args, shell)
    kept = _values.size(keep_output, "keep_output") if background else 0
    theirs: list[int] = []  # what goes to the sandbox
    to_close: list[int] = []  # of those, and of ours until the process has them
    ours: list[int | None] = [None, None, None]
    try:
        if pty:
            columns, rows = _window(pty)
            for place, end in ((0, 0), (1, 1)):
                pair = os.pipe()
                to_close += pair
                theirs.append(pair[end])
                ours[place] = pair[1 - end]
            stdio = messages.stdio_terminal(0, 1, None, columns, rows)
        else:
            indices: list[int | None] = []
            for place, stream in enumerate((stdin, stdout, stderr)):
                if place == 2 and stream == _STDOUT:
                    indices.append(indices[1])
                elif stream == _DEVNULL:
                    indices.append(None)
                elif stream == _PIPE:
                    pair = os.pipe()
                    to_close += pair
                    end = 0 if place == 0 else 1
                    theirs.append(pair[end])
                    ours[place] = pair[1 - end]
                    indices.append(len(theirs) - 1)
                else:
                    theirs.append(_descriptor(stream, place))
                    indices.append(len(theirs) - 1)
            stdio = messages.stdio_descriptors(*indices)
        process = start(sandbox, argv, stdio, theirs, cwd=cwd, env=env, user=user, terminal=bool(pty))
        for place, descriptor in enumerate(ours):
            if descriptor is None:
                continue
            to_close.remove(descriptor)
            if background and place > 0:
                tail = Tail(kept)
                threading.Thread(target=tail.drain, args=(descriptor,), name="skerry-output", daemon=True).start()
                out, err = process._tails or (None, None)
                process._tails = (tail, err) if place == 1 else (out, tail)
            else:
                stream_file: IO[Any] = open(descriptor, "wb" if place == 0 else "rb")  # noqa: SIM115  # the process closes it
                setattr(process, ("stdin", "stdout", "stderr")[place], stream_file)
        if background:
            process._tails = process._tails or (None, None)
            _open_tails(process)
    finally:
        for descriptor in to_close:
            os.close(descriptor)
    if text:
        _wrap(process, encoding, decode_errors)
    return process


def start(
    sandbox: Sandbox,
    argv: list[Any],
    stdio: Mapping[str, Any],
    descriptors: list[int],
    *,
    cwd: Any,
    env: Mapping[str, str | None] | None,
    user: Any,
    terminal: bool,
) -> Process:
    """Sends the request; the process is known to the sandbox before any later message is looked at."""
    params = parameters(sandbox._options, argv, stdio, cwd=cwd, env=env, user=user)
    directory = os.fsdecode(messages.read_bytes(params["directory"]))

    def registered(value: Any) -> Process:
        process = Process(sandbox, argv, messages.read_spawned(value), terminal=terminal)
        sandbox._register(process)
        return process

    try:
        process: Process = sandbox._call("spawn", params, descriptors, registered)
    except errors.UsageError as error:
        if directory in error.message:
            raise errors.UsageError(error.message, option="cwd") from None
        raise
    return process


def parameters(
    options: Options,
    argv: list[Any],
    stdio: Mapping[str, Any],
    *,
    cwd: Any = None,
    env: Mapping[str, str | None] | None = None,
    user: Any = None,
) -> dict[str, Any]:
    """Those of the `spawn` request."""
    uid, gid, groups = options.identity(user)
    return messages.spawn(
        arguments=[*options.loader, *argv],
        environment=options.command_environment(env),
        directory=options.cwd if cwd is None else os.path.normpath(os.path.join(options.cwd, os.fsdecode(cwd))),
        uid=uid,
        gid=gid,
        groups=groups,
        stdio=stdio,
    )


def reconnect(process: Process) -> Process:
    """A second view of a background command, with readers of its own."""
    again = Process(process._sandbox, process.args, process.id, terminal=process.pty, end=process._end)
    again._tails = process._tails
    _open_tails(again)
    return again


def _open_tails(process: Process) -> None:
    out, err = process._tails or (None, None)
    process.stdout = None if out is None else out.open()
    process.stderr = None if err is None else err.open()


def _window(pty: bool | tuple[int, int]) -> tuple[int, int]:
    if pty is True:
        return 80, 24
    try:
        columns, rows = (int(number) for number in pty)  # type: ignore[union-attr]
        if 0 < columns < 1 << 16 and 0 < rows < 1 << 16:
            return columns, rows
    except (TypeError, ValueError):
        pass
    raise errors.UsageError(f"{pty!r} is neither True nor (columns, rows)", option="pty")


def _descriptor(stream: Any, place: int) -> int:
    if stream is None:
        return place
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    try:
        if hasattr(stream, "flush") and place > 0:
            stream.flush()
        descriptor: int = stream.fileno()
        return descriptor
    except (AttributeError, OSError, ValueError):
        name = ("stdin", "stdout", "stderr")[place]
        raise errors.UsageError(f"{stream!r} is not PIPE, DEVNULL, None, a descriptor or an open file", option=name) from None


def _wrap(process: Process, encoding: str, decode_errors: str) -> None:
    import io

    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(process, name)
        if stream is not None:
            setattr(process, name, io.TextIOWrapper(stream, encoding=encoding, errors=decode_errors))


def decoder(encoding: str, decode_errors: str) -> Any:
    """An incremental decoder, for output that comes in pieces."""
    import codecs

    try:
        return codecs.getincrementaldecoder(encoding)(decode_errors)
    except LookupError as error:
        raise errors.UsageError(str(error), option="encoding") from None


def decode(data: bytes, encoding: str, decode_errors: str) -> str:
    """Text with `subprocess`'s newlines."""
    return data.decode(encoding, decode_errors).replace("\r\n", "\n").replace("\r", "\n")
