"""What is the engine `uml`'s own: its guest's processes are the host's, and somebody there may send them signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import harness
import skerry

pytestmark = pytest.mark.sandbox


@pytest.fixture
def sandbox(native_only: bool) -> Iterator[skerry.Sandbox]:
    if native_only:
        pytest.skip("--native-only")
    harness.usable_engine("uml")
    sandbox = skerry.Sandbox(engine="uml", cwd="/")
    with sandbox:
        yield sandbox


def processes() -> list[int]:
    """The kernel, its helpers, and the guest's processes, as the host numbers them."""

    def name(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return ""

    return [pid for pid in harness.descendants(os.getpid()) if name(pid) == "linux.uml"]


def traced(pid: int) -> bool:
    try:
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def send(number: int, *, to_all: bool) -> int:
    """To each process, or to the guest's only; how many there were."""
    sent = 0
    for pid in processes():
        if to_all or traced(pid):
            try:
                os.kill(pid, number)
                sent += 1
            except ProcessLookupError:
                pass
    return sent


def test_signals_of_others_on_the_host_change_nothing(sandbox: skerry.Sandbox) -> None:
    """Each was the end of a guest's process once, and of all of it where that was the first."""
    with sandbox.spawn(
        ["sh", "-c", "i=0; while [ $i -lt 200 ]; do i=$((i+1)); /bin/true; done; echo done; sleep 100"]
    ) as process:
        for _ in range(20):
            assert send(signal.SIGSTOP, to_all=True) > 1
            time.sleep(0.01)
            assert send(signal.SIGCONT, to_all=True) > 1
            time.sleep(0.03)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTSTP, signal.SIGTTIN):
            assert send(number, to_all=False) > 1
        assert process.stdout.readline() == b"done\n"
        assert sandbox.run(["sh", "-c", "echo $((6 * 7))"], text=True).stdout == "42\n"
        process.kill()


@pytest.mark.parametrize("who", ["kernel", "process"])
def test_a_process_that_is_killed_on_the_host_ends_it_at_once(sandbox: skerry.Sandbox, who: str) -> None:
    with sandbox.spawn(["sleep", "100"]) as process:
        assert harness.eventually(lambda: sum(map(traced, processes())) > 2)
        time.sleep(0.2)  # it waits in its kernel, and would not go on for long
        victim = processes()[0] if who == "kernel" else [pid for pid in processes() if traced(pid)][-1]
        start = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        expected = "killed by signal 9" if who == "kernel" else "a process of the guest's was killed from outside"
        with pytest.raises(skerry.SandboxError, match=expected):
            process.wait(30)
        assert time.monotonic() - start < 10


def test_a_program_that_has_ended_is_not_listened_to(native_only: bool) -> None:
    """Kernels before 6.11 let whoever receives a notification wait where nobody is left who could send one."""
    if native_only:
        pytest.skip("--native-only")
    harness.usable_engine("uml")
    events: list[Mapping[str, object]] = []
    with skerry.Sandbox(engine="uml", cwd="/", events=events.append) as sandbox:
        for _ in range(3):
            assert sandbox.run(["unshare", "--user", "true"], timeout=60).returncode == 1
    told = [event for event in events if event["event"] == "call"]
    assert [event["name"] for event in told] == ["unshare"] * 3, events
