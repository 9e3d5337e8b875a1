"""Threads are taken from CPU to CPU for a moment (ADR 54, 67): afterwards each may run wherever it might before."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import harness
import pytest
import skerry

PROGRAM = Path(__file__).parent / "programs" / "crowds.c"


@pytest.fixture(scope="session")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    path = tmp_path_factory.mktemp("crowds") / "crowds"
    include = PROGRAM.parents[2] / "conformance"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", f"-I{include}", "-o", str(path), str(PROGRAM), "-pthread"], check=True)
    return path


def threads_bound_below(pid: int) -> list[str]:
    """Threads of the process and of those below it that may not run where this one may."""
    usual, bound = os.sched_getaffinity(0), []
    for process in [pid, *harness.descendants(pid)]:
        for thread in Path(f"/proc/{process}/task").iterdir():
            if os.sched_getaffinity(int(thread.name)) != usual:
                bound.append(f"{process}/{thread.name}")
    return bound


@pytest.mark.sandbox
@pytest.mark.parametrize("without", ["", "spinning"], ids=["default", "ringing"])
def test_nobody_stays_bound(crowds: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    monkeypatch.setenv("SKERRY_TEST_WITHOUT", without)
    with skerry.Sandbox(read_only=[crowds.parent]) as sandbox:
        process = sandbox.spawn([str(crowds)], stdin=skerry.PIPE, stdout=skerry.PIPE)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        sentry = sandbox.info().sentry_pid
        assert len(harness.descendants(sentry)) > 20
        assert harness.eventually(lambda: not threads_bound_below(sentry)), threads_bound_below(sentry)
        process.stdin.close()
        assert process.wait(20) == 0
        process.close()


def test_the_program_by_itself(crowds: Path) -> None:
    with subprocess.Popen([crowds], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        assert not threads_bound_below(process.pid)
        process.stdin.close()
        assert process.wait(20) == 0
