"""The public API is what `__init__` lists, and nothing slow is loaded for it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import skerry
from skerry import errors

PUBLIC = """
AsyncProcess AsyncSandbox CommandError CommandFailed CommandNotExecutable CommandNotFound DEVNULL EngineNotBuilt
EngineUnavailable FileError FileStat FileTooLarge InternalError LayerUnavailable MissingLayer NoSuchProcess OutOfMemory PIPE Policy PolicyError Process ProcessState
ProtocolError Result STDOUT Sandbox SandboxClosed SandboxError SandboxFileExists SandboxFileNotFound SandboxInfo
SandboxIsADirectory SandboxNotADirectory SandboxPermissionDenied SentryDied SentryNotFound SkerryError TimeoutExpired
Unenforceable UnsupportedHost Usage UsageError __version__
""".split()

SANDBOX_METHODS = "close closed connect files info kill processes run spawn start update usage".split()
PROCESS_METHODS = """
add_done_callback close communicate exit_signal kill poll resize result returncode send_signal signal stop terminate usage
wait
""".split()
FILES_METHODS = "exists list mkdir read read_text remove rename stat write".split()
RUN_PARAMETERS = """
self args input timeout check shell on_stdout on_stderr max_output stdin stderr text encoding errors cwd env user
""".split()
OPTIONS = """
self read_write read_only hide tmpfs overlay_dir env inherit_env cwd user hostname timeout memory cpus pids network engine
min_isolation accel vmm snapshot root_image profile trace require policy block net events
""".split()

#: What costs start-up time, and what `skerry do` therefore never loads.
SLOW = "typing dataclasses argparse inspect pathlib asyncio contextlib difflib logging tempfile shutil sysconfig".split()


def public(of: object) -> list[str]:
    return sorted(name for name in dir(of) if not name.startswith("_"))


def test_the_names_are_these() -> None:
    assert sorted(skerry.__all__) == sorted(PUBLIC)
    assert sorted(dir(skerry)) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(skerry, name) is not None
    with pytest.raises(AttributeError):
        skerry.os  # noqa: B018


def test_the_methods_are_these() -> None:
    assert public(skerry.Sandbox) == SANDBOX_METHODS
    assert public(skerry.Process) == sorted(PROCESS_METHODS)
    assert public(skerry.Sandbox().files) == FILES_METHODS


def test_the_parameters_are_these() -> None:
    parameters = list(inspect.signature(skerry.Sandbox.run).parameters)
    assert [name for name in parameters if not name.startswith("_")] == RUN_PARAMETERS
    assert list(inspect.signature(skerry.Sandbox).parameters) == OPTIONS[1:]


def test_the_twin_has_what_the_sandbox_has() -> None:
    assert public(skerry.AsyncSandbox) == [name for name in SANDBOX_METHODS if name != "files"]
    assert set(PROCESS_METHODS) - set(public(skerry.AsyncProcess)) == {"add_done_callback", "poll"}
    assert public(type(skerry.AsyncSandbox().files)) == FILES_METHODS


def test_every_error_is_public_and_in_the_drawing() -> None:
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert name in skerry.__all__
            assert issubclass(value, skerry.SkerryError)
            assert errors.__doc__ is not None and f" {name}" in errors.__doc__.replace("SkerryError\n", " SkerryError\n")


def test_the_command_line_loads_nothing_slow(command_environment: dict[str, str]) -> None:
    code = "import sys; before = set(sys.modules); from skerry.cli import main; main(); print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {command_environment['PYTHONPATH']!r}); {code}",
         "do", "--", "true"],
        env=command_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # What the standard library's own modules load for themselves is theirs to change.
    unavoidable = set(
        subprocess.run(
            [sys.executable, "-I", "-c", "import sys, socket, subprocess, json; print(*sys.modules)"],
            capture_output=True, text=True, check=True,
        ).stdout.split()
    )  # fmt: skip
    assert not (set(done.stdout.split()) - unavoidable) & set(SLOW)
