"""Calls on what is lent are answered in the process (ADR 26, 27, 44, 45, 48, 52, 61, 65): nobody can tell, whatever others do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

import harness

CHANGES = 9
ROWS = 37


@pytest.fixture(scope="session")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("lent", tmp_path_factory.mktemp("lending"))


@pytest.fixture(scope="session")
def attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("attributes", tmp_path_factory.mktemp("attributes"))


@pytest.fixture(scope="session")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("streams", tmp_path_factory.mktemp("streams"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("alone", tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="session")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("connected", tmp_path_factory.mktemp("connected"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("shared", tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("events", tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="session")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("windows", tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="session")
def positions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("positions", tmp_path_factory.mktemp("positions"))


@pytest.fixture(scope="session")
def unmapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("unmapped", tmp_path_factory.mktemp("unmapped"))


def fill(caller: harness.Caller, work: Path, lent: Path) -> Path:
    """The files that the program is to find."""
    digits = "0123456789"
    contents = {"small": digits, "empty": "", "lockable": digits, "replacement": "new"}
    contents |= {f"victim{number}": digits for number in range(CHANGES)}
    contents["large"] = "".join(chr(ord("a") + index % 26) for index in range(30_000))
    rows = [(f"row{number}", 201) for number in range(ROWS)]
    for directory, length in (("names", 1), ("other", 101), *rows):
        (work / directory).mkdir()
        os.chown(work / directory, *caller.owner)
        contents |= {f"{directory}/n{number:02}": chr(ord("a") + number) * (length + number) for number in range(20)}
    for name, text in contents.items():
        (work / name).write_text(text)
        os.chown(work / name, *caller.owner)
    return harness.place(lent, work)


def test_native(caller: harness.Caller, lent: Path) -> None:
    harness.holds_natively(caller, lambda work: fill(caller, work, lent))


@pytest.mark.sandbox
@harness.with_lending
def test_sandbox(
    caller: harness.Caller, lent: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: fill(caller, work, lent), options)


@pytest.mark.sandbox
@pytest.mark.parametrize("between", ["", "os.write(out, b'x'); "])
def test_files_that_come_next_are_opened_without_the_sentry(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """/proc/stat's ctxt counts the calls that the sentry has served."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    script = f"""
import os
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
into, out = os.pipe()
directory = os.open("many", os.O_RDONLY)
names = os.listdir(directory)
def whole(name):
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    data = os.read(fd, 1) + os.read(fd, 20000)
    {between}data += os.read(fd, 20000)
    os.close(fd)
    return len(data)
before = calls()
sizes = sum(map(whole, names))
print(calls() - before, sizes)
"""
    with caller.workspace() as work:
        (work / "many").mkdir(mode=0o755)
        for number in range(500):
            (work / "many" / f"file{number}").write_text("x" * (number * 20 + 1))
            (work / "many" / f"file{number}").chmod(0o644)
        result = caller.do([], ["/usr/bin/python3", "-c", script], cwd=work)
    assert result.returncode == 0, str(result)
    rings, sizes = map(int, result.stdout.split())
    assert sizes == sum(number * 20 + 1 for number in range(500))
    # Without: 1,000 and more; and one more for each that is written.
    assert rings < 200 + (500 if between else 0), str(result)


@pytest.mark.sandbox
@pytest.mark.parametrize("is_mounted", [False, True], ids=["listed", "mounted"])
def test_a_fifo_among_files_is_not_opened_on_the_host(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, is_mounted: bool
) -> None:
    """Who writes it there waits for a reader. A listing does not show one that is mounted over a file."""
    if is_mounted and (caller.prefix or harness.run(["unshare", "-m", "true"]).returncode != 0):
        pytest.skip("it takes a mount on the host")
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    program = """
import os
directory = os.open("many", os.O_RDONLY)
names = [name for name in sorted(os.listdir(directory)) if name != "f40"]
def whole(name):
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    data = os.read(fd, 100)
    os.close(fd)
    return data.decode()
