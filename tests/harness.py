"""What the tests that run programs share: running one natively and in a sandbox, as this user or as `nobody`.

A *caller* is who starts skerry: root (or whoever runs the tests) with the skerry that is installed beside this Python,
or `nobody` with one that is installed in a folder that `nobody` can read. `Caller.native` and `Caller.sandbox` run the
same words with the same surroundings, so that a test can compare the two.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Programs run with these variables only, natively and inside, so that the two see the same.
PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "xterm",
    "TZ": "UTC",
}


@dataclass(frozen=True)
class Completed:
    """How a program ended, as subprocess counts: a negative returncode is the signal that killed it."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def shell_status(self) -> int:
        """The status as a shell reports it: 128+N for signal N."""
        return 128 - self.returncode if self.returncode < 0 else self.returncode

    def __str__(self) -> str:
        return (
            f"$ {' '.join(self.args)}\nstatus {self.returncode} after {self.seconds:.1f} s\n"
            f"--- stdout\n{self.stdout[-4000:]}\n--- stderr\n{self.stderr[-4000:]}"
        )


def run(
    args: Sequence[str | Path],
    *,
    cwd: Path | str | None = None,
    input: str | None = None,
    timeout: float = 60,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Runs a program in a session of its own; when time is up its whole process group is killed and that is an error."""
    words = tuple(str(word) for word in args)
    start = time.monotonic()
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=dict(PLAIN_ENVIRONMENT if environment is None else environment),
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="backslashreplace",
    )
    try:
        stdout, stderr = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            stdout, stderr = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.stdout.close()
            process.stderr.close()
            stdout, stderr = "", "(its output is still held open by a process that it left behind)"
        seconds = time.monotonic() - start
        raise AssertionError(
            f"not done after {timeout} s:\n{Completed(words, process.returncode, stdout, stderr, seconds)}"
        ) from None
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return Completed(words, process.returncode, stdout, stderr, time.monotonic() - start)


@dataclass(frozen=True)
class Caller:
    """Who runs the programs. `prefix` becomes that user; `skerry` is the command, None where it is not installed."""

    name: str
    prefix: tuple[str, ...]
    skerry: Path | None
    owner: tuple[int, int]

    @property
    def command(self) -> tuple[str, ...]:
        """The words that start skerry as this user."""
        if self.skerry is None:
            raise AssertionError("skerry is not installed beside this Python; run: python3 -m pip install -e '.[test]'")
        return (*self.prefix, str(self.skerry))

    def environment(self, work: Path | str | None) -> dict[str, str]:
        """The variables of a run in this folder, which is its home too: no program may leave its history elsewhere."""
        return PLAIN_ENVIRONMENT | {"HOME": str(work or "/nonexistent"), "USER": self.name, "LOGNAME": self.name}

    def native(self, args: Sequence[str | Path], *, cwd: Path | str | None = None, **options: object) -> Completed:
        """Runs the program on the host."""
        return run([*self.prefix, *args], cwd=cwd, environment=self.environment(cwd), **options)

    def do(
        self, options: Sequence[str], args: Sequence[str | Path], *, cwd: Path | str | None = None, **rest: object
    ) -> Completed:
        """Runs `skerry do OPTIONS -- ARGS`."""
        return run([*self.command, "do", *options, "--", *args], cwd=cwd, environment=self.environment(cwd), **rest)

    def sandbox(self, args: Sequence[str | Path], **rest: object) -> Completed:
        """Runs the program inside, without options."""
        return self.do((), args, **rest)

    @contextmanager
    def workspace(self, name: str = "work") -> Iterator[Path]:
        """An empty folder that this user owns and others can enter; removed at the end."""
        top = Path(tempfile.mkdtemp(prefix="skerry-test-"))
        top.chmod(0o755)
        work = top / name
        work.mkdir()
        os.chown(work, *self.owner)
        try:
            yield work
        finally:
            shutil.rmtree(top, ignore_errors=True)

    def empty(self, work: Path) -> None:
        """Empties a workspace for the second of two runs under the same path."""
        shutil.rmtree(work)
        work.mkdir()
        os.chown(work, *self.owner)


def beside_this_python() -> Path | None:
    """The skerry that is tested: $SKERRY, else the one installed with this Python, else the one on PATH."""
    chosen = os.environ.get("SKERRY")
    if chosen:
        return Path(chosen).resolve()
    beside = Path(sys.executable).with_name("skerry")
    if beside.exists():
        return beside
    found = shutil.which("skerry")
    return Path(found) if found else None


def ourselves() -> Caller:
    import pwd

    uid = os.geteuid()
    return Caller(pwd.getpwuid(uid).pw_name, (), beside_this_python(), (uid, os.getegid()))


def nobody(skerry: Path | None) -> Caller:
    import grp
    import pwd

    user = pwd.getpwnam("nobody")
    group = user.pw_gid
    prefix = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={grp.getgrgid(group).gr_gid}", "--clear-groups", "--")
    return Caller("nobody", prefix, skerry, (user.pw_uid, group))


def missing(*programs: str) -> str | None:
    """Why a test that needs these programs cannot run, or None."""
    absent = [program for program in programs if shutil.which(program, path=tool_path()) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@functools.cache
def unusable(engine: str) -> str:
    """Why an engine cannot be used on this host, or nothing."""
    from skerry.engines import base

    probe = base.engine(engine).probe()
    return "" if probe.usable else probe.why


def usable_engine(engine: str) -> str:
    """The name, of an engine that this host grants; a test of another is left out."""
    if engine != "sentry" and (why := unusable(engine)):
        pytest.skip(f"{engine} cannot be used here: {why}")
    return engine


def tool_path() -> str:
    """Where the programs under test are looked for: the system's folders, then whatever the caller has."""
    return PLAIN_ENVIRONMENT["PATH"] + ":/usr/local/go/bin:" + os.environ.get("PATH", "")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def descendants(pid: int) -> list[int]:
    """The processes below this one, nearest first, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def descriptors_of(pid: int) -> dict[int, str]:
    """The descriptors of a process and where they lead; empty where the process is gone."""
    found = {}
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            found[int(entry.name)] = os.readlink(entry)
    except FileNotFoundError:
        return {}
    return found


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status as a table; empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def eventually(condition, *, within: float = 10.0, every: float = 0.05):
    """The condition's first true value; the last false one when time is up."""
    end = time.monotonic() + within
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(every)


def build(name: str, directory: Path, *options: str) -> Path:
    """Compiles tests/apps/programs/NAME.c into the directory. Skips the test where there is no compiler."""
    if reason := missing("gcc"):
        pytest.skip(reason)
    source = ROOT / "tests" / "apps" / "programs" / f"{name}.c"
    words = ["gcc", "-O1", "-Wall", "-Wextra", f"-I{ROOT / 'tests' / 'conformance'}", "-o", str(directory / name), str(source)]
    subprocess.run([*words, "-pthread", *options], check=True)
    return directory / name


def place(built: Path, work: Path) -> Path:
    """Copies a program to where everybody may run it."""
    program = work / built.name
    program.write_bytes(built.read_bytes())
    program.chmod(0o755)
    return program


#: The ways in which what is lent to threads (ADR 26) is to hold. It does not expire here: nothing that others do may be missed because of that.
with_lending = pytest.mark.parametrize(
    ("without", "options"),
    [("expiry", ()), ("expiry,load,pace", ()), ("lending", ()), ("expiry", ("--rw", "."))],
    ids=["default", "spinning", "without", "rw"],
)


def holds_natively(caller: Caller, lay: Callable[[Path], Path]) -> None:
    """The program that `lay` puts into a workspace is right about Linux."""
    with caller.workspace() as work:
        result = caller.native([lay(work)], cwd=work)
    assert result.returncode == 0, f"wrong about Linux:\n{result}"


def holds_inside(caller: Caller, lay: Callable[[Path], Path], options: tuple[str, ...] = ()) -> None:
    """The same holds in a sandbox; the option "." is the workspace."""
    with caller.workspace() as work:
        words = [option if option != "." else str(work) for option in options]
        result = caller.do(words, [lay(work)], cwd=work)
    assert result.returncode == 0, str(result)
