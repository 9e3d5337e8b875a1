"""The rows of the table: what is done, what it needs, and how one value comes out of it. A lower value is better."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import work
from .subjects import Failed, Subject, end_session, memory_kib


@dataclass(frozen=True)
class Row:
    """One line. `measure` returns one value for one subject, in `unit`."""

    name: str
    unit: str
    measure: Callable[[Bench, Subject], float]
    #: The most that Skerry's value may be, as a multiple of the native one; None: no goal.
    goal: float | None = None
    #: The most that Skerry's value may be, in `unit`, where a multiple makes no sense.
    limit: float | None = None
    #: Programs without which the row is left out.
    needs: tuple[str, ...] = ()
    #: Makes what the row works on, in the bench's directory.
    prepare: Callable[[Path], None] | None = None
    #: Whether the host itself has a value.
    native: bool = True

    def missing(self) -> str:
        """Why the row cannot be measured here; empty where it can."""
        absent = [
            program for program in self.needs if shutil.which(program) is None and not Path(f"/usr/sbin/{program}").exists()
        ]
        return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass(frozen=True)
class Bench:
    """Where a run works."""

    directory: Path
    #: benches/system_calls.c, compiled.
    program: Path


def _system_call(name: str) -> Callable[[Bench, Subject], float]:
    def measure(bench: Bench, subject: Subject) -> float:
        out = subject.run([str(bench.program), str(bench.directory), name], cwd=bench.directory)
        return _value(out, name)

    return measure


def _value(out: str, name: str) -> float:
    """The number behind a name, on the last line that begins with it."""
    for line in reversed(out.splitlines()):
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return float(words[1])
    raise Failed(f"no line {name!r} in its output")


def _script(text: str) -> Callable[[Bench, Subject], float]:
    """The time that a shell script takes inside, so that a sandbox's start is not in it (it has rows of its own). In ms."""

    def measure(bench: Bench, subject: Subject) -> float:
        words = [str(bench.program), "--elapsed", "sh", "-ec", text]
        return _value(subject.run(words, cwd=bench.directory), "elapsed") / 1e6

    return measure


def _rate(text: str, name: str) -> Callable[[Bench, Subject], float]:
    """A script that prints `NAME OPERATIONS-PER-SECOND`; the value is microseconds for an operation."""

    def measure(bench: Bench, subject: Subject) -> float:
        rate = _value(subject.run(["sh", "-ec", text], cwd=bench.directory), name)
        if rate <= 0:
            raise Failed("it did nothing")
        return 1e6 / rate

    return measure


def _whole(*words: str) -> Callable[[Bench, Subject], float]:
    """From the start of the command to its end, in ms."""

    def measure(bench: Bench, subject: Subject) -> float:
        start = time.monotonic_ns()
        subject.run(words, cwd=bench.directory)
        return (time.monotonic_ns() - start) / 1e6

    return measure


def _first_output(bench: Bench, subject: Subject) -> float:
    """From the start of the command to the first byte that the program writes, as its first act. In ms."""
    start = time.monotonic_ns()
    process = subject.start([str(bench.program), "--hello"], cwd=bench.directory)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise Failed("it wrote nothing")
        return (time.monotonic_ns() - start) / 1e6
    finally:
        end_session(process)


def _idle_memory(count: int) -> Callable[[Bench, Subject], float]:
    """Memory of everything that belongs to `count` idle sandboxes, for each, less the program's own. In MiB (PSS)."""

    def measure(bench: Bench, subject: Subject) -> float:
        started = []
        try:
            for _ in range(count):
                started.append(subject.start(["sh", "-c", "echo up; exec sleep 1000"], cwd=bench.directory))
            for process in started:
                if process.stdout is None or process.stdout.readline() != b"up\n":
                    raise Failed("did not start")
            time.sleep(1)
            return sum(memory_kib(process.pid) for process in started) / 1024 / count
        finally:
            for process in started:
                end_session(process)

    return measure


PYTHON = sys.executable if Path(sys.executable).resolve().is_relative_to("/usr") else "/usr/bin/python3"


def rows() -> list[Row]:
    """All rows, in the order of the table."""
    return [*_starts(), *_system_calls(), *_real_work()]


