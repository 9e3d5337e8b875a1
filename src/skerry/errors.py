"""Every error that Skerry raises, in one tree; each message says what was wrong and what to do next.

    SkerryError
    ├── UsageError                  an option or a value is wrong                    (ValueError)
    │   ├── Unenforceable           the engine cannot enforce the option
    │   └── PolicyError             a policy says what it cannot say; `file` and `key` say where
    ├── EngineNotBuilt              the engine's name is known, the engine is not there yet
    ├── UnsupportedHost             the system lacks what Skerry needs at the least
    ├── SandboxError                the sandbox itself could not be made, or was lost
    │   ├── SentryNotFound          the `skerry-sentry` program is not installed
    │   ├── SentryDied              the guest kernel ended by itself
    │   ├── LayerUnavailable        a required layer or limit cannot be enforced here
    │   ├── EngineUnavailable       no engine, or not the one that was named, works here
    │   ├── SandboxClosed           used after its end
    │   ├── ProtocolError           the two sides do not understand each other
    │   └── InternalError           our own failure
    ├── CommandError                a command in the sandbox
    │   ├── CommandNotFound         it does not exist                                (FileNotFoundError)
    │   ├── CommandNotExecutable    it exists and cannot be executed                 (PermissionError)
    │   ├── CommandFailed           `check=True` and its status is not 0
    │   │   └── OutOfMemory         `check=True` and it was killed at the memory limit
    │   ├── TimeoutExpired          it ran longer than `timeout`                     (TimeoutError)
    │   └── NoSuchProcess           it has ended, or never was                       (ProcessLookupError)
    └── FileError                   a file operation failed; `errno` says how        (OSError)
        ├── SandboxFileNotFound                                                      (FileNotFoundError)
        ├── SandboxFileExists                                                        (FileExistsError)
        ├── SandboxIsADirectory                                                      (IsADirectoryError)
        ├── SandboxNotADirectory                                                     (NotADirectoryError)
        ├── SandboxPermissionDenied                                                  (PermissionError)
        └── FileTooLarge            more than `max_bytes`

The built-in class in brackets is a base too, so that code written for `subprocess` and `open` catches what it expects.
"""

from __future__ import annotations

import errno as _errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._records import Result


class SkerryError(Exception):
    """The root of the tree."""


class UsageError(SkerryError, ValueError):
    """An option or a value is wrong. `option` is the Python name of the option, where one is to blame."""

    def __init__(self, message: str, *, option: str | None = None) -> None:
        super().__init__(message if option is None else f"{option}: {message}")
        self.option = option
        self.message = message


class Unenforceable(UsageError):
    """The engine cannot enforce an option: `option` and `engine` name both."""

    def __init__(self, option: str, engine: str, why: str) -> None:
        super().__init__(f"the engine {engine!r} cannot enforce it: {why}", option=option)
        self.engine = engine


class PolicyError(UsageError):
    """A policy is wrong: `file` is where it is from, `key` what of it is to blame ("" where the whole is)."""

    def __init__(self, message: str, file: str, key: str = "") -> None:
        super().__init__(f"{file}: {key}: {message}" if key else f"{file}: {message}", option=None)
        self.option = "policy"
        self.file = file
        self.key = key


class EngineNotBuilt(SkerryError):
    """The engine is planned and not built yet."""


class UnsupportedHost(SkerryError):
    """The operating system, the processor or the kernel is not one that Skerry can work on."""


class SandboxError(SkerryError):
    """The sandbox could not be made, or was lost."""


class SentryNotFound(SandboxError):
    """The `skerry-sentry` program is in none of the places where it is looked for."""


class SentryDied(SandboxError):
    """The guest kernel ended by itself; every process of the sandbox ended with it."""

    def __init__(self, message: str, *, status: int | None = None, stderr: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.stderr = stderr


class LayerUnavailable(SandboxError):
    """A layer or limit that was asked for cannot be enforced on this host."""


class EngineUnavailable(SandboxError):
    """The engine does not work on this host, or none does that could run this with these options."""


class SandboxClosed(SandboxError):
    """The sandbox was used after its end."""


class ProtocolError(SandboxError):
    """What came over the control socket is not a message of the protocol."""


class InternalError(SandboxError):
    """Our own failure: please report it."""


class CommandError(SkerryError):
    """A command in the sandbox."""


class CommandNotFound(CommandError, FileNotFoundError):
    """The command (or its interpreter, or its working directory) does not exist inside the sandbox."""

    def __init__(self, message: str) -> None:
        super().__init__(_errno.ENOENT, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class CommandNotExecutable(CommandError, PermissionError):
    """The command exists and cannot be executed: no execute permission, or not a format that Linux runs."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(errno or _errno.EACCES, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class CommandFailed(CommandError):
    """`check=True` and the command's status is not 0. `result` has everything that is known."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result
        self.args_run = result.args
        self.returncode = result.returncode
        self.stdout = result.stdout
        self.stderr = result.stderr


class OutOfMemory(CommandFailed):
    """`check=True` and the command was killed because the sandbox reached its memory limit."""


class TimeoutExpired(CommandError, TimeoutError):
    """The command ran longer than `timeout`; `stdout` and `stderr` hold what it had written."""

    def __init__(
        self,
        args_run: Sequence[str | bytes],
        timeout: float,
        stdout: bytes | str | None = None,
        stderr: bytes | str | None = None,
    ) -> None:
        shown = " ".join(a if isinstance(a, str) else repr(a) for a in args_run)
        super().__init__(f"{shown!r} ran longer than {timeout:g} s; give a longer timeout= if that is too short")
        self.args_run = args_run
        self.timeout = timeout
        self.stdout = stdout
        self.stderr = stderr


class NoSuchProcess(CommandError, ProcessLookupError):
    """The process has ended, or never was one that `spawn` started."""

    def __init__(self, message: str) -> None:
        super().__init__(_errno.ESRCH, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class FileError(SkerryError, OSError):
    """A file operation inside the sandbox failed; `errno` and `filename` are set as in any OSError."""


class SandboxFileNotFound(FileError, FileNotFoundError):
    """ENOENT."""


class SandboxFileExists(FileError, FileExistsError):
    """EEXIST."""


class SandboxIsADirectory(FileError, IsADirectoryError):
    """EISDIR."""


class SandboxNotADirectory(FileError, NotADirectoryError):
    """ENOTDIR."""


class SandboxPermissionDenied(FileError, PermissionError):
    """EACCES or EPERM."""


class FileTooLarge(FileError):
    """The file holds more than `max_bytes`: read it in pieces with `offset=`, or raise the limit."""


_FILE_ERRORS: dict[int, type[FileError]] = {
    _errno.ENOENT: SandboxFileNotFound,
    _errno.EEXIST: SandboxFileExists,
    _errno.EISDIR: SandboxIsADirectory,
    _errno.ENOTDIR: SandboxNotADirectory,
    _errno.EACCES: SandboxPermissionDenied,
    _errno.EPERM: SandboxPermissionDenied,
    _errno.EFBIG: FileTooLarge,
}


def file_error(errno: int, message: str, path: str) -> FileError:
    """The class of the tree that stands for `errno`."""
    return _FILE_ERRORS.get(errno, FileError)(errno, message, path)