assert [whole(name) for name in names] == names
"""
    around = 'eval "$0"; (: > many/f40; : > opened) & sleep 0.2; "$@"; result=$?; kill $!; exit $result'
    with caller.workspace() as work:
        (work / "many").mkdir(mode=0o755)
        for number in range(10, 70):
            (work / "many" / f"f{number}").write_text(f"f{number}")
            (work / "many" / f"f{number}").chmod(0o644)
        fifo = work / "fifo" if is_mounted else work / "many" / "f40"
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
        before = "mount --make-rprivate / && mount --bind fifo many/f40" if is_mounted else ":"
        words = [*(["unshare", "-m"] if is_mounted else []), "sh", "-c", around, before, *caller.command]
        words += ["do", "--", "/usr/bin/python3", "-c", program]
        result = harness.run(words, cwd=work, environment=caller.environment(work))
        assert result.returncode == 0, str(result)
        assert not (work / "opened").exists()


@pytest.mark.sandbox
def test_directories_are_walked_with_few_requests(caller: harness.Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """As fts(3) does: each is opened, looked at by both its descriptor and its name, copied, listed and closed."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    script = """
import ctypes, fcntl, os
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
libc, room = ctypes.CDLL(None), ctypes.create_string_buffer(4096)
def listed(name):
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    assert os.fstat(fd).st_ino == os.lstat(name).st_ino
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    size = 0
    while got := libc.syscall(217, fd, room, len(room)):
        size += got
    os.close(fd)
    again = fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, 0)
    os.close(copy)
    os.close(again)
    return size
before = calls()
sizes = sum(listed(f"many/d{number}") for number in range(200))
print(calls() - before, sizes)
"""
    with caller.workspace() as work:
        for number in range(200):
            (work / "many" / f"d{number}").mkdir(mode=0o755, parents=True)
        result = caller.do([], ["/usr/bin/python3", "-c", script], cwd=work)
    assert result.returncode == 0, str(result)
    requests, sizes = map(int, result.stdout.split())
    assert sizes == 200 * 2 * 24
    # open, two copies, and a close; before, lstat and two of getdents, too.
    assert requests < 200 * 5, str(result)


@pytest.mark.sandbox
def test_what_the_host_changes_is_seen_by_who_hears_of_it(caller: harness.Caller) -> None:
    """Whoever tells a program that a file has changed tells it by something that the guest kernel gives it."""
    script = "import os\nfd = os.open('told', os.O_RDONLY)\n"
    script += "while input(): print(os.stat('told').st_size, os.fstat(fd).st_size, os.pread(fd, 100, 0).decode(), flush=True)\n"
    with caller.workspace() as work:
        told = work / "told"
        told.write_text("0")
        told.chmod(0o644)
        with subprocess.Popen(
            [*caller.command, "do", "--", "/usr/bin/python3", "-c", script],
            cwd=work,
            env=caller.environment(work),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            watchdog = threading.Timer(60, process.kill)
            watchdog.start()
            try:
                for number in range(50):
                    text = "x" * number
                    told.write_text(text)
                    process.stdin.write("go\n")
                    process.stdin.flush()
                    assert process.stdout.readline().split() == [str(number)] * 2 + ([text] if text else [])
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.wait() == 0
            finally:
                watchdog.cancel()
                process.kill()


def test_attributes_native(caller: harness.Caller, attributes: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(attributes, work))


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("without", "options"),
    [("expiry", ()), ("expiry,load,pace", ()), ("lending", ()), ("expiry", ("--rw", ".")), ("", ("--profile", "strict"))],
    ids=["default", "spinning", "without", "rw", "strict"],
)
def test_attributes(
    caller: harness.Caller, attributes: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    """What files and names show is lent while it holds still (ADR 46): whatever changes it, its thread included."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(attributes, work), options)


