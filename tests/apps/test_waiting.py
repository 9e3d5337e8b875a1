"""What waits costs no thread of the sentry, and is not forgotten: with suspended calls and without."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import pytest

import harness

sys.path.insert(0, str(harness.ROOT / "src"))
import skerry

pytestmark = pytest.mark.sandbox

#: Threads that wait in different calls, told on standard output once they do; then all of them are woken.
MANY = """
import os, select, socket, sys, threading
count = int(sys.argv[1])
threading.stack_size(64 << 10)
reader, writer = os.pipe()
one, other = socket.socketpair()
woken = []
def wait(number):
    if number % 4 == 0:
        os.read(reader, 1)
    elif number % 4 == 1:
        select.select([reader], [], [])
    elif number % 4 == 2:
        one.recv(1)
    else:
        poll = select.epoll()
        poll.register(reader, select.EPOLLIN)
        poll.poll()
    woken.append(number)
threads = [threading.Thread(target=wait, args=(number,)) for number in range(count)]
[thread.start() for thread in threads]
print("waiting", flush=True)
sys.stdin.readline()
os.write(writer, b"x" * count)
other.sendall(b"x" * count)
[thread.join() for thread in threads]
print(len(woken), flush=True)
"""


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.parametrize("suspended", [True, False], ids=["suspended", "on threads"])
def test_many_wait_and_all_are_woken(monkeypatch: pytest.MonkeyPatch, suspended: bool) -> None:
    count = 500
    if not suspended:
        monkeypatch.setenv("SKERRY_TEST_WITHOUT", "suspension")
    with skerry.Sandbox() as sandbox:
        sentry = sandbox.info().sentry_pid
        process = sandbox.spawn(["/usr/bin/python3", "-c", MANY, str(count)], stdin=skerry.PIPE, stdout=skerry.PIPE)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        time.sleep(1)
        threads = threads_of(sentry)
        print(f"{threads} threads of the sentry")
        assert threads < 30 if suspended else threads > count / 2
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.read() == b"%d\n" % count
        assert process.wait(20) == 0
        process.close()


#: Calls that only the sentry can answer, with pauses between them.
RARE = """
import os, time
null = os.open("/dev/null", os.O_WRONLY)
print("calls", flush=True)
while True:
    for _ in range({calls}):
        os.write(null, b"x")
    time.sleep({pause})
"""


def used_by(pid: int) -> float:
    """CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("calls", "pause", "bound"), [(1, 0.001, 0.4), (30, 0.0005, 0.6)], ids=["one a millisecond", "thirty at a time"]
)
def test_nobody_spins_for_rare_calls(calls: int, pause: float, bound: float) -> None:
    if "pace" in os.environ.get("SKERRY_TEST_WITHOUT", ""):
        pytest.skip("for which it is switched on whatever that costs")
    with skerry.Sandbox() as sandbox:
        sentry = sandbox.info().sentry_pid
        program = RARE.format(calls=calls, pause=pause)
        process = sandbox.spawn(["/usr/bin/python3", "-c", program], stdout=skerry.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"calls\n"
        time.sleep(0.5)
        before, start = used_by(sentry), time.monotonic()
        time.sleep(1)
        used = (used_by(sentry) - before) / (time.monotonic() - start)
        print(f"{used:.2f} of a CPU")
        assert used < bound
        process.kill()
        process.close()


def test_there_is_room_for_descriptors_from_the_start_on() -> None:
    """Where the host makes more of it for a process with threads, who has opened the file waits for a grace period (ADR 72)."""
    with skerry.Sandbox() as sandbox:
        lines = Path(f"/proc/{sandbox.info().sentry_pid}/status").read_text().splitlines()
    size = next(int(line.split()[1]) for line in lines if line.startswith("FDSize:"))
    assert size >= min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def test_a_waiting_sandbox_uses_no_time() -> None:
    """Timeouts that never come to pass wake nobody, but once for the first."""
    with skerry.Sandbox() as sandbox:
        sentry = sandbox.info().sentry_pid
        process = sandbox.spawn(["sh", "-c", "sleep 100 | cat"])
        # Three seconds after the last start, the pool lets go of processes that nobody wants (`run/pool.rs`).
        time.sleep(4)
        before = used_by(sentry)
        time.sleep(2)
        used = used_by(sentry) - before
        assert used <= 0.011, f"{used} s"
        process.close()
