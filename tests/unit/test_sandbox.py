"""The SDK against the fake sentry: what Python decides, not what the guest kernel does."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
import time
from typing import Any

import pytest

import skerry


@pytest.fixture
def sandbox() -> Any:
    with skerry.Sandbox() as sandbox:
        yield sandbox


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- run ---


def test_run_gives_status_and_output(sandbox: skerry.Sandbox) -> None:
    result = sandbox.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert result.args == ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert result.signal is None
    assert result.usage.wall_ns > 0


def test_run_in_the_habits_of_subprocess(sandbox: skerry.Sandbox) -> None:
    assert sandbox.run("echo $((6*7))", shell=True, text=True).stdout == "42\n"
    assert sandbox.run("true").returncode == 0
    assert sandbox.run(["cat"], input=b"abc").stdout == b"abc"
    assert sandbox.run(["cat"], input="äbc", text=True).stdout == "äbc"
    assert sandbox.run(["cat"]).stdout == b""
    assert sandbox.run("echo err >&2", shell=True, stderr=skerry.STDOUT).stdout == b"err\n"
    assert sandbox.run("echo err >&2", shell=True, stderr=skerry.DEVNULL).stderr == b""
    assert sandbox.run(["printf", r"a\r\nb"], text=True).stdout == "a\nb"
    assert sandbox.run(["printf", r"\377"], text=True).stdout == "�"
    assert sandbox.run([b"echo", b"\xff"]).stdout == b"\xff\n"
    assert sandbox.run([pathlib.Path("/bin/echo"), pathlib.Path("a")]).stdout == b"a\n"
    assert sandbox.run("pwd", cwd="/usr").stdout == b"/usr\n"
    assert sandbox.run("echo $A", shell=True, env={"A": "1"}).stdout == b"1\n"


def test_the_end_may_be_told_before_the_start(sandbox: skerry.Sandbox) -> None:
    assert sandbox.run("exit 3 # EXIT-FIRST", shell=True).returncode == 3


def test_a_signal_is_128_and_its_number(sandbox: skerry.Sandbox) -> None:
    result = sandbox.run("kill -SEGV $$", shell=True)
    assert (result.returncode, result.signal) == (128 + 11, 11)


def test_check(sandbox: skerry.Sandbox) -> None:
    with pytest.raises(skerry.CommandFailed, match="status 3: last words") as caught:
        sandbox.run("echo last words >&2; exit 3", shell=True, check=True)
    assert caught.value.result.returncode == caught.value.returncode == 3
    with pytest.raises(skerry.CommandFailed, match="signal 9"):
        sandbox.run("kill -9 $$", shell=True, check=True)
    with pytest.raises(skerry.OutOfMemory, match="memory="):
        sandbox.run("exit 137 # OUT-OF-MEMORY", shell=True, check=True)
    assert sandbox.run("exit 137 # OUT-OF-MEMORY", shell=True).out_of_memory
    assert not sandbox.run("true").out_of_memory


def test_much_input_and_output_at_once(sandbox: skerry.Sandbox) -> None:
    data = os.urandom(3 << 20)
    assert sandbox.run(["cat"], input=data).stdout == data
    assert sandbox.run(["true"], input=data).returncode == 0
    assert sandbox.run(["head", "-c", "5"], input=data).stdout == data[:5]


def test_output_is_bounded_and_says_so(sandbox: skerry.Sandbox) -> None:
    result = sandbox.run("head -c 1000000 /dev/zero; echo err >&2", shell=True, max_output=1000)
    assert len(result.stdout) == 1000
    assert result.stdout_truncated
    assert not result.stderr_truncated
    assert sandbox.run(["echo"], max_output=0).stdout == b""
    assert sandbox.run(["echo"], max_output=None).stdout == b"\n"


def test_output_as_it_comes(sandbox: skerry.Sandbox) -> None:
    out: list[Any] = []
    err: list[Any] = []
    result = sandbox.run("printf 1; printf 2 >&2", shell=True, on_stdout=out.append, on_stderr=err.append)
    assert (out, err, result.stdout) == ([b"1"], [b"2"], b"1")
    sandbox.run(r"printf '\303'; sleep 0.1; printf '\244'", shell=True, on_stdout=out.append, text=True)
    assert out == [b"1", "ä"]


def test_a_callback_that_fails_ends_the_command(sandbox: skerry.Sandbox) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sandbox.run("echo; sleep 100", shell=True, on_stdout=fail)
    deadline = time.monotonic() + 5
    while sandbox.processes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sandbox.processes() == []


def test_timeout(sandbox: skerry.Sandbox) -> None:
    begin = time.monotonic()
    with pytest.raises(skerry.TimeoutExpired) as caught:
        sandbox.run("echo before; sleep 100", shell=True, timeout=0.2, text=True)
    assert caught.value.stdout == "before\n"
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - begin < 1
    with pytest.raises(skerry.TimeoutExpired):  # deaf to TERM: KILL a second later
        sandbox.run("trap '' TERM; sleep 100 & wait; wait", shell=True, timeout="200ms")
    assert time.monotonic() - begin < 4
    assert sandbox.processes() == []


def test_a_handler_of_term_is_heard_to_its_end(sandbox: skerry.Sandbox) -> None:
    with pytest.raises(skerry.TimeoutExpired) as caught:
        sandbox.run("trap 'echo bye; exit' TERM; sleep 100 & wait", shell=True, timeout=0.2)
    assert caught.value.stdout == b"bye\n"


def test_the_sandbox_has_a_default_timeout() -> None:
    with skerry.Sandbox(timeout=0.1) as sandbox, pytest.raises(skerry.TimeoutExpired):
        sandbox.run(["sleep", "100"])


@pytest.mark.parametrize("args", [[], 5, ["a", 5], ["a\0b"]])
def test_arguments_that_are_none(sandbox: skerry.Sandbox, args: Any) -> None:
    with pytest.raises(skerry.UsageError):
        sandbox.run(args)


def test_commands_that_cannot_be_started(sandbox: skerry.Sandbox) -> None:
    with pytest.raises(skerry.CommandNotFound, match="nosuch") as caught:
        sandbox.run(["nosuch"])
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(skerry.CommandNotFound):
        sandbox.run([""])
    with pytest.raises(skerry.CommandNotExecutable, match="passwd"):
        sandbox.run(["/etc/passwd"])
    with pytest.raises(skerry.UsageError, match="working directory"):
        sandbox.run(["true"], cwd="/nosuch")


# --- spawn ---


def test_spawn_has_streams(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn(["cat"])
    assert process.returncode is None
    assert process.stdin and process.stdout
    process.stdin.write(b"abc\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"abc\n"
    process.stdin.close()
    assert process.wait(5) == 0
    assert process.usage is not None
    process.close()


def test_spawn_with_text_and_communicate(sandbox: skerry.Sandbox) -> None:
    with sandbox.spawn(["cat"], text=True, stderr=skerry.DEVNULL) as process:
        assert process.stderr is None
        print("ä", file=process.stdin)
        assert process.stdin
        process.stdin.close()
        assert process.stdout and process.stdout.read() == "ä\n"
    process = sandbox.spawn("cat; echo err >&2", shell=True)
    assert process.communicate(b"in", timeout=5) == (b"in", b"err\n")
    process.close()
    process = sandbox.spawn("echo a; sleep 0.4; echo b", shell=True)
    with pytest.raises(skerry.TimeoutExpired) as caught:
        process.communicate(timeout=0.1)
    assert caught.value.stdout == b"a\n"
    assert process.communicate()[0] == b"a\nb\n"
    process.close()


def test_signals(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn("trap 'exit 5' USR1; while :; do sleep 0.01; done", shell=True)
    time.sleep(0.2)
    process.signal(signal.SIGUSR1)
    assert process.wait(5) == 5
    process.signal(signal.SIGUSR1)  # it has ended: nothing
    process.kill()
    process.close()
    with sandbox.spawn(["sleep", "100"]) as process:
        process.terminate()
        assert process.wait(5) == 128 + 15
        assert process.exit_signal == 15
        assert process.poll() == 143
    process = sandbox.spawn("trap '' TERM; while :; do sleep 0.1; done", shell=True)
    time.sleep(0.2)
    process.stop(0.1)
    assert process.wait(5) == 137
    with pytest.raises(skerry.UsageError):
        process.signal(15, target="world")
    process.close()


def test_wait_with_a_timeout_leaves_the_command(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn(["sleep", "100"])
    with pytest.raises(skerry.TimeoutExpired):
        process.wait(0.05)
    assert process.poll() is None
    process.kill()
    assert process.wait(5) == 137
    process.close()


def test_streams_of_ones_own(sandbox: skerry.Sandbox, tmp_path: pathlib.Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        process = sandbox.spawn(["echo", "hello"], stdin=skerry.DEVNULL, stdout=out, stderr=out.fileno())
        assert process.wait(5) == 0
        assert process.stdout is None
    assert (tmp_path / "out").read_bytes() == b"hello\n"
    with pytest.raises(skerry.UsageError, match="stdout"):
        sandbox.spawn("true", stdout="file")  # type: ignore[arg-type]


def test_a_terminal(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn("test -t 0 && stty size; read x; stty size", shell=True, pty=(100, 30))
    assert process.stdin and process.stdout and process.stderr is None
    assert process.stdout.readline().strip() == b"30 100"
    process.resize(40, 20)
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert b"20 40" in process.stdout.read()
    assert process.wait(5) == 0
    process.close()
    with pytest.raises(skerry.UsageError, match="pty"):
        sandbox.spawn("true", pty=(0, 0))
    with pytest.raises(skerry.UsageError, match="pty=True"), sandbox.spawn("true") as process:
        process.resize(1, 1)


def test_background_commands(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn("echo one; sleep 0.3; echo two; sleep 100", shell=True, background=True)
    assert process.stdin is None
    assert [state.process for state in sandbox.processes()] == [process.id]
    assert sandbox.processes()[0].args[0] == "/bin/sh"
    again = sandbox.connect(process.id)
    assert again.stdout and process.stdout
    assert [again.stdout.readline(), again.stdout.readline()] == [b"one\n", b"two\n"]
    assert process.stdout.readline() == b"one\n"  # a reader of its own
    sandbox.kill(process.id)
    assert again.wait(5) == 137
    assert process.returncode == 137
    assert again.stdout.read() == b""
    with pytest.raises(skerry.NoSuchProcess):
        sandbox.connect(process.id)
    again.close()
    process.close()


def test_a_background_command_never_waits_for_a_reader(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn("head -c 1000000 /dev/zero; echo end", shell=True, background=True, keep_output=1000)
    assert process.wait(5) == 0
    assert process.stdout
    kept = process.stdout.read()
    assert len(kept) == 1000
    assert kept.endswith(b"\0end\n")


def test_a_foreground_command_is_found_again(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn(["cat"])
    assert sandbox.connect(process.id) is process
    assert sandbox.connect(sandbox.processes()[0]) is process
    sandbox.kill(process)
    process.close()


def test_many_threads(sandbox: skerry.Sandbox) -> None:
    found: list[bytes] = []

    def work(number: int) -> None:
        sandbox.usage()
        found.append(sandbox.run(["cat"], input=str(number).encode()).stdout)
        sandbox.processes()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == sorted(str(number).encode() for number in range(16))


# --- files ---


@pytest.fixture
def files(tmp_path: pathlib.Path) -> Any:
    with skerry.Sandbox(read_write=tmp_path) as sandbox:
        yield sandbox.files


def test_files(files: Any, tmp_path: pathlib.Path) -> None:
    data = os.urandom((2 << 20) + 5)
    assert files.write(tmp_path / "a", data) == len(data)
    assert files.read(tmp_path / "a") == data
    assert files.read(tmp_path / "a", offset=len(data) - 3) == data[-3:]
    with pytest.raises(skerry.FileTooLarge):
        files.read(tmp_path / "a", max_bytes=1000)
    files.write(tmp_path / "t", "ä", mode=0o600)
    files.write(tmp_path / "t", "b", append=True)
    assert files.read_text(tmp_path / "t") == "äb"
    files.write(tmp_path / "t", b"")
    assert files.read(tmp_path / "t") == b""
    stat = files.stat(tmp_path / "t")
    assert (stat.name, stat.kind, stat.size, stat.mode & 0o77) == ("t", "file", 0, 0)
    assert stat.is_file and not stat.is_dir
    files.mkdir(tmp_path / "d" / "e", parents=True)
    files.mkdir(tmp_path / "d", exist_ok=True)
    with pytest.raises(FileExistsError):
        files.mkdir(tmp_path / "d")
    (tmp_path / "d" / os.fsdecode(b"\xff")).touch()
    assert [entry.name for entry in files.list(tmp_path / "d")] == ["e", os.fsdecode(b"\xff")]
    files.rename(tmp_path / "t", tmp_path / "u")
    assert files.exists(tmp_path / "u") and not files.exists(tmp_path / "t")
    assert not files.exists(tmp_path / "u" / "below")
    with pytest.raises(skerry.FileError):
        files.remove(tmp_path / "d")
    files.remove(tmp_path / "d", recursive=True)
    files.remove(tmp_path / "d", missing_ok=True)
    with pytest.raises(skerry.SandboxFileNotFound) as caught:
        files.read(tmp_path / "nosuch")
    assert caught.value.filename == str(tmp_path / "nosuch")
    with pytest.raises(skerry.UsageError):
        files.read("")


def test_removing_a_tree_does_not_follow_links(files: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    deep = tmp_path / "tree"
    for _ in range(50):
        deep /= "d"
    files.mkdir(deep, parents=True)
    (deep / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree" / "file").touch()
    files.remove(tmp_path / "tree", recursive=True)
    assert not (tmp_path / "tree").exists()
    assert (tmp_path / "kept" / "file").exists()
    (tmp_path / "link").symlink_to("kept")
    assert files.stat(tmp_path / "link").kind == "directory"
    assert files.stat(tmp_path / "link", follow_symlinks=False).kind == "symlink"
    files.remove(tmp_path / "link", recursive=True)
    assert (tmp_path / "kept" / "file").exists()
    with pytest.raises(FileNotFoundError):
        files.remove(tmp_path / "nosuch", recursive=True)


def test_a_relative_path_starts_at_the_working_directory(tmp_path: pathlib.Path) -> None:
    (tmp_path / "here").write_text("x")
    with skerry.Sandbox(cwd=tmp_path) as sandbox:
        assert sandbox.files.read("here") == b"x"
        assert [entry.name for entry in sandbox.files.list()] == ["here"]


# --- its life ---


def test_it_starts_at_the_first_use_and_ends_once() -> None:
    sandbox = skerry.Sandbox()
    assert sandbox.run("true").returncode == 0
    pid = sandbox.info().sentry_pid
    sandbox.close()
    sandbox.close()
    assert sandbox.closed
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(skerry.SandboxClosed):
        sandbox.run("true")


def test_what_it_says_of_itself(sandbox: skerry.Sandbox) -> None:
    info = sandbox.info()
    assert info.layers == ["seccomp"]
    assert info.missing[0].layer == "landlock"
    assert sandbox.usage().system_calls == 7


def test_closing_ends_what_runs() -> None:
    sandbox = skerry.Sandbox().start()
    process = sandbox.spawn(["sleep", "100"])
    threading.Timer(0.1, sandbox.close).start()
    with pytest.raises(skerry.SandboxClosed):
        process.wait(5)
    process.close()


def test_nothing_is_left_open() -> None:
    def use() -> None:
        with skerry.Sandbox() as sandbox:
            sandbox.run(["cat"], input=b"x")
            sandbox.spawn(["true"]).close()
            process = sandbox.spawn(["true"], background=True)
            process.wait(5)
            assert process.stdout and process.stdout.read() == b""
            with pytest.raises(skerry.CommandNotFound):
                sandbox.spawn(["nosuch"])

    use()
    before = descriptors()
    use()
    assert descriptors() == before


def test_events(tmp_path: pathlib.Path) -> None:
    events: list[Any] = []
    with skerry.Sandbox(trace=True, events=events.append) as sandbox:
        sandbox.run("true # OUT-OF-MEMORY", shell=True)
    assert [event["event"] for event in events] == ["out_of_memory", "trace", "exited"]


def test_an_events_callback_may_use_the_sandbox_and_may_fail(capfd: pytest.CaptureFixture[str]) -> None:
    seen = threading.Event()

    def callback(event: Any) -> None:
        if event["event"] == "exited" and not seen.is_set():
            sandbox.usage()
            seen.set()
            raise ZeroDivisionError

    with skerry.Sandbox(events=callback) as sandbox:
        sandbox.run("true")
        assert seen.wait(5)
    assert "ZeroDivisionError" in capfd.readouterr().err
    with pytest.raises(skerry.UsageError):
        skerry.Sandbox(events=5)  # type: ignore[arg-type]


# --- what goes wrong ---


def test_the_sentry_dies_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SENTRY", "die")
    with (
        skerry.Sandbox() as sandbox,
        pytest.raises(skerry.SentryDied, match=r"(?s)status 101.*panicked at the disco") as caught,
    ):
        sandbox.run("true")
    assert caught.value.status == 101


def test_the_sentry_is_killed_while_a_command_runs(sandbox: skerry.Sandbox) -> None:
    process = sandbox.spawn(["sleep", "100"])
    os.kill(sandbox.info().sentry_pid, signal.SIGKILL)
    with pytest.raises(skerry.SentryDied, match="SIGKILL"):
        process.wait(5)
    with pytest.raises(skerry.SentryDied):
        sandbox.run("true")
    if "SKERRY_UNIT_SENTRY" not in os.environ:
        os.kill(process.id, signal.SIGKILL)  # the fake runs it as a plain process
    process.close()


def test_the_sentry_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SENTRY", "refuse")
    before = descriptors()
    with pytest.raises(skerry.LayerUnavailable, match="landlock"):
        skerry.Sandbox(require="landlock").start()
    assert descriptors() == before


def test_the_sentry_talks_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SENTRY", "garbage")
    with pytest.raises(skerry.ProtocolError, match="limit"):
        skerry.Sandbox().start()


def test_a_sentry_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    from skerry.engines import sentry

    monkeypatch.setattr(sentry, "_END_GRACE", 0.2)
    monkeypatch.setenv("FAKE_SENTRY", "deaf")
    with skerry.Sandbox() as sandbox:
        pid = sandbox.info().sentry_pid
    assert not os.path.exists(f"/proc/{pid}")


def test_no_sentry(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("SKERRY_SENTRY", "/nosuch")
    with pytest.raises(skerry.SentryNotFound, match="SKERRY_SENTRY names '/nosuch'"):
        skerry.Sandbox().start()
    monkeypatch.delenv("SKERRY_SENTRY")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "scripts"))
    with pytest.raises(skerry.SentryNotFound, match="not installed") as caught:
        skerry.Sandbox().start()
    for place in (tmp_path / "bin", tmp_path, tmp_path / "scripts"):
        assert f"  {place}/skerry-sentry" in str(caught.value)
    program = tmp_path / "skerry-sentry"
    program.touch(0o755)
    from skerry.engines.sentry import find_sentry

    assert find_sentry() == str(program)


def test_engines() -> None:
    with pytest.raises(skerry.EngineNotBuilt, match="kvm"):
        skerry.Sandbox(engine="kvm").start()
    with pytest.raises(skerry.UsageError, match="engine"):
        skerry.Sandbox(engine="wall").start()
    with skerry.Sandbox(engine="auto", min_isolation=3) as sandbox:
        assert sandbox.run(["true"]).returncode == 0


def test_what_an_engine_cannot_enforce_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    from skerry.engines import base, sentry

    refusing = base.Capabilities(3, {"hide": "it shows everything", "network loopback": "it has none"})
    monkeypatch.setattr(sentry.SentryEngine, "capabilities", refusing)
    for option, value in (("hide", "/etc"), ("network", "loopback"), ("min_isolation", 4)):
        with pytest.raises(skerry.Unenforceable, match="the engine 'sentry' cannot enforce it") as caught:
            skerry.Sandbox(**{option: value}).start()
        assert (caught.value.option, caught.value.engine) == (option, "sentry")
    # Those that have a kernel of their own, too, are here or not.
    monkeypatch.setattr(base, "ENGINES", [row for row in base.ENGINES if row[0] in ("sentry", "namespace", "rules")])
    with pytest.raises(skerry.EngineUnavailable, match="sentry: hide: .*it shows everything"):
        skerry.Sandbox(hide="/etc", engine="auto", min_isolation=3).start()
    with skerry.Sandbox(read_only="/etc", pids=None, network="none") as sandbox:
        assert sandbox.run(["true"]).returncode == 0


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "aarch64")])
def test_another_system(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system, "", "", "", machine)))
    with pytest.raises(skerry.UnsupportedHost, match="needs Linux 5.9 or newer on an x86-64"):
        skerry.Sandbox().start()
