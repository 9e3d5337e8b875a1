"""`skerry` as a process of its own, against the fake sentry."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

SKERRY = [sys.executable, "-m", "skerry"]


@pytest.fixture(autouse=True)
def environment(command_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", command_environment["PYTHONPATH"])


def skerry(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    keywords.setdefault("input", "")
    return subprocess.run([*SKERRY, *arguments], capture_output=True, text=True, timeout=30, **keywords)


def do(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    return skerry("do", *arguments, **keywords)


# --- exit statuses and messages ---


def test_the_commands_own_status_and_streams() -> None:
    done = do("--", "sh", "-c", "cat; echo err >&2; exit 7", input="in")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "err\n")


def test_options_end_at_the_command() -> None:
    assert do("echo", "--rw", "-h").stdout == "--rw -h\n"
    assert do("--", "echo", "--", "x").stdout == "-- x\n"
    assert do("--hostname=a", "-eA=1", "-e", "B=2", "sh", "-c", "echo $A$B").stdout == "12\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "there is no command"),
        (["--"], 2, "there is no command"),
        (["--memroy", "1", "--", "true"], 2, "unknown option --memroy; did you mean '--memory'?"),
        (["--bogus", "--", "true"], 2, "unknown option --bogus\n"),
        (["-x", "--", "true"], 2, "unknown option -x"),
        (["--memory"], 2, "--memory needs a value: --memory SIZE"),
        (["--trace=yes", "--", "true"], 2, "--trace takes no value"),
        (["--memory", "much", "--", "true"], 2, "--memory: 'much' is not a size"),
        (["--timeout", "0", "--", "true"], 2, "--timeout: '0' must be more than 0"),
        (["--cpus", "none", "--", "true"], 2, "--cpus: 'none' is not a number of CPUs"),
        (["--pids", "0", "--", "true"], 2, "--pids: '0' is not a whole number"),
        (["--user", "root", "--", "true"], 2, "--user: 'root' is not a user"),
        (["--network", "host", "--", "true"], 2, "--network: 'host' is none of none, loopback, user"),
        (["--engine", "kvm", "--", "true"], 2, "--engine: the engine 'kvm' is not built yet"),
        (["--engine", "wall", "--", "true"], 2, "--engine: there is no engine 'wall'"),
        (["--min-isolation", "4", "--", "true"], 2, "--min-isolation: the engine 'sentry' cannot enforce it: its level is 3"),
        (["--min-isolation", "5", "--", "true"], 2, "--min-isolation: '5' is not an isolation level"),
        (["--require", "walls", "--", "true"], 2, "--require: 'walls' is none of seccomp"),
        (["--rw", "/nosuch", "--", "true"], 2, "--rw: '/nosuch' on the host: No such file or directory"),
        (["--ro", "/etc:rel", "--", "true"], 2, "--ro: 'rel' inside the sandbox must be an absolute path"),
        (["--ro", ":/x", "--", "true"], 2, "--ro: ':/x' is not SRC or SRC:DST"),
        (["--hide", "/nosuch", "--", "true"], 2, "--hide: '/nosuch'"),
        (["--tmpfs", "rel", "--", "true"], 2, "--tmpfs: 'rel'"),
        (["--overlay-dir", "/etc/passwd", "--", "true"], 2, "--overlay-dir: '/etc/passwd'"),
        (["--env", "=x", "--", "true"], 2, "--env: '' is not the name of an environment variable"),
        (["--hostname", "", "--", "true"], 2, "--hostname: ''"),
        (["--json", "/nosuch/x", "--", "true"], 2, "--json: '/nosuch/x' cannot be written: No such file or directory"),
        (["--events", "/", "--", "true"], 2, "--events: '/' cannot be written"),
        (["--", ""], 127, "the name of the command is empty"),
        (["--", "nosuch"], 127, "nosuch: not found"),
        (["--cwd", "/nosuch", "--", "true"], 2, "--cwd: the working directory /nosuch"),
        (["--", "/etc/passwd"], 126, "/etc/passwd: cannot be executed"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], status: int, message: str) -> None:
    done = do(*arguments)
    assert done.returncode == status
    assert done.stderr.startswith(f"skerry: do: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_sentry_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for way, message in (("die", "panicked"), ("refuse", "landlock"), ("garbage", "limit")):
        monkeypatch.setenv("FAKE_SENTRY", way)
        done = do("--", "true")
        assert done.returncode == 125
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_signals_and_timeouts() -> None:
    assert do("--", "sh", "-c", "kill -9 $$").returncode == 137
    begin = time.monotonic()
    assert do("--timeout", "200ms", "--", "sleep", "100").returncode == 124
    done = do("--timeout", "0.3", "--", "sh", "-c", "trap 'echo term' TERM; while :; do sleep 0.05; done")
    assert (done.returncode, done.stdout) == (124, "term\n")
    assert time.monotonic() - begin < 10


def test_the_reader_goes_away() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m skerry do -- yes | head -1"], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("y\n", "")


def test_closed_streams() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m skerry do -- sh -c 'echo x; cat' <&- 2>&-"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "x\n")


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "WINCH", "CONT"])
def test_signals_are_passed_on(name: str) -> None:
    script = f"trap 'echo got; exit 5' {name}; echo ready; while :; do sleep 0.02; done"
    with subprocess.Popen([*SKERRY, "do", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, "SIG" + name))
        assert process.stdout.read() == "got\n"
    assert process.returncode == 5


def test_stop_and_continue() -> None:
    script = "trap 'echo continued; exit' CONT; echo ready; while :; do sleep 0.02; done"
    with (
        subprocess.Popen([*SKERRY, "do", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True, process_group=0)
        if sys.version_info >= (3, 11)
        else subprocess.Popen(
            [*SKERRY, "do", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True, preexec_fn=os.setpgrp
        ) as process
    ):
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "continued\n"
    assert process.returncode == 0


def test_what_the_caller_ignores_stays_ignored() -> None:
    script = "trap 'exit 5' HUP; echo ready; sleep 0.5"
    with subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *SKERRY, "do", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 0


def test_a_killed_caller_leaves_nothing() -> None:
    with subprocess.Popen(
        [*SKERRY, "do", "--", "sh", "-c", "echo $$; exec sleep 100"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        inside = int(process.stdout.readline())
        process.kill()
    for _ in range(200):
        try:
            state = pathlib.Path(f"/proc/{inside}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # a container's first process may leave it so
            return
        time.sleep(0.02)
    pytest.fail("the command lives on")


# --- reports ---


def test_json_and_events(tmp_path: pathlib.Path) -> None:
    report, events = tmp_path / "report", tmp_path / "events"
    done = do("--json", str(report), "--events", str(events), "--", "sh", "-c", "exit 3 # OUT-OF-MEMORY")
    assert done.returncode == 3
    found = json.loads(report.read_text())
    assert (found["exit_status"], found["status"], found["signal"], found["timed_out"]) == (3, 3, None, False)
    assert found["out_of_memory"] is True
    assert found["layers"] == ["seccomp"]
    assert found["missing"] == [{"layer": "landlock", "reason": "this is no real sentry"}]
    assert found["usage"]["peak_memory"] == 1 << 20
    assert [json.loads(line)["event"] for line in events.read_text().splitlines()] == ["out_of_memory", "exited"]
    assert do("--json", str(report), "--timeout", "0.1", "--", "sleep", "9").returncode == 124
    found = json.loads(report.read_text())
    assert (found["exit_status"], found["signal"], found["timed_out"]) == (124, 15, True)


def test_json_also_says_why_there_was_no_command(tmp_path: pathlib.Path) -> None:
    assert do("--json", str(tmp_path / "report"), "--", "nosuch").returncode == 127
    found = json.loads((tmp_path / "report").read_text())
    assert (found["exit_status"], found["usage"], found["layers"]) == (127, None, ["seccomp"])
    assert "nosuch" in found["error"]


def test_running_out_of_memory_is_said() -> None:
    done = do("--memory", "1m", "--", "sh", "-c", "kill -9 $$ # OUT-OF-MEMORY")
    assert (done.returncode, done.stderr) == (
        137, "skerry: do: out of memory: the sandbox reached its limit of 1048576 bytes (--memory)\n",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_ends_us_while_there_is_no_command_yet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SENTRY", "slow")
    with subprocess.Popen([*SKERRY, "do", "--", "true"], stderr=subprocess.PIPE, text=True) as process:
        time.sleep(0.5)
        begin = time.monotonic()
        process.send_signal(getattr(signal, "SIG" + name))
        assert process.wait(20) == 128 + getattr(signal, "SIG" + name)
        assert time.monotonic() - begin < 8
        assert process.stderr and process.stderr.read() == ""


def test_trace_goes_to_standard_error_and_cannot_move_the_cursor() -> None:
    done = do("--trace", "--", "true")
    assert "] exit_group(\\x1b[2J) = ?\n" in done.stderr


def test_the_environment() -> None:
    done = do("-e", "A=1", "-e", "TAKEN", "-e", "NOT_THERE", "--", "env", env={**os.environ, "SECRET": "s", "TAKEN": "t"})
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (found["A"], found["TAKEN"]) == ("1", "t")
    assert "SECRET" not in found and "NOT_THERE" not in found and "PYTHONPATH" not in found
    assert "SECRET=s" in do("--env-all", "--", "env", env={**os.environ, "SECRET": "s"}).stdout


# --- a terminal ---


class Terminal:
    """A terminal with `skerry do` on it, in a session of its own."""

    def __init__(self, *command: str, redirect: str = "") -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {redirect}', "sh", *command],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )
        self.seen = b""

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + 10
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"{text!r} is not in {self.seen!r}"
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.split(text, 1)[1]

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def wait(self) -> int:
        return self.process.wait(10)

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def on_terminal() -> Iterator[Any]:
    made: list[Terminal] = []

    def make(*arguments: str, redirect: str = "") -> Terminal:
        made.append(Terminal(*SKERRY, "do", *arguments, redirect=redirect))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


def test_on_a_terminal_the_command_has_one(on_terminal: Any) -> None:
    terminal = on_terminal("--", "sh", "-c", "test -t 0 && test -t 2 && echo yes; tty; read x; echo got $x; exit 4")
    terminal.expect(b"yes\r\n")
    assert not terminal.is_restored()
    terminal.send(b"abc\r")
    terminal.expect(b"got abc\r\n")
    assert terminal.wait() == 4
    assert terminal.is_restored()


def test_interrupt_reaches_the_command_through_its_terminal(on_terminal: Any) -> None:
    terminal = on_terminal("--", "sh", "-c", "trap 'echo int; exit 9' INT; echo ready; while :; do sleep 0.05; done")
    terminal.expect(b"ready")
    terminal.send(b"\x03")
    terminal.expect(b"int")
    assert terminal.wait() == 9


def test_the_window_size_follows(on_terminal: Any) -> None:
    terminal = on_terminal("--", "sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done")
    terminal.expect(b"ready")
    import fcntl
    import struct

    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    os.kill(terminal.process.pid, signal.SIGWINCH)
    terminal.expect(b"33 99")
    assert terminal.wait() == 0


@pytest.mark.parametrize("name", ["TERM", "HUP", "KILL"])
def test_the_terminal_is_restored_after_any_death(on_terminal: Any, name: str) -> None:
    terminal = on_terminal("--", "sh", "-c", "echo ready; exec sleep 100")
    terminal.expect(b"ready")
    os.kill(terminal.process.pid, getattr(signal, "SIG" + name))
    number = getattr(signal, "SIG" + name)
    assert terminal.wait() == (-number if name == "KILL" else 128 + number)
    deadline = time.monotonic() + 5
    while not terminal.is_restored() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert terminal.is_restored()


def test_the_terminal_is_restored_when_the_sentry_dies(on_terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SENTRY", "die")
    terminal = on_terminal("--", "true")
    terminal.expect(b"panicked")
    assert terminal.wait() == 125
    assert terminal.is_restored()


def test_standard_error_that_leads_elsewhere_goes_there(on_terminal: Any, tmp_path: pathlib.Path) -> None:
    terminal = on_terminal("--", "sh", "-c", "echo err >&2; test -t 1 && echo out", redirect=f"2>{tmp_path}/err")
    terminal.expect(b"out")
    assert terminal.wait() == 0
    assert (tmp_path / "err").read_text() == "err\n"


def test_no_terminal_where_output_is_piped_or_none_is_wanted(on_terminal: Any, tmp_path: pathlib.Path) -> None:
    terminal = on_terminal("--", "sh", "-c", "test -t 1 || echo no", redirect=f">{tmp_path}/out")
    assert terminal.wait() == 0
    assert (tmp_path / "out").read_text() == "no\n"
    assert do("-t", "--", "sh", "-c", "test -t 0 && test -t 1 && echo yes").stdout == "yes\n"


# --- the other commands ---


def test_help_and_version() -> None:
    assert skerry("--version").stdout == "skerry 0.1.0\n"
    for arguments in ([], ["help"], ["--help"]):
        done = skerry(*arguments)
        assert done.returncode == 0
        assert "doctor" in done.stdout
    for arguments in (["help", "do"], ["do", "--help"]):
        text = skerry(*arguments).stdout
        for option in ("--rw PATH", "--ro SRC[:DST]", "--env-all", "--timeout TIME", "--require LAYER", "--json FILE"):
            assert option in text
    done = skerry("dooctor")
    assert (done.returncode, done.stderr) == (
        2, "skerry: there is no command 'dooctor'; did you mean 'doctor'?; 'skerry help' lists them\n",
    )  # fmt: skip


def test_engines() -> None:
    lines = skerry("engines").stdout.splitlines()
    assert lines[0].split() == ["engine", "state", "level", "wall"]
    assert lines[1].split()[:3] == ["sentry", "default", "3"]
    assert "kvm        not built yet" in "\n".join(lines)
    measured = skerry("engines", "--measure").stdout.splitlines()[1].split()
    assert measured[:3] == ["sentry", "default", "3"] and measured[4] == "ms" and float(measured[5]) > 0
    assert skerry("engines", "x").returncode == 2


@pytest.mark.parametrize("command", ["do", "doctor", "engines"])
def test_on_another_system_each_command_says_what_is_needed(command: str) -> None:
    code = (
        "import os, sys; sys.platform = 'darwin'; os.uname = lambda: os.uname_result(('Darwin', '', '', '', 'arm64'));"
        f"import skerry.cli; sys.exit(skerry.cli.main([{command!r}, '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr == (
        "skerry: Skerry needs Linux 5.9 or newer on an x86-64 processor with a 64-bit Python; this is darwin on arm64\n"
    )