@pytest.mark.sandbox
def test_a_directory_is_filled_without_asking_what_is_not_there(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/stat's ctxt counts the calls that the sentry has served."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    script = """
import os
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
os.mkdir("fresh")
before = calls()
for number in range(100):
    assert not os.path.lexists(f"fresh/f{number * 7}")
    fd = os.open(f"fresh/f{number * 7}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, b"some")
    os.close(fd)
print(calls() - before)
"""
    with caller.workspace() as work:
        result = caller.do([], ["/usr/bin/python3", "-c", script], cwd=work)
    assert result.returncode == 0, str(result)
    # Two for each file; a bit may be another name's, too.
    assert int(result.stdout) < 230, str(result)


CALLS = """
import os
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
used = os.open("used", os.O_RDWR | os.O_CREAT)
os.write(used, bytes(100_000))
for _ in range(20):
    os.pread(used, 10, 0)
    os.pwrite(used, b"x", 0)
before = calls()
for _ in range(1000):
    {call}
print(calls() - before)
"""


@pytest.mark.sandbox
@pytest.mark.parametrize(
    "call",
    [
        "os.fstat(used)",
        "os.stat('used')",
        "os.close(os.open('used', os.O_RDONLY))",
        "os.stat('/usr/bin')",
        "os.path.exists('absent')",
        "os.access('/usr/bin/python3', os.X_OK)",
    ],
)
def test_what_holds_still_is_asked_for_once(caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """/proc/stat's ctxt counts the calls that the sentry has served."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    with caller.workspace() as work:
        result = caller.do([], ["/usr/bin/python3", "-c", CALLS.format(call=call)], cwd=work)
    assert result.returncode == 0, str(result)
    assert int(result.stdout) < 50, str(result)


def test_streams_native(caller: harness.Caller, streams: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(streams, work))


@pytest.mark.sandbox
@pytest.mark.parametrize("without", ["", "load,pace", "lending"], ids=["default", "spinning", "without"])
def test_streams(caller: harness.Caller, streams: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """What epoll_wait(2) has told of is read in the process (ADR 44): nobody can tell, whatever others do with the stream."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(streams, work))


@pytest.mark.sandbox
@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_what_is_told_of_is_read_without_the_sentry(caller: harness.Caller, family: str) -> None:
    """/proc/stat's ctxt counts the calls that the sentry has served."""
    script = f"""
import select, socket
one, other = socket.socketpair() if "{family}" == "AF_UNIX" else (None, None)
if one is None:
    listener = socket.create_server(("127.0.0.1", 0))
    other = socket.create_connection(listener.getsockname())
    one = listener.accept()[0]
events = select.epoll()
events.register(one, select.EPOLLIN)
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
before = calls()
for _ in range(500):
    other.send(b"some")
    events.poll()
    assert one.recv(100) == b"some"
print(calls() - before)
"""
    with caller.workspace() as work:
        result = caller.do([], ["/usr/bin/python3", "-c", script], cwd=work)
    assert result.returncode == 0, str(result)
    # Of 1500 calls, 500 are answered without it.
    assert int(result.stdout) < 1100, str(result)


EDGES = """
import select, socket
if {tcp}:
    listener = socket.create_server(("127.0.0.1", 0))
    other = socket.create_connection(listener.getsockname())
    one = listener.accept()[0]
else:
    one, other = socket.socketpair()
one.setblocking(False)
events = select.epoll()
events.register(one, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
def use(rounds):
    for _ in range(rounds):
        other.send(b"some")
        assert events.poll() == [(one.fileno(), select.EPOLLIN)]
        assert events.poll(0) == []
        assert one.recv(100) == b"some"
        one.send(b"more")
        assert other.recv(100) == b"more"
use(100)
before = calls()
use(1000)
print(calls() - before)
"""


@pytest.mark.sandbox
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize(
    ("without", "fewest", "most"),
    [("", 0, 500), ("load,pace", 0, 500), ("lending", 3999, 99999)],
    ids=["default", "spinning", "without"],
)
def test_edges_are_told_of_without_the_sentry(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str, fewest: int, most: int, tcp: bool
) -> None:
    """Edges (EPOLLET) are seen in the process, too (ADR 58)."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    asks_as_often_as(caller, EDGES.format(tcp=tcp), fewest, most)


TURNS = """
import select, socket
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
pairs = [socket.socketpair() for _ in range(20)]
events = select.epoll()
for here, _ in pairs:
    events.register(here, select.EPOLLIN)
def turns(rounds):
    for number in range(rounds):
        here, there = pairs[number % len(pairs)]
        there.sendall(b"question")
        assert events.poll() == [(here.fileno(), select.EPOLLIN)]
        here.sendall(here.recv(100))
        assert there.recv(100) == b"question"
turns(1000)
before = calls()
turns(1000)
print(calls() - before)
"""


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("without", "fewest", "most"),
    [("", 0, 500), ("load,pace", 0, 500), ("lending", 4000, 99999)],
    ids=["default", "spinning", "without"],
)
def test_connections_that_take_turns_are_told_of_without_the_sentry(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str, fewest: int, most: int
) -> None:
    """Each of twenty is told of in each twentieth wait (ADR 53)."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    asks_as_often_as(caller, TURNS, fewest, most)


def test_alone_native(caller: harness.Caller, alone: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(alone, work))


@pytest.mark.sandbox
@pytest.mark.parametrize("without", ["", "load,pace", "lending"], ids=["default", "spinning", "without"])
def test_alone(caller: harness.Caller, alone: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """Eventfds and pipes that one thread uses are read and written in the process (ADR 45): nobody can tell, whatever others do."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(alone, work))


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("make", "without", "most"),
    [("os.pipe()", "", 40), ("(os.eventfd(0),) * 2", "", 40), ("os.pipe()", "lending", 9999)],
    ids=["pipe", "eventfd", "without"],
)
def test_who_is_alone_does_not_ask_the_sentry(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, make: str, without: str, most: int
) -> None:
    """/proc/stat's ctxt counts the calls that the sentry has served."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    script = f"""
import os
reader, writer = {make}
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
before = calls()
for number in range(500):
    os.write(writer, (number + 1).to_bytes(8, "little"))
    assert os.read(reader, 8) == (number + 1).to_bytes(8, "little")
print(calls() - before)
"""
    with caller.workspace() as work:
        result = caller.do([], ["/usr/bin/python3", "-c", script], cwd=work)
    assert result.returncode == 0, str(result)
    assert (int(result.stdout) < most) and (int(result.stdout) > 999 or not without), str(result)


def test_shared_native(caller: harness.Caller, shared: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(shared, work))


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("without", "options"),
    [("", ()), ("spinning", ()), ("load,pace", ()), ("lending", ()), ("", ("--profile", "strict"))],
    ids=["default", "sleeping", "spinning", "without", "strict"],
)
def test_shared(
    caller: harness.Caller, shared: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    """Pipes between two threads or processes lie in memory that these share (ADR 48): nobody can tell, whatever others do."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(shared, work), options)


def test_connected_native(caller: harness.Caller, connected: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(connected, work))


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("without", "options"),
    [("", ()), ("spinning", ()), ("load,pace", ()), ("patching", ()), ("lending", ()), ("", ("--profile", "strict"))],
    ids=["default", "sleeping", "spinning", "trapping", "without", "strict"],
)
def test_connected(
    caller: harness.Caller, connected: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    """Connections between two threads or processes lie in memory that these share (ADR 52): nobody can tell."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(connected, work), options)


SHARED = """
import os, threading
there, back = os.pipe(), os.pipe()
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
def echo(rounds):
    for _ in range(rounds):
        os.write(back[1], os.read(there[0], 8))
def ping(rounds):
    for number in range(rounds):
        os.write(there[1], number.to_bytes(8, "little"))
        assert os.read(back[0], 8) == number.to_bytes(8, "little")
if {processes}:
    if os.fork() == 0:
        os.close(there[1]); os.close(back[0])
        echo(1040)
        os._exit(0)
    os.close(there[0]); os.close(back[1])
else:
    threading.Thread(target=echo, args=(1040,)).start()
ping(40)
before = calls()
ping(1000)
print(calls() - before)
"""


def asks_as_often_as(caller: harness.Caller, script: str, fewest: int, most: int) -> None:
    """A thousand rounds, of four calls or more each, ask the sentry so often: /proc/stat's ctxt counts what it has served."""
    with caller.workspace() as work:
        result = caller.do([], ["/usr/bin/python3", "-c", script], cwd=work)
    assert result.returncode == 0, str(result)
    assert fewest <= int(result.stdout) < most, str(result)


@pytest.mark.sandbox
@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
@pytest.mark.parametrize(
    ("without", "fewest", "most"),
    [("", 0, 2000), ("spinning", 0, 2000), ("load,pace", 0, 2000), ("lending", 4000, 99999)],
    ids=["default", "sleeping", "spinning", "without"],
)
def test_who_shares_a_pipe_does_not_ask_the_sentry(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str, fewest: int, most: int, processes: bool
) -> None:
    """Where nothing is lent, each call asks."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    asks_as_often_as(caller, SHARED.format(processes=processes), fewest, most)


PING = """
def ping(rounds):
    for number in range(rounds):
        here.sendall(number.to_bytes(8, "little"))
        assert here.recv(8) == number.to_bytes(8, "little")
"""

CONNECTED = """
import os, socket, threading
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
if {tcp}:
    listener = socket.create_server(("127.0.0.1", 0))
    here = socket.create_connection(listener.getsockname())
    there = listener.accept()[0]
else:
    here, there = socket.socketpair()
def echo(rounds):
    for _ in range(rounds):
        there.sendall(there.recv(8))
{ping}
if {processes}:
    if os.fork() == 0:
        here.close()
        echo(1040)
        os._exit(0)
    there.close()
else:
    threading.Thread(target=echo, args=(1040,)).start()
ping(40)
before = calls()
ping(1000)
print(calls() - before)
"""


@pytest.mark.sandbox
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
@pytest.mark.parametrize(
    ("without", "fewest", "most"),
    [("", 0, 2000), ("load,pace", 0, 2000), ("lending", 4000, 99999)],
    ids=["default", "spinning", "without"],
)
def test_who_shares_a_connection_does_not_ask_the_sentry(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str, fewest: int, most: int, processes: bool, tcp: bool
) -> None:
    """As with pipes."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    asks_as_often_as(caller, CONNECTED.format(processes=processes, tcp=tcp, ping=PING), fewest, most)


def test_events_native(caller: harness.Caller, events: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(events, work))


@pytest.mark.sandbox
@pytest.mark.parametrize("without", ["", "spinning", "load,pace", "lending", "patching", "direct"])
def test_events(caller: harness.Caller, events: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """An event loop is told in its process of what that shares (ADR 53): nobody can tell, whatever others do."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(events, work))


CHANGED = """
import select
events = select.epoll()
def ping(rounds):
    for number in range(rounds):
        events.modify(here, select.EPOLLOUT)
        assert events.poll()[0][1] == select.EPOLLOUT
        here.sendall(number.to_bytes(8, "little"))
        events.unregister(here)
        events.register(here, select.EPOLLIN)
        assert here.recv(8) == number.to_bytes(8, "little")
events.register(here, 0)
"""


@pytest.mark.sandbox
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])
@pytest.mark.parametrize(
    ("without", "fewest", "most"),
    [("", 0, 2000), ("deferral", 3000, 99999), ("lending", 4000, 99999)],
    ids=["default", "undeferred", "without"],
)
def test_who_changes_what_it_waits_for_does_not_ask_the_sentry(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str, fewest: int, most: int, processes: bool, tcp: bool
) -> None:
    """A connection that is waited for, now to be written and now to be read (ADR 59)."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    asks_as_often_as(caller, CONNECTED.format(processes=processes, tcp=tcp, ping=CHANGED), fewest, most)


#: The ways in which what leans on windows (ADR 61, 65) is to hold.
with_windows = pytest.mark.parametrize(
    ("without", "options"),
    [
        ("expiry", ()),
        ("expiry,load,pace", ()),
        ("windows", ()),
        ("expiry", ("--rw", ".")),
        ("", ("--rw", ".")),
        ("", ("--profile", "strict")),
    ],
    ids=["default", "spinning", "without", "rw", "expiring", "strict"],
)


def test_windows_native(caller: harness.Caller, windows: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(windows, work))


@pytest.mark.sandbox
@with_windows
def test_windows(
    caller: harness.Caller, windows: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    """Files that are read often are mapped (ADR 61), and nobody can tell."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(windows, work), options)


def held(caller: harness.Caller, work: Path, program: Path, mode: str) -> subprocess.Popen[str]:
    """The program with a file of the host's that it can change."""
    (work / "held").write_text("x" * 20_000)
    os.chown(work / "held", *caller.owner)
    command = [*caller.command, "do", "--rw", str(work), "--", str(program), mode, "held"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=work, env=caller.environment(work), stdin=pipe, stdout=pipe, text=True)


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return process.stdout.readline()


def mappings(file: Path) -> int:
    count = 0
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            count += sum(line.startswith("7008") and line.endswith(str(file)) for line in maps.read_text().splitlines())
    return count


def skip_unless_mapped(work: Path) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(work)], check=True, capture_output=True, text=True).stdout
    if kind.strip() not in ("ext2/ext3", "xfs", "btrfs", "tmpfs"):
        pytest.skip(f"files of {kind.strip()} are not mapped")


@pytest.mark.sandbox
def test_a_window_goes_with_its_descriptor(caller: harness.Caller, windows: Path) -> None:
    with caller.workspace() as work, held(caller, work, harness.place(windows, work), "hold") as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            skip_unless_mapped(work)
            assert process.stdout is not None and process.stdout.readline() == "now\n"
            assert mappings(work / "held") == 1
            assert answer(process) == "now\n"
            assert mappings(work / "held") == 0
            answer(process)
            assert process.wait() == 0
        finally:
            watchdog.cancel()
            process.kill()


@pytest.mark.sandbox
def test_what_the_host_cuts_off_is_missed_by_who_hears_of_it(caller: harness.Caller, windows: Path) -> None:
    with caller.workspace() as work, held(caller, work, harness.place(windows, work), "follow") as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            assert answer(process).split() == ["3000"] * 3
            for size in (2000, 10, 2999, 0, 1):
                os.truncate(work / "held", 20_000)
                assert answer(process).split() == ["3000"] * 3
                os.truncate(work / "held", 4 * 4096 + size)
                assert answer(process).split() == [str(size)] * 3
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait() == 0
        finally:
            watchdog.cancel()
            process.kill()


def test_positions_native(caller: harness.Caller, positions: Path) -> None:
    harness.holds_natively(caller, lambda work: harness.place(positions, work))


@pytest.mark.sandbox
@with_windows
def test_positions(
    caller: harness.Caller, positions: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    """Where a file stands is lent to who reads on in it (ADR 65), and nobody can tell."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: harness.place(positions, work), options)


@pytest.mark.sandbox
@pytest.mark.parametrize("options", [(), ("--rw", ".")], ids=["memory", "rw"])
def test_who_scribbles_over_a_position_moves_its_file(
    caller: harness.Caller, positions: Path, options: tuple[str, ...]
) -> None:
    with caller.workspace() as work:
        words = [option if option != "." else str(work) for option in options]
        result = caller.do(words, [harness.place(positions, work), "scribble", "700000088000"], cwd=work)
    assert result.returncode == 0, str(result)


def host_reads(file: Path) -> int:
    """Calls to read that the process with a window of `file` has made."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if any(line.startswith("7008") and line.endswith(str(file)) for line in maps.read_text().splitlines()):
                counts = dict(line.split(": ") for line in (maps.parent / "io").read_text().splitlines())
                return int(counts["syscr"])
    return -1


@pytest.mark.sandbox
def test_who_reads_on_in_a_file_makes_no_calls(
    caller: harness.Caller, positions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40,000 reads, of a file whose end is believed for good."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    with caller.workspace() as work, held(caller, work, harness.place(positions, work), "hold") as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            skip_unless_mapped(work)
            assert process.stdout is not None and process.stdout.readline() == "now\n"
            assert 0 <= host_reads(work / "held") < 4000
            answer(process)
            assert process.wait() == 0
        finally:
            watchdog.cancel()
            process.kill()


def fill_to_map(caller: harness.Caller, work: Path, unmapped: Path) -> Path:
    for name, length in (("short", 10), ("long", 3000), ("two", 5000)):
        (work / name).write_text(name[0] * length)
        os.chown(work / name, *caller.owner)
    return harness.place(unmapped, work)


def test_unmapped_native(caller: harness.Caller, unmapped: Path) -> None:
    harness.holds_natively(caller, lambda work: fill_to_map(caller, work, unmapped))


@pytest.mark.sandbox
@harness.with_lending
def test_unmapped(
    caller: harness.Caller, unmapped: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    """Memory that small files were mapped in is kept for the next ones (ADR 70), and nobody finds it."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: fill_to_map(caller, work, unmapped), options)


@pytest.mark.sandbox
def test_small_files_are_mapped_without_page_faults(
    caller: harness.Caller, unmapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    with caller.workspace() as work:
        result = caller.do([], [str(fill_to_map(caller, work, unmapped)), "faults"], cwd=work)
    assert result.returncode == 0, str(result)
    assert int(result.stdout) < 100, str(result)
