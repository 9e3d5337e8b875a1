"""The fixture that every program test uses: the same script natively and in a sandbox, and the two compared."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import harness

PROGRAMS = Path(__file__).parent / "programs"


class Comparison:
    """Runs scripts for one caller. Each of the two runs starts in the same, empty folder."""

    def __init__(self, caller: harness.Caller, native_only: bool) -> None:
        self.caller = caller
        self.native_only = native_only

    def __call__(
        self,
        script: str,
        *,
        shell: str = "sh",
        options: Sequence[str] = (),
        files: Sequence[str] = (),
        input: str | None = None,
        normalise: Callable[[str], str] = lambda text: text,
        status: int = 0,
        timeout: float = 60,
        expected: str | None = None,
    ) -> str:
        """Asserts that `SHELL -c SCRIPT` prints and returns inside what it does natively; returns what it printed.

        `files` are programs of the folder beside this file, copied into the working folder first; `status` is what the
        script gives on Linux (a script that fails there proves nothing); `expected` is what it prints there.
        """
        with self.caller.workspace() as work:
            self._fill(work, files)
            native = self.caller.native([shell, "-c", script], cwd=work, input=input, timeout=timeout)
            print(f"natively:\n{native}")  # pytest shows it where the test fails, and with -rP
            assert native.returncode == status, f"natively:\n{native}"
            if expected is not None:
                assert normalise(native.stdout) == expected, f"natively:\n{native}"
            if self.native_only:
                return native.stdout
            self.caller.empty(work)
            self._fill(work, files)
            inside = self.caller.do(options, [shell, "-c", script], cwd=work, input=input, timeout=2 * timeout)
        assert inside.returncode == native.shell_status, f"in the sandbox:\n{inside}\nnatively:\n{native}"
        assert normalise(inside.stdout) == normalise(native.stdout), f"in the sandbox:\n{inside}\nnatively:\n{native}"
        return inside.stdout

    def _fill(self, work: Path, files: Sequence[str]) -> None:
        for name in files:
            source = PROGRAMS / name
            if source.is_dir():
                shutil.copytree(source, work / name)
            else:
                shutil.copy(source, work / name)
        for path in work.rglob("*"):
            os.chown(path, *self.caller.owner)


@pytest.fixture
def compare(caller: harness.Caller, native_only: bool) -> Comparison:
    return Comparison(caller, native_only)


@pytest.fixture
def compare_as_root(ourselves: harness.Caller, native_only: bool) -> Comparison:
    """For toolchains that only the user who runs the tests has."""
    return Comparison(ourselves, native_only)


@pytest.fixture
def needs() -> Callable[..., None]:
    """Skips a test whose programs are not installed, saying which."""

    def check(*programs: str) -> None:
        if reason := harness.missing(*programs):
            pytest.skip(reason)

    return check


def without_numbers(text: str) -> str:
    return re.sub(r"\d+", "N", text)
