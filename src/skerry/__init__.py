"""Skerry runs code that you do not trust on Linux, from Python.

    import skerry

    with skerry.Sandbox(memory="512m") as sandbox:
        result = sandbox.run(["python3", "-c", "print(6 * 7)"], timeout=10, text=True)
        print(result.returncode, result.stdout)

This module is the whole public API; everything in it is loaded at its first use.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._async import AsyncProcess, AsyncSandbox
    from ._process import Process
    from ._records import FileStat, MissingLayer, ProcessState, Result, SandboxInfo, Usage
    from .errors import (
        CommandError,
        CommandFailed,
        CommandNotExecutable,
        CommandNotFound,
        EngineNotBuilt,
        EngineUnavailable,
        FileError,
        FileTooLarge,
        InternalError,
        LayerUnavailable,
        NoSuchProcess,
        OutOfMemory,
        PolicyError,
        ProtocolError,
        SandboxClosed,
        SandboxError,
        SandboxFileExists,
        SandboxFileNotFound,
        SandboxIsADirectory,
        SandboxNotADirectory,
        SandboxPermissionDenied,
        SentryDied,
        SentryNotFound,
        SkerryError,
        TimeoutExpired,
        Unenforceable,
        UnsupportedHost,
        UsageError,
    )
    from .policy import Policy
    from .sandbox import DEVNULL, PIPE, STDOUT, Sandbox

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "AsyncProcess",
    "AsyncSandbox",
    "CommandError",
    "CommandFailed",
    "CommandNotExecutable",
    "CommandNotFound",
    "EngineNotBuilt",
    "EngineUnavailable",
    "FileError",
    "FileStat",
    "FileTooLarge",
    "InternalError",
    "LayerUnavailable",
    "MissingLayer",
    "NoSuchProcess",
    "OutOfMemory",
    "Policy",
    "PolicyError",
    "Process",
    "ProcessState",
    "ProtocolError",
    "Result",
    "Sandbox",
    "SandboxClosed",
    "SandboxError",
    "SandboxFileExists",
    "SandboxFileNotFound",
    "SandboxInfo",
    "SandboxIsADirectory",
    "SandboxNotADirectory",
    "SandboxPermissionDenied",
    "SentryDied",
    "SentryNotFound",
    "SkerryError",
    "TimeoutExpired",
    "Unenforceable",
    "UnsupportedHost",
    "Usage",
    "UsageError",
    "__version__",
]

_HOMES = {
    "AsyncProcess": "_async",
    "AsyncSandbox": "_async",
    "DEVNULL": "sandbox",
    "FileStat": "_records",
    "MissingLayer": "_records",
    "PIPE": "sandbox",
    "Policy": "policy",
    "Process": "_process",
    "ProcessState": "_records",
    "Result": "_records",
    "STDOUT": "sandbox",
    "Sandbox": "sandbox",
    "SandboxInfo": "_records",
    "Usage": "_records",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
