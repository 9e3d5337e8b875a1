"""The Python SDK with the real sentry, in the tests' own process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

sys.path.insert(0, str(harness.ROOT / "src"))
import skerry

pytestmark = pytest.mark.sandbox


@pytest.fixture
def sandbox() -> Iterator[skerry.Sandbox]:
    with skerry.Sandbox() as sandbox:
        yield sandbox


def descriptors() -> dict[str, str]:
    """This process's own, by number."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = os.readlink(entry)
        except OSError:
            continue  # the one that lists
    return found


def children() -> list[int]:
    return harness.descendants(os.getpid())


# --- run ---


def test_run(sandbox: skerry.Sandbox) -> None:
    result = sandbox.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.returncode, result.stdout, result.stderr, result.signal) == (3, b"out\n", b"err\n", None)
    assert sandbox.run("echo $((6*7))", shell=True, text=True).stdout == "42\n"
    assert sandbox.run("echo a >&2; echo b", shell=True, stderr=skerry.STDOUT).stdout == b"a\nb\n"
    assert sandbox.run(["pwd"], cwd="/usr").stdout == b"/usr\n"
    assert sandbox.run("echo $A", shell=True, env={"A": "1"}).stdout == b"1\n"
    assert sandbox.run(["id", "-u"], user="caller").stdout.strip() == str(os.getuid()).encode()
    assert sandbox.run([b"echo", b"\xff"]).stdout == b"\xff\n"
    result = sandbox.run("kill -SEGV $$", shell=True)
    assert (result.returncode, result.signal) == (128 + 11, 11)


def test_input(sandbox: skerry.Sandbox) -> None:
    data = os.urandom(3 << 20)
    assert sandbox.run(["cat"], input=data).stdout == data
    assert sandbox.run(["true"], input=data).returncode == 0
    assert sandbox.run(["head", "-c", "5"], input=data).stdout == data[:5]
    assert sandbox.run(["cat"], input="ä", text=True).stdout == "ä"
    assert sandbox.run(["cat"]).stdout == b""


def test_timeout(sandbox: skerry.Sandbox) -> None:
    begin = time.monotonic()
    with pytest.raises(skerry.TimeoutExpired) as caught:
        sandbox.run("echo before; sleep 100 & sleep 100", shell=True, timeout=0.7)
    assert caught.value.stdout == b"before\n"
    with pytest.raises(skerry.TimeoutExpired):
        sandbox.run("trap '' TERM; while :; do :; done", shell=True, timeout=0.5)
    assert time.monotonic() - begin < 20
    assert sandbox.processes() == []
    assert sandbox.run(["true"]).returncode == 0


def test_output_is_bounded(sandbox: skerry.Sandbox) -> None:
    result = sandbox.run("head -c 5000000 /dev/zero; echo err >&2", shell=True, max_output=1000)
    assert (len(result.stdout), result.stdout_truncated, result.stderr_truncated) == (1000, True, False)
    pieces: list[bytes] = []
    sandbox.run("echo a; sleep 0.1; echo b", shell=True, on_stdout=pieces.append)
    assert b"".join(pieces) == b"a\nb\n"


def test_commands_that_cannot_be_started(sandbox: skerry.Sandbox) -> None:
    with pytest.raises(skerry.CommandNotFound, match="nosuch"):
        sandbox.run(["nosuch"])
    with pytest.raises(skerry.CommandNotExecutable, match="passwd"):
        sandbox.run(["/etc/passwd"])
    with pytest.raises(skerry.UsageError, match="working directory"):
        sandbox.run(["true"], cwd="/nosuch")
    with pytest.raises(skerry.CommandFailed, match="last words") as caught:
        sandbox.run("echo last words >&2; exit 4", shell=True, check=True)
    assert caught.value.returncode == 4


def test_commands_of_one_sandbox_share_its_tree(sandbox: skerry.Sandbox) -> None:
    sandbox.run("echo kept > /tmp/skerry-sdk-kept", shell=True, check=True)
    assert sandbox.run(["cat", "/tmp/skerry-sdk-kept"]).stdout == b"kept\n"
    assert not os.path.exists("/tmp/skerry-sdk-kept")
    with skerry.Sandbox() as other:
        assert other.run(["cat", "/tmp/skerry-sdk-kept"]).returncode == 1


