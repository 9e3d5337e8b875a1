"""Runs every program of this folder on Linux itself, and then in a sandbox.

A program checks one part of what Linux promises; only what holds natively counts (style.md, rule 11), so a program that
fails on the host is an error of the test and its sandbox run says so instead of blaming the sandbox.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

import harness

HERE = Path(__file__).parent
PROGRAMS = sorted(str(source.relative_to(HERE).with_suffix("")) for source in HERE.glob("*/*.c"))
CANNOT_RUN_HERE = 77


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of compiled programs. `make -k` builds what it can; each test sees whether its own program is there."""
    if reason := harness.missing("gcc", "make"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("conformance")
    done = subprocess.run(
        ["make", "-k", "-j2", "-C", str(HERE), f"BUILD={folder}"], capture_output=True, text=True, check=False
    )
    (folder / "make.log").write_text(done.stdout + done.stderr)
    return folder


def program(build: Path, name: str) -> Path:
    path = build / name
    assert path.exists(), f"{name}.c does not compile:\n{(build / 'make.log').read_text()[-3000:]}"
    return path


@cache
def native_outcome(path: Path) -> harness.Completed:
    caller = harness.ourselves()
    with caller.workspace() as work:
        return caller.native([path], cwd=work)


@pytest.mark.parametrize("name", PROGRAMS)
def test_native(build: Path, name: str) -> None:
    outcome = native_outcome(program(build, name))
    if outcome.returncode == CANNOT_RUN_HERE:
        pytest.skip(outcome.stdout.strip())
    assert outcome.returncode == 0, f"wrong about Linux:\n{outcome}"


@pytest.mark.sandbox
@pytest.mark.parametrize("name", PROGRAMS)
def test_sandbox(build: Path, name: str, ourselves: harness.Caller) -> None:
    path = program(build, name)
    native = native_outcome(path)
    if native.returncode == CANNOT_RUN_HERE:
        pytest.skip(f"natively: {native.stdout.strip()}")
    assert native.returncode == 0, f"nothing to compare with, since it fails natively:\n{native}"
    with ourselves.workspace() as work:
        local = work / path.name
        shutil.copy(path, local)
        outcome = ourselves.sandbox([local], cwd=work)
    assert outcome.returncode == 0, str(outcome)


def test_every_program_is_here() -> None:
    """Guards against a glob that silently finds nothing."""
    assert len(PROGRAMS) > 50
    assert {os.path.dirname(name) for name in PROGRAMS} == {
        "file", "ipc", "memory", "path", "proc", "process", "signal", "socket", "time", "tty", "wait",
    }  # fmt: skip
