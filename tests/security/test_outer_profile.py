"""In a container: under an outer filter like Docker's default one, without capabilities, everything works all the same."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

OUTER = Path(__file__).with_name("outer_filter.py")
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")

PYTHON = """
import asyncio, multiprocessing, subprocess, threading
threads = [threading.Thread(target=sum, args=(range(999),)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(subprocess.check_output(["echo", "a"]))
with multiprocessing.Pool(2) as pool:
    print(pool.map(abs, [-1, 2]))
async def main():
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print(await process.communicate(b"x"))
asyncio.run(main())
"""
GIT = (
    "git init -q r && cd r && echo a > f && git add f && git -c user.name=n -c user.email=e commit -qm first && "
    "git clone -q . ../s && git -C ../s log --format=%s && git gc -q && git status --short | wc -l"
)


def under(caller: harness.Caller, *options: str) -> harness.Caller:
    """The same caller, in such a container."""
    lose = NO_CAPABILITIES if caller.owner[0] == 0 else ()
    prefix = (*caller.prefix, *lose, "/usr/bin/python3", "-S", "-c", OUTER.read_text(), *options, "--")
    return harness.Caller(caller.name, prefix, caller.skerry, caller.owner)


@pytest.fixture(params=[(), ("--old",)], ids=["default", "old"])
def contained(request: pytest.FixtureRequest, caller: harness.Caller) -> harness.Caller:
    if reason := harness.missing("setpriv", "python3"):
        pytest.skip(reason)
    return under(caller, *request.param)


def test_the_outer_filter_refuses(contained: harness.Caller) -> None:
    """Else the rest would show nothing."""
    done = contained.native(["unshare", "-U", "true"])
    assert done.returncode != 0 and "not permitted" in done.stderr, done


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["sh", "-c", "echo a | cat; (exit 3); echo $?; seq 1000 | sort -R | sort -n | tail -1; kill -9 $$"], "a\n3\n1000\n"),
        (["/usr/bin/python3", "-c", PYTHON], "b'a\\n'\n[1, 2]\n(b'x', None)\n"),
        (["sh", "-c", GIT], "first\n0\n"),
    ],
    ids=["shell", "python3", "git"],
)
def test_programs_run(contained: harness.Caller, command: list[str], expected: str) -> None:
    if command[-1] == GIT and (reason := harness.missing("git")):
        pytest.skip(reason)
    with contained.workspace() as work:
        report = work / "report.json"
        done = contained.do(["--json", str(report)], command, cwd=work)
        assert done.stdout == expected, done
        assert done.returncode == (137 if "kill -9" in command[-1] else 0), done
        told = json.loads(report.read_text())
    assert told["guest_memory"] == "proc_mem"
    assert "seccomp" in told["layers"]
    reasons = {layer["layer"]: layer["reason"] for layer in told["missing"]}
    for layer in ("user_namespace", "mount_namespace", "pid_namespace", "network_namespace"):
        assert reasons[layer], told


def test_memory_that_may_not_be_touched_gives_efault(contained: harness.Caller) -> None:
    """/proc/PID/mem writes and reads with force; the guest kernel does not."""
    code = (
        "import ctypes, mmap, os; c = ctypes.CDLL(None, use_errno=True); c.mmap.restype = ctypes.c_void_p\n"
        "page = c.mmap(None, 8192, 1, 0x22, -1, 0); ends = os.pipe(); os.write(ends[1], b'x')\n"
        "print(c.read(ends[0], ctypes.c_void_p(page), 1), ctypes.get_errno())\n"
        "c.mprotect(ctypes.c_void_p(page), 8192, 0)\n"
        "print(c.write(ends[1], ctypes.c_void_p(page), 1), ctypes.get_errno())"
    )
    with contained.workspace() as work:
        done = contained.sandbox(["/usr/bin/python3", "-c", code], cwd=work)
    assert done.stdout == "-1 14\n-1 14\n", done


def test_application_processes_hold_no_descriptor(contained: harness.Caller) -> None:
    """Also where close_range is refused: what is in the table a hostile program can use."""
    with contained.workspace() as work:
        words = [*contained.command, "do", "--", "sh", "-c", "echo; sleep 100"]
        process = subprocess.Popen(
            words, cwd=work, env=contained.environment(work), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        try:
            process.stdout.readline()
            # Behind the outer filters each has two of its own, the sentry one, the zygote none.
            filters = {pid: int(harness.status_of(pid).get("Seccomp_filters", 0)) for pid in harness.descendants(process.pid)}
            applications = [pid for pid, count in filters.items() if count == max(filters.values())]
            looked_at = 0
            for pid in applications:
                # One that is made for the pool just now holds its channel's for a moment. The process that called execve
                # goes when its program runs in another one.
                assert harness.eventually(lambda pid=pid: not harness.descriptors_of(pid)), (pid, harness.descriptors_of(pid))
                looked_at += os.path.exists(f"/proc/{pid}")
            assert looked_at >= 2, filters
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def test_a_listener_outside_is_told_of(caller: harness.Caller) -> None:
    """Only one filter of a process may have a listener (seccomp(2), EBUSY): a nested sandbox cannot work, and says so."""
    nested = under(caller, "--listener")
    with nested.workspace() as work:
        done = nested.sandbox(["true"], cwd=work, timeout=30)
    assert done.returncode == 125, done
    assert "listener" in done.stderr and "nested" in done.stderr and "Traceback" not in done.stderr, done
    assert done.seconds < 10, done
