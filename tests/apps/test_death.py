"""SIGKILL of the caller, of the sentry and of an application process at random moments: nothing is left on the host. The sentry
that is stopped in between goes on with what it did.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

#: Forks, threads, files, pipes and memory, for as long as it is let.
BUSY = (
    "while :; do seq 300 | sort -n | tail -1 > f; /usr/bin/python3 -S -c 'import threading; "
    "[threading.Thread(target=sum, args=(range(9999),)).start() for _ in range(4)]'; (sleep 0.01 & wait); done"
)


@dataclass(frozen=True)
class Left:
    """What of the host a sandbox could leave behind."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]

    @classmethod
    def now(cls) -> Left:
        mounts = frozenset(line.split(" - ")[0].split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        # Named after the pid of their guardian; one that lives is somebody else's.
        groups = (path for path in Path("/sys/fs/cgroup").rglob("skerry-*-*") if path.is_dir())
        cgroups = frozenset(str(path) for path in groups if start_time(int(path.name.split("-")[1])) is None)
        files = frozenset(
            str(path) for folder in ("/tmp", "/dev/shm", "/run", "/var/tmp") for path in Path(folder).glob("*skerry*")
            if not path.name.startswith(("skerry-test-", "skerry-nobody-"))  # the tests' own
        )  # fmt: skip
        return cls(mounts, cgroups, files)


class Running:
    """A `skerry do` that works, and the processes below it."""

    def __init__(self, caller: harness.Caller, script: str, work: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [*caller.command, "do", *options, "--", "sh", "-c", script],
            cwd=work,
            env=caller.environment(work),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.sentries: set[int] = set()
        self.seen: set[tuple[int, str]] = set()

    def look(self) -> list[int]:
        """Notes every process below; a pid alone could be used again, so its start time goes with it."""
        below = harness.descendants(self.process.pid)
        for pid in below:
            if start := start_time(pid):
                self.seen.add((pid, start))
                if is_sentry(pid):
                    self.sentries.add(pid)
        return below

    def left(self) -> list[str]:
        """What of it still lives: what was seen, and whatever is in a session that a sentry leads."""
        alive = [f"{pid}: {name(pid)}" for pid, start in self.seen if start_time(pid) == start]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and session_of(int(entry.name)) in self.sentries:
                alive.append(f"{entry.name}: {name(int(entry.name))}")
        return alive

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()


def stat_fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def start_time(pid: int) -> str | None:
    fields = stat_fields(pid)
    return fields[19] if fields and fields[0] not in "ZX" else None


def session_of(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[3]) if fields and fields[0] not in "ZX" else -1


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80]
    except OSError:
        return "gone"


def is_sentry(pid: int) -> bool:
    return "skerry-sentry" in name(pid).partition(" ")[0]


@pytest.fixture
def undisturbed():
    before = Left.now()
    yield

    def new() -> Left:
        now = Left.now()
        return Left(now.mounts - before.mounts, now.cgroups - before.cgroups, now.files - before.files)

    nothing = Left(frozenset(), frozenset(), frozenset())
    assert harness.eventually(lambda: new() == nothing), new()


def until_it_runs(running: Running) -> None:
    assert harness.eventually(lambda: len(running.look()) >= 2, within=20), running.process.poll()


#: Every newer feature of the host hidden: no pid namespace whose end takes all with it, for one.
BARE = "process_vm,sync_wake_up,wait_killable,addfd_send,user_namespace,landlock,pid_namespace"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["caller", "guardian", "sentry", "application"])
@pytest.mark.parametrize("without", ["", BARE], ids=["all-features", "bare"])
def test_killed_at_random_moments(
    caller: harness.Caller, undisturbed: None, monkeypatch: pytest.MonkeyPatch, victim: str, without: str
) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    rounds = 20 if caller.owner[0] == os.geteuid() else 5
    generator = random.Random(20)  # the same moments each time, as far as a machine allows
    with caller.workspace() as work:
        for number in range(rounds):
            # With a limit the host's cgroups are used, where they are granted: every other time.
            running = Running(caller, BUSY, work, *(["--memory", "2g"] if number % 2 else []))
            try:
                # From before its first process to well into its work.
                time.sleep(generator.choice([0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5]) * generator.random() * 2)
                if victim == "caller":
                    running.look()
                    running.process.kill()
                    running.process.wait()
                else:
                    until_it_runs(running)
                    pids = running.look()
                    # The guardian is above the sentry; what has no more than the guardian yet gives no target.
                    sentries = [pid for pid in pids if is_sentry(pid)]
                    targets = {
                        "guardian": sentries[:1],
                        "sentry": sentries[1:2],
                        "application": [pid for pid in pids if pid not in sentries],
                    }[victim]
                    if not targets:
                        continue
                    target = generator.choice(targets)
                    try:
                        os.kill(target, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                    if victim == "application":
                        # Only one command of many may have died: the shell goes on, and is ended by us.
                        time.sleep(0.3)
                        running.look()
                        running.process.terminate()
                    status = running.process.wait(30)
                    if victim in ("guardian", "sentry"):
                        error = running.process.stderr.read()
                        assert status == 125, f"status {status}\n{error}"
                        assert "sentry" in error and "SIGKILL" in error and "Traceback" not in error, error
                assert harness.eventually(lambda running=running: not running.left(), within=10), running.left()
            finally:
                running.end()


def test_the_commands_own_process_is_killed(caller: harness.Caller, undisturbed: None) -> None:
    """Killed from outside, it ends as if it had been killed inside: 137. Which one it is does not show: kill them all."""
    with caller.workspace() as work:
        running = Running(caller, "exec sleep 100", work)
        try:
            until_it_runs(running)
            time.sleep(1)
            # The first of a session of its own forks the others and is no program's process.
            targets = [pid for pid in running.look() if not is_sentry(pid) and session_of(pid) != pid]
            assert targets
            for target in targets:
                # The first one's end may have been the others' already.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
            assert running.process.wait(30) == 137
            assert harness.eventually(lambda: not running.left()), running.left()
        finally:
            running.end()


def test_processes_that_wait_for_a_program_are_killed(caller: harness.Caller, undisturbed: None) -> None:
    """Others take their place; programs that are started afterwards run, and their end is heard of."""
    script = "until [ -e go ]; do :; done; for i in 1 2 3 4 5 6 7 8; do /bin/true || exit 9; done; exit 7"
    with caller.workspace() as work:
        running = Running(caller, script, work, "--rw", str(work))
        try:
            until_it_runs(running)
            time.sleep(1)

            def is_idle(pid: int) -> bool:
                try:
                    maps = Path(f"/proc/{pid}/maps").read_text()
                except OSError:
                    return False
                return "skerry-channel" in maps and "libc" not in maps

            targets = [pid for pid in running.look() if not is_sentry(pid) and session_of(pid) != pid and is_idle(pid)]
            assert targets
            for target in targets:
                os.kill(target, signal.SIGKILL)
            # One that is dying still may be given a program, and that is dead then.
            assert harness.eventually(lambda: all(harness.status_of(target).get("State", "Z")[0] == "Z" for target in targets))
            (work / "go").write_text("")
            assert running.process.wait(30) == 7, running.process.stderr.read()
            assert harness.eventually(lambda: not running.left()), running.left()
        finally:
            running.end()


def test_a_stopped_sentry_goes_on_where_it_was(caller: harness.Caller) -> None:
    """The host breaks off what it waits for, as it does when a container is frozen: who was to be given a descriptor just then gets it."""
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    with caller.workspace() as work:
        program = work / "stopped"
        source = Path(__file__).parent / "programs" / "stopped.c"
        subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-o", program, source, "-pthread"], check=True)
        assert caller.native([program], cwd=work).returncode == 0
        running = Running(caller, "exec ./stopped", work)
        try:
            until_it_runs(running)
            sentries = [pid for pid in running.look() if is_sentry(pid)]
            stops = 0
            while running.process.poll() is None:
                for sentry in sentries:
                    for number in (signal.SIGSTOP, signal.SIGCONT):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(sentry, number)
                stops += 1
                time.sleep(0.0002)
            assert running.process.returncode == 0, running.process.stderr.read()
            assert stops > 100
        finally:
            running.end()


def test_nothing_is_left_after_an_ordinary_end(caller: harness.Caller, undisturbed: None) -> None:
    with caller.workspace() as work:
        running = Running(caller, "sleep 100 & seq 100000 > f; sleep 0.5", work, "--memory", "200m", "--pids", "40")
        try:
            until_it_runs(running)
            while running.process.poll() is None:
                running.look()
                time.sleep(0.02)
            assert running.process.returncode == 0
            assert harness.eventually(lambda: not running.left(), within=5), running.left()
        finally:
            running.end()


def test_killed_caller_leaves_overlay_dir_usable(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        upper = work / "upper"
        upper.mkdir()
        os.chown(upper, *caller.owner)
        running = Running(caller, "i=0; while :; do i=$((i + 1)); echo $i > file$i; done", work, "--overlay-dir", str(upper))
        try:
            until_it_runs(running)
            time.sleep(0.5)
            running.process.kill()
            running.process.wait()
            assert harness.eventually(lambda: not running.left()), running.left()
        finally:
            running.end()
        done = caller.do(["--overlay-dir", str(upper)], ["sh", "-c", "cat file1; echo again > file1; cat file1"], cwd=work)
        assert done.stdout == "1\nagain\n", done


def test_a_sentry_whose_guardian_dies_at_once_ends(ourselves: harness.Caller) -> None:
    """It asks to die with the guardian (PR_SET_PDEATHSIG): so, too, if the guardian is dead before it does. strace(1) delays it."""
    if reason := harness.missing("strace"):
        pytest.skip(reason)
    delayed = ["strace", "-f", "-o", "/dev/null", "-e", "trace=prctl", "-e", "inject=prctl:delay_enter=1000000:when=1..3"]
    process = subprocess.Popen([*delayed, *ourselves.command, "do", "--", "sleep", "60"], cwd="/", stderr=subprocess.DEVNULL)
    sentries: list[int] = []
    try:

        def both() -> list[int]:
            sentries = [pid for pid in harness.descendants(process.pid) if is_sentry(pid)]
            return sentries if len(sentries) > 1 else []

        sentries = harness.eventually(both, within=30, every=0.01)
        assert len(sentries) == 2
        seen = [(pid, start_time(pid)) for pid in sentries]
        os.kill(sentries[0], signal.SIGKILL)
        assert process.wait(30) != 0
        assert harness.eventually(lambda: not any(start_time(pid) == start for pid, start in seen)), seen
    finally:
        process.kill()
        process.wait()
        for pid in sentries:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