def test_many_threads(sandbox: skerry.Sandbox) -> None:
    found: list[bytes] = []

    def work(number: int) -> None:
        found.append(sandbox.run(["cat"], input=str(number).encode()).stdout)
        sandbox.files.write(f"/tmp/skerry-sdk-{number}", str(number))
        found.append(sandbox.files.read(f"/tmp/skerry-sdk-{number}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == sorted(str(number).encode() for number in range(12) for _ in range(2))


# --- spawn ---


def test_streams(sandbox: skerry.Sandbox) -> None:
    with sandbox.spawn(["cat"]) as process:
        assert process.stdin and process.stdout
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word
        process.stdin.close()
        assert process.wait(20) == 0
    with sandbox.spawn("cat; echo err >&2", shell=True) as process:
        assert process.communicate(b"in", timeout=20) == (b"in", b"err\n")


def test_streams_of_ones_own(sandbox: skerry.Sandbox, tmp_path: Path) -> None:
    with (
        open(tmp_path / "out", "wb") as out,
        sandbox.spawn("echo a; echo b >&2; echo c", shell=True, stdin=skerry.DEVNULL, stdout=out, stderr=out) as process,
    ):
        assert process.wait(20) == 0
    assert (tmp_path / "out").read_bytes() == b"a\nb\nc\n"


def test_signals(sandbox: skerry.Sandbox) -> None:
    with sandbox.spawn("trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done", shell=True) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        process.signal(signal.SIGUSR1)
        assert process.wait(20) == 5
    with sandbox.spawn(["sleep", "100"]) as process:
        assert process.poll() is None
        process.kill()
        assert (process.wait(20), process.exit_signal) == (137, 9)


def test_background_commands(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn("echo one; sleep 0.3; echo two; sleep 100", shell=True, background=True)
    assert [state.process for state in sandbox.processes()] == [process.id]
    again = sandbox.connect(process.id)
    assert again.stdout and process.stdout
    assert [again.stdout.readline(), again.stdout.readline()] == [b"one\n", b"two\n"]
    sandbox.kill(process.id)
    assert again.wait(20) == process.wait(20) == 137
    with pytest.raises(skerry.NoSuchProcess):
        sandbox.connect(process.id)
    again.close()
    process.close()


# --- files ---


def test_files_go_in_and_out(sandbox: skerry.Sandbox) -> None:
    files = sandbox.files
    top = "/tmp/skerry-sdk"
    files.mkdir(f"{top}/a/b", parents=True)
    data = os.urandom((2 << 20) + 5)
    assert files.write(f"{top}/a/data", data, mode=0o600) == len(data)
    assert files.read(f"{top}/a/data") == data
    assert files.read(f"{top}/a/data", offset=len(data) - 3) == data[-3:]
    assert sandbox.run(f"wc -c < {top}/a/data; stat -c %a {top}/a/data", shell=True).stdout == b"%d\n600\n" % len(data)
    sandbox.run(f"seq 100000 > {top}/a/numbers", shell=True, check=True)
    assert files.read_text(f"{top}/a/numbers") == "".join(f"{number}\n" for number in range(1, 100001))
    files.write(f"{top}/t", "ä")
    files.write(f"{top}/t", "b", append=True)
    assert sandbox.run(["cat", f"{top}/t"], text=True).stdout == "äb"
    files.write(f"{top}/t", b"")
    assert files.stat(f"{top}/t").size == 0
    assert [(entry.name, entry.kind) for entry in files.list(top)] == [("a", "directory"), ("t", "file")]
    files.rename(f"{top}/t", f"{top}/u")
    assert files.exists(f"{top}/u") and not files.exists(f"{top}/t")
    files.remove(f"{top}/u")
    with pytest.raises(skerry.FileError):
        files.remove(f"{top}/a")
    files.remove(top, recursive=True)
    assert not os.path.exists(top)
    assert sandbox.run(["ls", top]).returncode == 2
    assert b"Linux version" in files.read("/proc/version")


def test_a_link_leads_to_a_place_inside(sandbox: skerry.Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    with skerry.Sandbox(hide=[tmp_path]) as sandbox:
        sandbox.run(f"ln -s {secret} /tmp/link; ln -s ../../../../../../{secret} /tmp/climb", shell=True, check=True)
        for link in ("/tmp/link", "/tmp/climb"):
            with pytest.raises(skerry.SandboxFileNotFound):
                sandbox.files.read(link)
            assert sandbox.files.stat(link, follow_symlinks=False).kind == "symlink"
        sandbox.run("mkdir /tmp/d; ln -s /etc /tmp/d/etc", shell=True, check=True)
        sandbox.files.remove("/tmp/d", recursive=True)
        assert sandbox.files.exists("/etc/passwd")
    assert secret.read_text() == "of the host"


def test_files_that_are_none(sandbox: skerry.Sandbox) -> None:
    sandbox.run("mkfifo /tmp/skerry-sdk-fifo; ln -s skerry-sdk-loop /tmp/skerry-sdk-loop", shell=True, check=True)
    for path in ("/tmp/skerry-sdk-fifo", "/dev/null", "/dev/ptmx", "/dev/tty"):
        with pytest.raises(skerry.FileError):
            sandbox.files.read(path)
        with pytest.raises(skerry.FileError):
            sandbox.files.write(path, b"x")
    for path in ("/", "/proc", "/dev"):
        with pytest.raises(skerry.FileError):
            sandbox.files.remove(path, recursive=True)
    with pytest.raises(skerry.SandboxFileNotFound) as caught:
        sandbox.files.read("/nosuch")
    assert caught.value.filename == "/nosuch"
    with pytest.raises(skerry.SandboxNotADirectory):
        sandbox.files.list("/etc/passwd")
    with pytest.raises(skerry.SandboxIsADirectory):
        sandbox.files.read("/etc")


def test_a_tree_that_grows_while_it_is_removed(sandbox: skerry.Sandbox) -> None:
    script = "i=0; while :; do i=$((i+1)); mkdir -p /tmp/grow/$i && : > /tmp/grow/$i/f; done"
    with sandbox.spawn(script, shell=True, background=True) as process:
        time.sleep(0.3)
        try:
            sandbox.files.remove("/tmp/grow", recursive=True)
        except skerry.FileError as error:
            assert error.errno
        process.kill()
        process.wait(20)
    sandbox.files.remove("/tmp/grow", recursive=True, missing_ok=True)
    assert not sandbox.files.exists("/tmp/grow")


def test_a_long_removal_delays_nobody(sandbox: skerry.Sandbox) -> None:
    """The tree grows as fast as it goes: the removal takes as long as the program runs."""
    script = "mkdir -p /tmp/long; i=0; while :; do i=$((i+1)); : > /tmp/long/$i; done"

    def remove() -> None:
        try:
            sandbox.files.remove("/tmp/long", recursive=True)
        except skerry.FileError:
            pass

    with sandbox.spawn(script, shell=True, background=True) as process:
        remover = threading.Thread(target=remove)
        time.sleep(0.5)
        remover.start()
        start = time.monotonic()
        for number in range(20):
            sandbox.files.write("/tmp/other", str(number))
            assert sandbox.files.read_text("/tmp/other") == str(number)
            sandbox.usage()
        seconds = time.monotonic() - start
        was_busy = remover.is_alive()
        process.kill()
        process.wait(20)
        remover.join(70)
    assert seconds < 10 and not remover.is_alive()
    if not was_busy:
        pytest.skip("the removal was done before anything else could be tried")


def test_files_written_through_to_the_host(tmp_path: Path) -> None:
    with skerry.Sandbox(read_write=[tmp_path], cwd=tmp_path) as sandbox:
        sandbox.files.write("inside", b"1")
        assert (tmp_path / "inside").read_bytes() == b"1"
        (tmp_path / "outside").write_bytes(b"2")
        assert sandbox.files.read("outside") == b"2"
        assert [entry.name for entry in sandbox.files.list()] == ["inside", "outside"]
    with skerry.Sandbox(read_only=[tmp_path]) as sandbox:
        with pytest.raises(skerry.FileError) as caught:
            sandbox.files.write(tmp_path / "inside", b"3")
        assert caught.value.errno == 30  # EROFS


# --- asynchronous ---


def test_the_asynchronous_sandbox() -> None:
    async def work() -> None:
        async with skerry.AsyncSandbox() as sandbox:
            results = await asyncio.gather(*(sandbox.run(["cat"], input=str(n).encode()) for n in range(5)))
            assert [result.stdout for result in results] == [b"0", b"1", b"2", b"3", b"4"]
            begin = time.monotonic()
            task = asyncio.create_task(sandbox.run(["sleep", "100"]))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begin < 20
            with pytest.raises(skerry.TimeoutExpired):
                await sandbox.run(["sleep", "100"], timeout=0.3)

    asyncio.run(work())


# --- its life ---


def test_the_sentry_is_killed(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn(["sleep", "100"])
    below = harness.descendants(sandbox.info().sentry_pid)
    os.kill(sandbox.info().sentry_pid, signal.SIGKILL)
    with pytest.raises(skerry.SentryDied, match="SIGKILL"):
        process.wait(20)
    with pytest.raises(skerry.SentryDied):
        sandbox.run(["true"])
    process.close()
    assert harness.eventually(lambda: not any(harness.status_of(pid) for pid in below), within=20)


def test_closing_ends_what_runs() -> None:
    sandbox = skerry.Sandbox().start()
    process = sandbox.spawn("sleep 100 & sleep 100", shell=True)
    below = harness.descendants(os.getpid())
    sandbox.close()
    with pytest.raises(skerry.SandboxClosed):
        process.wait(20)
    process.close()
    assert harness.eventually(lambda: not any(harness.status_of(pid) for pid in below), within=20)


@pytest.mark.slow
def test_nothing_is_left_of_fifty_sandboxes() -> None:
    def use() -> None:
        with skerry.Sandbox() as sandbox:
            assert sandbox.run(["cat"], input=b"x").stdout == b"x"
            sandbox.spawn(["sleep", "100"]).close()
            sandbox.files.write("/tmp/one-of-fifty", b"y")
            assert sandbox.files.read("/tmp/one-of-fifty") == b"y"
            with pytest.raises(skerry.CommandNotFound):
                sandbox.spawn(["nosuch"])

    use()
    before, threads = descriptors(), threading.active_count()
    for _ in range(50):
        use()
    assert harness.eventually(lambda: not children(), within=20), children()
    assert descriptors() == before
    assert threading.active_count() == threads