def _starts() -> list[Row]:
    return [
        Row("start to first output", "ms", _first_output),
        Row("/bin/true, whole command", "ms", _whole("/bin/true"), limit=60),
        Row("python3 -c pass, whole command", "ms", _whole(PYTHON, "-c", "pass"), limit=100),
        Row("memory of an idle sandbox", "MiB", _idle_memory(1), limit=6, native=False),
        Row("memory of each of 100 idle sandboxes", "MiB", _idle_memory(100), native=False),
    ]


def _system_calls() -> list[Row]:
    goals: dict[str, float | None] = {
        "getppid": 0.15,
        "gettid": 0.15,
        "sigprocmask": 0.15,
        "clock_gettime": 1.0,
        "write_null": 3,
        "eventfd": 3,
        "pipe": 3,
        "pread_4k": 1.2,
        "pwrite_4k": 1.2,
        "read_4k": 1.2,
        "fstat": 3,
        "stat": 3,
        "open_close": 3,
        "readdir_100": None,
        "create_write_unlink": 1.5,
        "mmap_touch_munmap": 1.1,
        "page_faults_1024": 1.1,
        "fork_wait": 1.3,
        "fork_exec_wait": 2,
        "spawn_wait": 2,
        "thread_create_join": 1.3,
        "threads_64_calling": None,
        "pipe_ping_pong": 1.0,
        "tcp_round_trip": 1.0,
        "tcp_stream_64k": 1.0,
    }
    return [Row(name, "ns", _system_call(name), goal) for name, goal in goals.items()]


def _real_work() -> list[Row]:
    return [
        Row("python3 loop", "ms", _script(f"{PYTHON} -c 'print(sum(i * i for i in range(30000000)))'"), 1.03, needs=(PYTHON,)),
        Row("python3 start", "ms", _script(f"for i in 1 2 3 4 5; do {PYTHON} -c pass; done"), needs=(PYTHON,)),
        Row(
            "compileall of Python's library",
            "ms",
            _script(f"{PYTHON} -m compileall -q -f library"),
            1.1,
            needs=(PYTHON,),
            prepare=work.library,
        ),
        Row("sort of 1 M lines", "ms", _script("sort -n numbers | tail -1"), 1.1, prepare=work.numbers),
        Row("make -j2 of 60 C files", "ms", _script("make -s -B -j2 -C tree"), 1.4, needs=("make", "gcc"), prepare=work.c_tree),
        Row("1,000 forks of /bin/true in sh", "ms", _script("i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done"), 2.2),
        Row(
            "git clone, status, log of 5,000 files",
            "ms",
            # To a new name: ext4 is up to ten times slower for a minute after so many files were deleted.
            _script(
                "copy=$(mktemp -d copyXXXXXX); git clone -q repository $copy; cd $copy; git status --short; git log --stat | tail -1"
            ),
            0.6,
            needs=("git",),
            prepare=work.repository,
        ),
        Row("tar of /usr/include", "ms", _script("tar c /usr/include 2>/dev/null | cat > /dev/null"), 1.3),
        Row(
            "find and grep over 5,000 files",
            "ms",
            _script("find repository -type f | wc -l; grep -r needle repository || true"),
            4,
            needs=("git",),
            prepare=work.repository,
        ),
        Row(
            "pip install of 20 local wheels",
            "ms",
            _script(
                f"rm -rf target; {sys.executable} -m pip install -q --disable-pip-version-check --no-index --no-cache-dir --target target wheels/*.whl"
            ),
            prepare=work.wheels,
        ),
        Row(
            "sqlite, 100,000 inserts and an index",
            "ms",
            _script(f"rm -f database*; {PYTHON} inserts.py database"),
            1.4,
            needs=(PYTHON,),
            prepare=work.inserts,
        ),
        *(
            Row(
                f"redis {command} over {where}, pipeline {depth}",
                "us",
                _rate(work.redis(command, where, depth), command),
                1.3 if where == "unix" else None,
                needs=("redis-server", "redis-benchmark"),
            )
            for where in ("unix", "tcp")
            for command in ("SET", "GET")
            for depth in (1, 16)
        ),
        Row("nginx under wrk", "us", _rate(work.NGINX, "requests"), 1.2, needs=("nginx", "wrk"), prepare=work.nginx),
        Row("node start", "ms", _script("node -e 0"), needs=("node",)),
    ]
