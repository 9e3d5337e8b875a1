"""Standard streams, signals and exit statuses of `skerry do` itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox


def start(caller: harness.Caller, *words: str, options: tuple[str, ...] = (), **rest) -> subprocess.Popen:
    return subprocess.Popen(
        [*caller.command, "do", *options, "--", *words], env=caller.environment(None), start_new_session=True, **rest
    )


def test_input_output_and_error_are_connected(caller: harness.Caller) -> None:
    done = caller.sandbox(["sh", "-c", "cat; echo problem >&2; exit 3"], input="from outside")
    assert (done.stdout, done.stderr, done.returncode) == ("from outside", "problem\n", 3)


def test_end_of_input_is_passed_on(caller: harness.Caller) -> None:
    assert caller.sandbox(["wc", "-c"], input="").stdout.strip() == "0"


def test_binary_and_large_data_pass_unchanged(caller: harness.Caller) -> None:
    data = bytes(range(256)) * 20000
    process = start(caller, "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, _ = process.communicate(data, timeout=60)
    assert process.returncode == 0 and output == data


def test_head_ends_it_cleanly(caller: harness.Caller) -> None:
    words = " ".join(map(str, caller.command))
    done = harness.run(
        ["bash", "-c", f"{words} do -- seq 10000000 | head -1; echo ${{PIPESTATUS[0]}}"], environment=caller.environment(None)
    )
    assert done.stdout.split("\n")[0] == "1"
    assert done.stdout.split("\n")[1] in ("141", "1"), done  # seq was killed by SIGPIPE, or saw the error
    assert "Traceback" not in done.stderr, done


def test_output_to_a_file_and_to_nothing(caller: harness.Caller, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        assert start(caller, "sh", "-c", "echo one; echo two", stdout=file).wait(60) == 0
    assert (tmp_path / "out").read_text() == "one\ntwo\n"
    words = " ".join(map(str, caller.command))
    done = harness.run(["sh", "-c", f"{words} do -- sh -c 'echo x; exit 4' >&- 2>&- <&-"], environment=caller.environment(None))
    assert done.returncode in (4, 1), done


def test_appending_shares_the_callers_file(caller: harness.Caller, tmp_path: Path) -> None:
    target = tmp_path / "log"
    target.write_text("before\n")
    with target.open("ab") as file:
        assert start(caller, "echo", "after", stdout=file).wait(60) == 0
    assert target.read_text() == "before\nafter\n"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT]
)
def test_signals_are_passed_on(caller: harness.Caller, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    with start(caller, "sh", "-c", script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        deliver(process.pid, number)
        assert process.stdout.read() == "got\n"
        assert process.wait(30) == 9


def deliver(pid: int, number: int) -> None:
    """To skerry itself: with `setpriv` before it, which execs, that is the process we started."""
    os.kill(pid, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_death_by_a_signal_is_128_plus_n(caller: harness.Caller, number: signal.Signals) -> None:
    with start(caller, "sh", "-c", "echo ready; exec sleep 60", stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        deliver(process.pid, number)
        assert process.wait(30) in (128 + number, -number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGPIPE, 34, 64])
def test_a_command_killed_inside(caller: harness.Caller, number: int) -> None:
    done = caller.sandbox(["sh", "-c", f"kill -{int(number)} $$"])
    assert done.returncode == 128 + number, done


@pytest.mark.parametrize("code", [0, 1, 2, 77, 125, 126, 127, 128, 255])
def test_the_commands_own_status(ourselves: harness.Caller, code: int) -> None:
    assert ourselves.sandbox(["sh", "-c", f"exit {code}"]).returncode == code


def test_a_nice_caller_has_nice_programs(caller: harness.Caller) -> None:
    nice = ["nice", "-n", "3"]
    natively = caller.native([*nice, "nice"])
    done = harness.run([*nice, *caller.command, "do", "--", "nice"], environment=caller.environment(None))
    assert done.stdout == natively.stdout, (done, natively)


def test_timeout_is_124(caller: harness.Caller) -> None:
    start_time = time.monotonic()
    done = caller.do(["--timeout", "1"], ["sleep", "30"])
    assert done.returncode == 124, done
    assert time.monotonic() - start_time < 15


def test_timeout_ends_what_ignores_term(caller: harness.Caller) -> None:
    done = caller.do(["--timeout", "1"], ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"])
    assert (done.returncode, done.stdout) == (124, "deaf\n"), done


def test_timeout_sends_term_first(caller: harness.Caller) -> None:
    script = "trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.05; done"
    done = caller.do(["--timeout", "1"], ["sh", "-c", script])
    assert (done.returncode, done.stdout) == (124, "cleaned\n"), done


def test_background_processes_end_with_the_command(caller: harness.Caller) -> None:
    start_time = time.monotonic()
    done = caller.sandbox(["sh", "-c", "sleep 300 > /dev/null 2>&1 & echo left"])
    assert (done.returncode, done.stdout) == (0, "left\n"), done
    assert time.monotonic() - start_time < 30


def test_json_and_events(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        result, events = work / "result.json", work / "events.jsonl"
        done = caller.do(["--json", str(result), "--events", str(events)], ["sh", "-c", "exit 5"], cwd=work)
        assert done.returncode == 5, done
        report = harness.read_json(result)
        assert report["exit_status"] == 5
        assert report["timed_out"] is False and report["out_of_memory"] is False
        assert "seccomp" in report["layers"]
        assert report["usage"]["wall_ns"] > 0 and report["usage"]["peak_memory"] > 0
        for line in events.read_text().splitlines():
            assert isinstance(harness.json.loads(line), dict)


def test_trace_names_the_calls(caller: harness.Caller) -> None:
    done = caller.do(["--trace"], ["cat", "/etc/hostname"])
    assert done.returncode == 0
    assert "openat" in done.stderr and "/etc/hostname" in done.stderr and "exit_group" in done.stderr


def test_a_call_that_linux_does_not_have_is_told_once(caller: harness.Caller) -> None:
    script = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print([(libc.syscall(1000), ctypes.get_errno()) for _ in range(3)])"
    )
    with caller.workspace() as work:
        events = work / "events.jsonl"
        done = caller.do(["--events", str(events)], ["/usr/bin/python3", "-c", script], cwd=work)
        assert (done.returncode, done.stdout) == (0, "[(-1, 38), (-1, 38), (-1, 38)]\n"), done
        told = [event for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "unknown_call"]
    assert [event["number"] for event in told] == [1000]


def test_what_must_differ_is_the_sandboxs_own(caller: harness.Caller) -> None:
    """Processes, mounts, disks and ids (which `test_shell` cannot compare with the host's)."""
    script = "sleep 9 & ps -eo pid= -o comm=; echo; df -P / | tail -1; mount | grep -c ' on / '; id -u; kill $!"
    with caller.workspace() as work:
        done = caller.sandbox(["sh", "-c", script], cwd=work)
    assert (done.returncode, done.stderr) == (0, ""), done
    processes, rest = done.stdout.split("\n\n")
    names = dict(line.split(maxsplit=1) for line in processes.splitlines())
    assert (names["1"], names["2"], len(names)) == ("init", "sh", 4) and "ps" in names.values(), processes
    disk, mounts, uid = rest.splitlines()
    _, size, used, free, _, place = disk.split()
    assert place == "/" and int(size) > 0 and int(used) + int(free) <= int(size), disk
    assert (mounts, uid) == ("1", "0")
