"""Two sandboxes of one caller's side by side: what one has the other does not reach, and what one takes the other still has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import skerry

pytestmark = pytest.mark.sandbox

PYTHON = ["/usr/bin/python3", "-S", "-c"]


@pytest.fixture(autouse=True)
def programs(traits) -> None:
    """All of it is about programs of Linux."""
    traits.need("programs of Linux")


#: What one sandbox has of each kind; then it waits.
OWNER = """
import ctypes, mmap, os, signal, socket, sys, time
def attempt(name, act):
    try: act(); print(name, flush=True)
    except OSError: pass
kept = []
own = os.environ.get('TMPDIR', '/tmp')
def file():
    with open(own + '/skerry-side', 'w') as one: one.write('mine')
def port():
    one = socket.create_server(('127.0.0.1', 54321)); kept.append(one)
def abstract():
    one = socket.socket(socket.AF_UNIX); one.bind(chr(0) + 'skerry-side'); one.listen(); kept.append(one)
def posix():
    with open('/dev/shm/skerry-side', 'w') as one: one.write('mine')
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), '')
    return result
def system_v(): checked(libc.syscall(29, 0x5ce11, 4096, 0o1666))
def queue(): checked(libc.syscall(68, 0x5ce11, 0o1666))
def key(): checked(libc.syscall(248, b'user', b'skerry-side', b'mine', 4, -4))
for act in (file, port, abstract, posix, system_v, queue, key):
    attempt(act.__name__, act)
signal.signal(signal.SIGTERM, lambda *_: print('signalled', flush=True))
print('own', own, os.getpid(), flush=True)
while True: time.sleep(60)
"""

#: What the other finds of it. Arguments: the first one's directory and process.
OTHER = """
import ctypes, os, signal, socket, sys
own, pid = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, act):
    try: found = act()
    except OSError: return
    if found: print('REACHED', name)
def reach(kind, address):
    with socket.socket(kind) as one:
        one.settimeout(5)
        one.connect(address)
    return True
attempt('file', lambda: open(own + '/skerry-side', 'r+').read() == 'mine')
attempt('new file', lambda: open(own + '/skerry-other', 'w'))
attempt('port', lambda: reach(socket.AF_INET, ('127.0.0.1', 54321)))
attempt('abstract', lambda: reach(socket.AF_UNIX, chr(0) + 'skerry-side'))
attempt('posix', lambda: open('/dev/shm/skerry-side').read() == 'mine')
attempt('system_v', lambda: libc.syscall(29, 0x5ce11, 4096, 0o666) >= 0)
attempt('queue', lambda: libc.syscall(68, 0x5ce11, 0o666) >= 0)
def key():
    found = libc.syscall(250, 10, -4, b'user', b'skerry-side', 0)
    return found >= 0 or libc.syscall(249, b'user', b'skerry-side', None, 0) >= 0
attempt('key', key)
# With numbers of its own that one is itself, or somebody of its own.
attempt('signal', lambda: pid != os.getpid() and (os.kill(pid, signal.SIGTERM), True)[1])
attempt('everybody', lambda: os.kill(-1, 0))
print('tried')
"""


@contextmanager
def running(sandbox: skerry.Sandbox, *words: str) -> Iterator[skerry.Process]:
    """A program that is killed at the end, if it still runs."""
    with sandbox.spawn(words, text=True) as process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


def test_they_share_nothing(traits, make) -> None:
    with make(cwd="/") as one, make(cwd="/") as two, running(one, *PYTHON, OWNER) as owner:
        has = []
        while not (line := owner.stdout.readline()).startswith("own "):
            assert line, has
            has.append(line.strip())
        _, own, pid = line.split()
        # What it cannot have it cannot share.
        if "sockets between programs" not in traits.cannot:
            assert {"file", "port", "abstract", "posix"} <= set(has)
        assert "file" in has
        done = two.run([*PYTHON, OTHER, own, pid], text=True)
        found = set(done.stdout.splitlines())
        assert "tried" in found, done
        # In a tree of its own the same number may be another process, and the same name another file: both tells its own.
        told = {line for line in found if line.startswith("REACHED")}
        assert told <= {"REACHED signal", "REACHED new file"} if "a tree of its own" not in traits.cannot else told == set(), (
            found
        )
        # Everybody that it reaches are its own.
        assert two.run(["/bin/sh", "-c", "kill -TERM -1; kill -9 -1; exit 0"]).returncode in (0, 137, 143)
        assert [state.process for state in one.processes()] == [owner.id]
        assert not one.run(["/bin/sh", "-c", f"ls {own}/skerry-other 2>/dev/null"]).stdout
        owner.kill()
        assert "signalled" not in owner.stdout.read()


BUSY = """
import os, sys
children = []
try:
    while True:
        child = os.fork()
        if child == 0:
            while True: pass
        children.append(child)
except OSError: print('full', len(children), flush=True)
while True: pass
"""

HUNGRY = "x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"


def test_the_load_of_one_leaves_the_other_its_share(make) -> None:
    """One is at all of its limits; the other still gets processes, memory and time."""
    try:
        one = make(cwd="/", pids=12, memory="96m", cpus=0.5).start()
    except skerry.LayerUnavailable as error:
        pytest.skip(str(error))
    limited = one.info().limits.get("cpus", "").startswith("cgroup")
    with one, make(cwd="/", pids=40, memory="256m") as two, running(one, *PYTHON, BUSY) as busy:
        began = time.monotonic()
        assert busy.stdout.readline().startswith("full")
        code = "x = bytearray(100 << 20); x[::4096] = bytes(25600); print(len(x) >> 20)"
        assert two.run([*PYTHON, code], text=True).stdout == "100\n"
        many = "n=0; while [ $n -lt 20 ]; do sleep 0.2 & n=$((n+1)); done; wait; echo all"
        assert two.run(["/bin/sh", "-c", many], text=True).stdout == "all\n"
        if limited:
            # One program against a dozen that share half of a CPU: alike without limits, and many times as much with them.
            start = time.monotonic()
            with running(two, *PYTHON, "while True: pass") as single:
                time.sleep(0.6)
            share = (single.usage.user_ns + single.usage.system_ns) / (time.monotonic() - start)
            busy.kill()
            busy.wait(30)
            assert share > 3 * (busy.usage.user_ns + busy.usage.system_ns) / (time.monotonic() - began)
    # What one takes too much of is its own end, and not the other's.
    with make(cwd="/", memory="96m") as one, make(cwd="/", memory="256m") as two, running(two, "/bin/sleep", "60") as sleeper:
        assert one.run([*PYTHON, HUNGRY], timeout=60).out_of_memory
        assert [state.process for state in two.processes()] == [sleeper.id]
