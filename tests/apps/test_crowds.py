"""Threads are taken from CPU to CPU for a moment (ADR 54, 67): afterwards each may run wherever it might before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import harness

sys.path.insert(0, str(harness.ROOT / "src"))
import skerry


@pytest.fixture(scope="session")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("crowds", tmp_path_factory.mktemp("crowds"))


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
@pytest.mark.parametrize("stops", [0, 200], ids=["", "stopped"])
def test_nobody_stays_bound(crowds: Path, monkeypatch: pytest.MonkeyPatch, without: str, stops: int) -> None:
    """Nor where the sentry is stopped again and again meanwhile, as when it is frozen."""
    monkeypatch.setenv("SKERRY_TEST_WITHOUT", without)
    with skerry.Sandbox(read_only=[crowds.parent]) as sandbox:
        process = sandbox.spawn([str(crowds)], stdin=skerry.PIPE, stdout=skerry.PIPE)
        assert process.stdin is not None and process.stdout is not None
        sentry = sandbox.info().sentry_pid
        for _ in range(stops):
            os.kill(sentry, signal.SIGSTOP)
            os.kill(sentry, signal.SIGCONT)
            time.sleep(0.001)
        assert process.stdout.readline() == b"waiting\n"
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
