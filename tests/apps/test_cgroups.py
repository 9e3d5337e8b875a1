"""The host's control groups hold the limits where they are granted: exactly, and with nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
import skerry

pytestmark = pytest.mark.sandbox

#: 120 MiB in a file of the sandbox, and 120 MiB of memory: neither alone is too much for 200 MiB.
TWO_HALVES = "with open('/tmp/half', 'wb') as f: [f.write(bytes(1 << 20)) for _ in range(95)]\nx = bytearray(120 << 20)\nprint('both fit')"
#: Half a second of CPU time.
WORK = "import time\ne = time.process_time() + 0.5\nwhile time.process_time() < e: pass"


def left(pid: int | None = None) -> list[Path]:
    """Groups of ours; of the sandbox that this guardian made, or of all whose guardian is dead."""
    found = []
    # Groups go while one looks, which os.walk takes as it is.
    for place, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if not (name.startswith("skerry-") and name.count("-") >= 2):
                continue
            maker = int(name.split("-")[1])
            if maker == pid or (pid is None and not Path(f"/proc/{maker}").exists()):
                found.append(Path(place, name))
    return found


@pytest.fixture
def delegated(nobody: harness.Caller) -> Iterator[harness.Caller]:
    """nobody, in groups of version one that have been handed over (as an administrator would)."""
    folders = []
    for name in ("memory", "cpu", "pids"):
        top = Path("/sys/fs/cgroup") / name
        if not (top / "cgroup.procs").exists():
            pytest.skip(f"there is no version one hierarchy {top}")
        folders.append(top / f"test-{os.getpid()}")
    try:
        for folder in folders:
            folder.mkdir()
            for path in (folder, folder / "cgroup.procs", folder / "tasks"):
                os.chown(path, *nobody.owner)
        enter = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in folders)
        prefix = ("sh", "-c", f'{enter}; exec "$@"', "sh", *nobody.prefix)
        yield harness.Caller(nobody.name, prefix, nobody.skerry, nobody.owner)
    except OSError as error:
        pytest.skip(f"the host's groups cannot be changed: {error}")
    finally:
        for folder in folders:
            if folder.exists():
                assert harness.eventually(lambda folder=folder: removed(folder)), list(folder.iterdir())


def removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture(params=["ourselves", "delegated"])
def granted(request: pytest.FixtureRequest) -> harness.Caller:
    """Who is given groups."""
    caller: harness.Caller = request.getfixturevalue(request.param)
    told = limits_of(caller)
    if not all(told[name].startswith("cgroup") for name in ("memory", "cpus")):
        pytest.skip(f"no groups are granted: {told}")
    return caller


def limits_of(caller: harness.Caller, *options: str) -> dict[str, str]:
    with caller.workspace() as work:
        report = work / "report.json"
        done = caller.do(["--memory", "1g", "--cpus", "1", *options, "--json", str(report)], ["true"], cwd=work)
        assert done.returncode == 0, done
        return harness.read_json(report)["limits"]


def test_each_limit_says_what_holds_it(granted: harness.Caller) -> None:
    told = limits_of(granted, "--require", "cgroup")
    assert told["memory"].startswith("cgroup v") and told["cpus"].startswith("cgroup v"), told
    assert "exact" in told["pids"] and "cgroup v" in told["pids"], told


def test_without_groups_it_says_so(caller: harness.Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "cgroups")
    told = limits_of(caller)
    assert told["memory"].startswith("polling (best effort)") and "switched off by a test" in told["memory"], told
    assert told["cpus"].startswith("affinity to 1 CPU(s) (best effort)"), told
    done = caller.do(["--memory", "1g", "--require", "cgroup"], ["true"])
    assert done.returncode == 125 and "cgroup" in done.stderr, done


def test_an_ordinary_user_without_delegation_polls(nobody: harness.Caller) -> None:
    told = limits_of(nobody)
    if told["memory"].startswith("cgroup"):
        pytest.skip("groups are granted to nobody here")
    assert told["memory"].startswith("polling (best effort)") and "no cgroup: " in told["memory"], told


def test_files_and_memory_count_together(granted: harness.Caller) -> None:
    """The program that asks for too much is killed; the shell and the sandbox live on; the caller is told."""
    with granted.workspace() as work:
        events = work / "events"
        script = f'/usr/bin/python3 -c "{TWO_HALVES}"; echo $?; rm /tmp/half; /usr/bin/python3 -c "x = bytearray(120 << 20); print(1)"'
        done = granted.do(["--memory", "200m", "--events", str(events)], ["sh", "-c", script], cwd=work)
        assert done.stdout == "137\n1\n" and done.returncode == 0, done
        assert events.read_text().count('"out_of_memory"') == 1


def test_the_sentry_is_never_chosen(granted: harness.Caller) -> None:
    """Not even where it has more than any guest: buffers of pipes are its own memory."""
    script = (
        "import os\nends = [os.pipe() for _ in range(200)]\n"
        "for _, end in ends:\n os.set_blocking(end, False)\n"
        " try:\n  while True: os.write(end, bytes(65536))\n except BlockingIOError: pass\n"
        "x = []\nwhile True: x.append(bytearray(1 << 18))"
    )
    with granted.workspace() as work:
        report = work / "report.json"
        done = granted.do(["--memory", "64m", "--json", str(report)], ["/usr/bin/python3", "-S", "-c", script], cwd=work)
        assert done.returncode == 137 and harness.read_json(report)["out_of_memory"] is True, done


def test_many_processes_share_the_limit(granted: harness.Caller) -> None:
    script = "for i in $(seq 12); do /usr/bin/python3 -S -c 'import time; x = bytearray(60 << 20); time.sleep(1)' & done; wait; echo end"
    with granted.workspace() as work:
        report = work / "report.json"
        done = granted.do(["--memory", "256m", "--json", str(report)], ["sh", "-c", script], cwd=work, timeout=100)
        assert done.stdout == "end\n", done
        # The host lets what cannot fail (some of its own pages) go a little beyond.
        assert harness.read_json(report)["usage"]["peak_memory"] <= 257 << 20


def test_half_a_cpu_is_half_a_cpu(granted: harness.Caller) -> None:
    script = f"for i in 1 2; do /usr/bin/python3 -S -c '{WORK}' & done; wait"
    start = time.monotonic()
    done = granted.do(["--cpus", "0.5"], ["sh", "-c", script])
    assert done.returncode == 0, done
    assert time.monotonic() - start > 1.8, "one second of work under half a CPU takes two"


def test_a_fork_storm_does_not_pass(granted: harness.Caller) -> None:
    start = time.monotonic()
    done = granted.do(
        ["--pids", "50", "--memory", "400m", "--timeout", "5"], ["bash", "-c", "f() { f | f & }; f; sleep 60"], timeout=90
    )
    assert done.returncode == 124, done
    assert time.monotonic() - start < 60


class Running:
    """A sandbox with limits that waits, its guardian and its sentry."""

    def __init__(self, caller: harness.Caller, work: Path) -> None:
        self.process = subprocess.Popen(
            [*caller.command, "do", "--memory", "500m", "--cpus", "1", "--", "sleep", "100"],
            cwd=work, env=caller.environment(work), stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

        def sentries() -> list[int]:
            below = harness.descendants(self.process.pid)
            return [pid for pid in below if b"skerry-sentry" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        assert harness.eventually(lambda: len(sentries()) == 2 and len(left(sentries()[0])) >= 2, within=20)
        self.guardian, self.sentry = sentries()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("victim", ["nobody", "caller", "guardian", "sentry", "guardian and sentry", "all"])
def test_nothing_is_left(granted: harness.Caller, victim: str) -> None:
    """Whoever is killed: the group is taken away by the guardian, by the caller, or by the next sandbox."""
    with granted.workspace() as work:
        running = Running(granted, work)
        try:
            victims = {"caller": [running.process.pid], "guardian": [running.guardian], "sentry": [running.sentry]}
            victims["guardian and sentry"] = [running.guardian, running.sentry]
            victims["all"] = [running.process.pid, running.guardian, running.sentry]
            if victim == "nobody":
                running.process.terminate()
            for pid in victims.get(victim, []):
                os.kill(pid, signal.SIGSTOP)
            for pid in victims.get(victim, []):
                os.kill(pid, signal.SIGKILL)
            running.process.wait(30)
            if victim == "all":
                assert left(running.guardian), "nobody was there to take it away"
                time.sleep(0.5)
                assert granted.do(["--memory", "1g", "--cpus", "1"], ["true"]).returncode == 0
            assert harness.eventually(lambda: not left(running.guardian)), left(running.guardian)
        finally:
            running.end()


def test_a_living_sandbox_is_not_swept(granted: harness.Caller) -> None:
    with granted.workspace() as work:
        running = Running(granted, work)
        try:
            before = left(running.guardian)
            assert granted.do(["--memory", "1g", "--cpus", "1"], ["true"]).returncode == 0
            assert left(running.guardian) == before != []
        finally:
            running.end()


def test_a_limit_that_is_held_by_looking_is_changed_while_it_runs(monkeypatch: pytest.MonkeyPatch, native_only: bool) -> None:
    if native_only:
        pytest.skip("--native-only")
    monkeypatch.setenv("SKERRY_TEST_WITHOUT", "cgroups")
    # It has the memory for longer than it takes to look.
    words = ["/usr/bin/python3", "-c", "import time; x = b'x' * (200 << 20); time.sleep(1)"]
    with skerry.Sandbox(memory="512m", cpus=1, cwd="/") as sandbox:
        assert sandbox.info().limits["memory"].startswith("polling")
        sandbox.update(memory="64m")
        shown = sandbox.run(["sh", "-c", "grep MemTotal /proc/meminfo; cat /sys/fs/cgroup/memory.max"], text=True).stdout
        assert shown.split()[1::2] == ["65536", str(64 << 20)], shown
        assert sandbox.run(words, timeout=60).out_of_memory
        sandbox.update(memory="512m")
        assert sandbox.run(words, timeout=60).returncode == 0
        with pytest.raises(skerry.Unenforceable, match="how many there are"):
            sandbox.update(cpus=2)
