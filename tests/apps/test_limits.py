"""Limits hold, are seen inside, and are told of; a hundred sandboxes at once."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

HOG = "x = []\nwhile True: x.append(bytearray(1 << 20))"


@pytest.mark.slow
def test_a_hundred_at_once(caller: harness.Caller) -> None:
    """Each with its own output and status, and nothing left afterwards."""
    processes = [
        subprocess.Popen(
            [*caller.command, "do", "--", "/usr/bin/python3", "-S", "-I", "-c", f"print({n} * {n}); raise SystemExit({n % 7})"],
            env=caller.environment(None),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for n in range(100)
    ]
    try:
        below = {pid for process in processes for pid in harness.descendants(process.pid)}
        for n, process in enumerate(processes):
            stdout, stderr = process.communicate(timeout=240)
            assert (stdout, process.returncode) == (f"{n * n}\n", n % 7), stderr
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
    assert harness.eventually(lambda: not any(harness.status_of(pid) for pid in below))


def test_memory_hog_is_killed_and_told_of(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        report, events = work / "report.json", work / "events"
        options = ["--memory", "200m", "--json", str(report), "--events", str(events)]
        done = caller.do(options, ["/usr/bin/python3", "-c", HOG], cwd=work, timeout=120)
        # Where the limit makes the allocation fail, Python ends itself with MemoryError; where it kills, 137 and the event.
        if "MemoryError" in done.stderr:
            assert done.returncode == 1, done
        else:
            assert done.returncode == 137, done
            assert harness.read_json(report)["out_of_memory"] is True
            assert '"out_of_memory"' in events.read_text()


def test_memory_hog_that_ignores_failures(caller: harness.Caller) -> None:
    """Many processes, each within any limit of its own: only a limit on the sum stops them."""
    script = "for i in $(seq 12); do /usr/bin/python3 -c 'import time; x = bytearray(60 << 20); time.sleep(20)' & done; wait; echo survived"
    start = time.monotonic()
    with caller.workspace() as work:
        report = work / "report.json"
        done = caller.do(["--memory", "256m", "--json", str(report)], ["sh", "-c", script], cwd=work, timeout=120)
        peak = harness.read_json(report)["usage"]["peak_memory"]
    assert done.returncode in (0, 137), done
    assert peak < 640 << 20, f"peak {peak >> 20} MiB under --memory 256m"
    assert time.monotonic() - start < 100


def test_a_hog_takes_nobody_with_it(caller: harness.Caller) -> None:
    script = f"/usr/bin/python3 -c '{HOG}' 2> /dev/null; echo \"hog ended\"; /usr/bin/python3 -c 'print(\"next works\")'"
    done = caller.do(["--memory", "200m"], ["sh", "-c", script], timeout=120)
    assert done.stdout.splitlines()[-2:] == ["hog ended", "next works"] or done.returncode == 137, done


def test_limits_are_seen_inside(caller: harness.Caller) -> None:
    done = caller.do(
        ["--memory", "512m", "--cpus", "1"],
        [
            "sh",
            "-c",
            "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; /usr/bin/python3 -c 'import os; print(os.cpu_count())'",
        ],
    )
    processors, total, python = done.stdout.split()
    assert processors == "1", done
    assert int(total) == 512 * 1024, done
    assert int(python) >= 1


def test_fork_bomb(caller: harness.Caller) -> None:
    start = time.monotonic()
    done = caller.do(["--pids", "50", "--timeout", "5"], ["bash", "-c", "f() { f | f & }; f; sleep 60"], timeout=90)
    assert done.returncode == 124, done
    assert time.monotonic() - start < 60


def test_pids_limit_gives_eagain(caller: harness.Caller) -> None:
    script = (
        "import os, threading, time\nn = 0\nwhile True:\n try: pid = os.fork()\n except BlockingIOError: break\n"
        " if not pid:\n  time.sleep(60); os._exit(0)\n n += 1\nprint(n, flush=True)\n"
        "try: threading.Thread(target=print).start()\nexcept RuntimeError as e: print('no thread either', flush=True)\nos._exit(0)"
    )
    done = caller.do(["--pids", "20"], ["/usr/bin/python3", "-c", script])
    assert done.returncode == 0, done
    count, note = done.stdout.splitlines()
    assert 15 <= int(count) <= 20, done
    assert note == "no thread either"


def test_default_pids_limit_is_sane(ourselves: harness.Caller) -> None:
    script = "import os, time\nn = 0\nwhile n < 20000:\n try: pid = os.fork()\n except OSError: break\n if not pid:\n  time.sleep(100); os._exit(0)\n n += 1\nprint(n < 20000, flush=True); os._exit(0)"
    done = ourselves.do(["--timeout", "60", "--memory", "4g"], ["/usr/bin/python3", "-S", "-c", script], timeout=120)
    assert done.stdout == "True\n" or done.returncode in (124, 137), done


def test_cpus_limit_slows(caller: harness.Caller) -> None:
    """Two busy threads of work under half a CPU take clearly longer than they have work."""
    if os.cpu_count() < 2:
        pytest.skip("one CPU only")
    script = "for i in 1 2; do /usr/bin/python3 -S -c 'import time\ne = time.process_time() + 0.5\nwhile time.process_time() < e: pass' & done; wait"
    start = time.monotonic()
    done = caller.do(["--cpus", "0.5"], ["sh", "-c", script], timeout=60)
    assert done.returncode == 0, done
    assert time.monotonic() - start > 1.2, "one second of work under half a CPU"


def test_descriptors_have_a_limit(caller: harness.Caller) -> None:
    script = "import os\nn = 0\ntry:\n while n < 10**6: os.open('/dev/null', os.O_RDONLY); n += 1\nexcept OSError as e: print(e.strerror)\nimport socket"
    done = caller.sandbox(["/usr/bin/python3", "-c", script])
    assert done.stdout.startswith("Too many open files"), done


def test_no_network(caller: harness.Caller) -> None:
    script = (
        "import socket\ns = socket.socket()\n"
        "try: s.connect(('127.0.0.1', 9)); print('connected')\nexcept OSError as e: print(e.errno)\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "try: s.sendto(b'x', ('8.8.8.8', 53)); print('sent')\nexcept OSError as e: print(e.errno)"
    )
    none = caller.do(["--network", "none"], ["/usr/bin/python3", "-c", script])
    assert none.stdout == "101\n101\n", none
    loopback = caller.do(["--network", "loopback"], ["/usr/bin/python3", "-c", script])
    assert loopback.stdout == "111\n101\n", loopback


def test_the_hosts_own_loopback_is_out_of_reach(caller: harness.Caller) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = caller.sandbox(["/usr/bin/python3", "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}))"])
        assert done.returncode == 1 and "Connection refused" in done.stderr, done


def test_idle_memory_of_a_sandbox(ourselves: harness.Caller) -> None:
    process = subprocess.Popen(
        [*ourselves.command, "do", "--", "sleep", "30"],
        env=ourselves.environment(None),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        time.sleep(1.5)
        kib = 0
        for pid in harness.descendants(process.pid):
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            kib += int(text.partition("\nPss:")[2].split()[0])
        assert 0 < kib < 40 << 10, f"{kib} KiB for one idle sandbox, without its Python"
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """More directories, each with a file that says its name, than a process may usually have descriptors."""
    with tempfile.TemporaryDirectory(prefix="skerry-test-") as top:
        Path(top).chmod(0o755)
        for number in range(1200):
            directory = Path(top, str(number))
            directory.mkdir(mode=0o755)
            (directory / str(number)).write_text(str(number))
        yield Path(top)


@pytest.mark.parametrize(("limit", "held"), [("1024:", 950), ("1024", 400), ("256", 40)], ids=["soft", "hard", "low"])
def test_the_callers_limit_of_descriptors_is_not_the_programs(
    caller: harness.Caller, tree: Path, limit: str, held: int
) -> None:
    """1,024 is what most hosts give; a program has what it is told that it has, up to what there may be at all."""
    script = f"""
import os
held, count = [], 0
for top, _, names in os.walk("."):
    for name in names:
        os.stat(os.path.join(top, name))
        descriptor = os.open(os.path.join(top, name), os.O_RDONLY)
        count += os.read(descriptor, 10) == name.encode()
        held.append(descriptor) if len(held) < {held} else os.close(descriptor)
print(count)
"""
    limited = ["prlimit", f"--nofile={limit}", *caller.command, "do", "--", "/usr/bin/python3", "-c", script]
    done = harness.run(limited, cwd=tree, environment=caller.environment(None))
    assert (done.returncode, done.stdout) == (0, "1200\n"), done


def test_too_few_descriptors_are_an_error_that_says_so(caller: harness.Caller) -> None:
    done = harness.run(["prlimit", "--nofile=64", *caller.command, "do", "--", "true"], environment=caller.environment(None))
    assert done.returncode == 125 and "RLIMIT_NOFILE" in done.stderr and "Traceback" not in done.stderr, done
