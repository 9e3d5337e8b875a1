"""Children of fork(2) that have not asked the sentry for anything yet (ADR 66) are within every limit, and nothing is left of them."""

from __future__ import annotations

import time

import pytest

import harness

pytestmark = pytest.mark.sandbox

PYTHON = "/usr/bin/python3"
#: Children that only compute, until there can be no more.
BOMB = """
import os, signal
children = []
def more():
    while True:
        try:
            child = os.fork()
        except BlockingIOError:
            return
        if not child:
            while True: pass
        children.append(child)
more()
print(len(children), flush=True)
for child in children: os.kill(child, signal.SIGKILL)
print(all(os.waitpid(child, 0)[1] == signal.SIGKILL for child in children), flush=True)
count = len(children)
children.clear()
more()
print(len(children) == count, flush=True)
for child in children: os.kill(child, signal.SIGKILL)
"""
ENDLESS = """
import os
for _ in range(3):
    if not os.fork():
        while True: pass
os._exit(0) if {ends} else os.wait()
"""


@pytest.mark.parametrize("without", ["", "infancy", "process_vm,sync_wake_up,wait_killable,addfd_send,pid_namespace"])
def test_they_count(caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    done = caller.do(["--pids", "20"], [PYTHON, "-S", "-c", BOMB], timeout=90)
    count, killed, again = done.stdout.split()
    assert (done.returncode, killed, again) == (0, "True", "True"), done
    # With the first process.
    assert int(count) == 19, done


@pytest.mark.parametrize("ends", [False, True], ids=["waits", "ends"])
@pytest.mark.parametrize("without", ["", "pid_namespace"])
def test_nothing_is_left_of_them(caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, ends: bool, without: str) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    before = set(harness.descendants(1))
    start = time.monotonic()
    done = caller.do(["--timeout", "1"], [PYTHON, "-S", "-c", ENDLESS.format(ends=ends)], timeout=60)
    assert done.returncode == (0 if ends else 124), done
    assert time.monotonic() - start < 30
    ours = [pid for pid in set(harness.descendants(1)) - before if "skerry-guest" in harness.status_of(pid).get("Name", "")]
    assert harness.eventually(lambda: not any("State" in harness.status_of(pid) for pid in ours)), ours


def test_a_trace_has_their_first_call(caller: harness.Caller) -> None:
    script = "import os\nfor n in range(5):\n pid = os.fork()\n if not pid: os._exit(n)\n os.waitpid(pid, 0)"
    done = caller.do(["--trace"], [PYTHON, "-S", "-c", script])
    assert done.returncode == 0, done
    assert [line for line in done.stderr.splitlines() if " exit_group(" in line][:5], done
    for status in range(5):
        assert any(
            f"exit_group({status}," in line or f"exit_group({status:#x}," in line for line in done.stderr.splitlines()
        ), status


@pytest.mark.parametrize("words", [[], ["sleeps"]], ids=["computes", "sleeps"])
def test_one_that_hides_is_killed(caller: harness.Caller, tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    """It has overwritten what it is found by: see the stub's `layout.rs`."""
    way = 0x7000_0010_0000 + 0x8_0000 - 0x900 + 0xC8
    hides = harness.build("hides", tmp_path_factory.mktemp("hides"), f"-DWAY={way:#x}UL")
    with caller.workspace() as work:
        done = caller.do([], [harness.place(hides, work), *words], cwd=work, timeout=240)
    assert done.returncode == 0, done
