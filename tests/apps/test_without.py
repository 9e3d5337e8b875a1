"""Without the newer features of the host, hidden one by one and all together, programs run as they do with them."""

from __future__ import annotations

import json

import pytest

import harness

pytestmark = pytest.mark.sandbox

FEATURES = (
    "process_vm",
    "sync_wake_up",
    "wait_killable",
    "addfd_send",
    "user_namespace",
    "landlock",
    "pid_namespace",
    "cgroups",
    "fsgsbase",
    "suspension",
    "direct",
    "windows",
    "local",
    "patching",
    "marshalling",
    "caches",
    "parking",
    "infancy",
    "spinning",
    "load,pace",
    "deferral",
    "lending",
    "board",
    "expiry",
)

SHELL = (
    "echo a | cat; for i in 1 2 3; do rm -f p; mkfifo p; (echo $i > p) & cat p; wait; done; trap 'echo t' USR1; kill -USR1 $$; "
    "timeout 0.2 sleep 5; echo $?; seq 2000 | sort -R | sort -n | tail -1"
)
PYTHON = """
import multiprocessing, signal, subprocess, threading, os
total = []
threads = [threading.Thread(target=lambda: total.append(sum(range(999)))) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(total), subprocess.check_output(["echo", "a"]), subprocess.run(["sh", "-c", "kill -9 $$"]).returncode)
with multiprocessing.Pool(2) as pool:
    print(pool.map(abs, [-1, 2]))
shared = multiprocessing.Value("i", 0)
def add():
    for _ in range(100):
        with shared.get_lock():
            shared.value += 1
workers = [multiprocessing.Process(target=add) for _ in range(3)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
print(shared.value)
"""
GIT = (
    "git init -q r && cd r && echo a > f && git add f && git -c user.name=n -c user.email=e commit -qm first && "
    "git clone -q . ../s && git -C ../s log --format=%s"
)
#: What of /proc comes from the host's: another process's memory map, name and times.
PROC = (
    "sleep 100 & while [ \"$(cat /proc/$!/comm)\" != sleep ]; do :; done; cat /proc/$!/cmdline | tr '\\0' ' '; echo; "
    "grep -c 'r-xp.*/sleep$' /proc/$!/maps; grep -c '^VmRSS:[[:space:]]*[1-9]' /proc/$!/status; readlink /proc/$!/exe; "
    "ps -o comm= -p $!; kill $!; grep -c '\\[stack\\]' /proc/self/maps"
)


@pytest.mark.parametrize("without", [*FEATURES, ",".join(FEATURES)], ids=[*FEATURES, "all"])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["sh", "-c", SHELL], "a\n1\n2\n3\nt\n124\n2000\n"),
        (["/usr/bin/python3", "-c", PYTHON], "8 b'a\\n' -9\n[1, 2]\n300\n"),
        (["sh", "-c", GIT], "first\n"),
        (["sh", "-c", PROC], "sleep 100 \n1\n1\n/usr/bin/sleep\nsleep\n1\n"),
    ],
    ids=["shell", "python3", "git", "proc"],
)
def test_programs_run(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str, command: list[str], expected: str
) -> None:
    if reason := harness.missing(command[0].rpartition("/")[2], *(["git"] if command[-1] == GIT else [])):
        pytest.skip(reason)
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    with caller.workspace() as work:
        report = work / "report.json"
        done = caller.do(["--json", str(report)], command, cwd=work)
        assert done.returncode == 0 and done.stdout == expected, done
        told = json.loads(report.read_text())
    hidden = without.split(",")
    if "process_vm" in hidden:
        assert told["guest_memory"] == "proc_mem"
    for layer in ("landlock", "pid_namespace"):
        if layer in hidden:
            assert layer not in told["layers"] and any(missing["layer"] == layer for missing in told["missing"]), told


def test_with_namespaces_of_an_ordinary_user(nobody: harness.Caller) -> None:
    """Entered where they are demanded; /proc shows the guest's processes there too."""
    with nobody.workspace() as work:
        done = nobody.do(["--require", "pid_namespace"], ["sh", "-c", PROC], cwd=work)
        if done.returncode == 125 and "pid_namespace" in done.stderr:
            pytest.skip(f"the host gives nobody no namespaces: {done.stderr.strip()}")
    assert done.stdout == "sleep 100 \n1\n1\n/usr/bin/sleep\nsleep\n1\n", done
