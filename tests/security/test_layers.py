"""The walls, looked at from outside while a program runs: filters, capabilities, descriptors, roots."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

#: linux/capability.h
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4}

#: Several kinds of process at once: a shell, a threaded Python that has files and sockets open, sleeping children.
PROGRAM = (
    'sleep 60 & /usr/bin/python3 -c \'import socket, threading, time, os; s = socket.socketpair(); f = open("/etc/passwd"); f.read(); '
    'p = os.pipe(); threading.Thread(target=time.sleep, args=(60,)).start(); print("ready", flush=True); time.sleep(60)\' & wait'
)


class Sandbox:
    """A running sandbox, and which of its host processes is what."""

    def __init__(self, pid: int) -> None:
        below = harness.descendants(pid)
        self.sentries = [child for child in below if self.program(child) == "skerry-sentry"]
        guests = [child for child in below if child not in self.sentries]
        # The first of a session of its own is the zygote: it forks the others and never runs a program's code.
        self.zygotes = [child for child in guests if os.getsid(child) == child]
        self.applications = [child for child in guests if child not in self.zygotes]

    @staticmethod
    def program(pid: int) -> str:
        try:
            return os.path.basename(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode())
        except OSError:
            return ""


@contextmanager
def running(caller: harness.Caller, *options: str) -> Iterator[Sandbox]:
    process = subprocess.Popen(
        [*caller.command, "do", *options, "--", "sh", "-c", PROGRAM],
        env=caller.environment(None), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        sandbox = Sandbox(process.pid)
        assert sandbox.sentries, "no process of the sandbox is skerry-sentry"
        assert len(sandbox.applications) >= 3, sandbox.applications
        yield sandbox
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def each_thread(pid: int) -> Iterator[dict[str, str]]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if status := harness.status_of(int(task.name)):
            yield status


def test_application_processes_are_confined(caller: harness.Caller) -> None:
    with running(caller) as sandbox:
        for pid in sandbox.applications:
            for status in each_thread(pid):
                assert status["Seccomp"] == "2", (pid, status)
                assert int(status["Seccomp_filters"]) >= 2, "the listener's and the strict one"
                assert status["NoNewPrivs"] == "1", (pid, status)
                for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                    assert int(status[kind], 16) == 0, (pid, kind, status[kind])


def test_application_processes_hold_no_descriptors(caller: harness.Caller) -> None:
    """Whatever is in the table is the program's to read and write natively: so nothing but files it may use anyway."""
    with running(caller) as sandbox:
        for pid in sandbox.applications:
            for number, target in harness.descriptors_of(pid).items():
                try:
                    mode = os.stat(f"/proc/{pid}/fd/{number}").st_mode
                    lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
                except FileNotFoundError:
                    continue  # Closed, or the process is gone, meanwhile.
                assert stat.S_ISREG(mode), f"{pid} holds {target}"
                assert not target.startswith(("/memfd:skerry", "/memfd:channel", "/proc", "/sys", "/dev")), (
                    f"{pid} holds {target}"
                )
                flags = next(line for line in lines if line.startswith("flags:"))
                assert not int(flags.split()[1], 8) & os.O_PATH, f"{pid} holds {target} with O_PATH"


def test_a_program_that_only_waits_holds_nothing(caller: harness.Caller) -> None:
    with running(caller) as sandbox:
        waiting = [pid for pid in sandbox.applications if not harness.descriptors_of(pid)]
        assert waiting, "every application process holds descriptors"


def test_the_zygote_has_no_privileges(caller: harness.Caller) -> None:
    with running(caller) as sandbox:
        assert len(sandbox.zygotes) <= 1, sandbox.zygotes
        for pid in sandbox.zygotes:
            status = harness.status_of(pid)
            assert status["NoNewPrivs"] == "1" and int(status["CapEff"], 16) == 0 == int(status["CapPrm"], 16), status


def test_the_sentry_confines_itself(caller: harness.Caller) -> None:
    """The process that serves the guests: the last of those named skerry-sentry (one before it is its guardian)."""
    allowed = 1 << CAPABILITIES["DAC_READ_SEARCH"] if caller.owner[0] == 0 else 0
    with running(caller) as sandbox:
        for status in each_thread(sandbox.sentries[-1]):
            assert status["Seccomp"] == "2", status
            assert status["NoNewPrivs"] == "1", status
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(status[kind], 16) & ~allowed == 0, (kind, status[kind])


def test_the_guardian_keeps_nothing(caller: harness.Caller) -> None:
    with running(caller) as sandbox:
        for pid in sandbox.sentries[:-1]:
            status = harness.status_of(pid)
            assert status["NoNewPrivs"] == "1", status
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(status[kind], 16) == 0, (kind, status[kind])


def test_capabilities_for_read_write_trees(caller: harness.Caller) -> None:
    allowed = sum(1 << bit for bit in CAPABILITIES.values()) if caller.owner[0] == 0 else 0
    with caller.workspace() as work, running(caller, "--rw", str(work)) as sandbox:
        for status in each_thread(sandbox.sentries[-1]):
            assert int(status["CapEff"], 16) & ~allowed == 0, status["CapEff"]
        for pid in sandbox.applications:
            assert int(harness.status_of(pid)["CapEff"], 16) == 0


def test_the_sentry_holds_only_its_own_descriptors(caller: harness.Caller) -> None:
    with running(caller) as sandbox:
        for pid in sandbox.sentries:
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    target = os.readlink(entry)
                except OSError:
                    continue
                assert not target.startswith(("/dev/pts", "/dev/tty")), target
                assert str(harness.ROOT) not in target or "/skerry" in target, target


def test_they_are_out_of_the_callers_session(caller: harness.Caller) -> None:
    """Else ^C and ^Z at the caller's terminal would reach them natively."""
    with running(caller) as sandbox:
        ours = os.getsid(0)
        for pid in sandbox.sentries + sandbox.applications:
            assert os.getsid(pid) != ours
            terminal = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
            assert terminal == "0", f"{pid} has a controlling terminal"


def test_layers_are_told_and_can_be_demanded(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        report = work / "report"
        assert caller.do(["--json", str(report)], ["true"], cwd=work).returncode == 0
        found = harness.read_json(report)
        assert {"seccomp", "no_capabilities"} & set(found["layers"]) >= {"seccomp"}
        assert all(missing["layer"] not in found["layers"] and missing["reason"] for missing in found["missing"])
        for layer in found["layers"]:
            assert caller.do(["--require", layer], ["true"], cwd=work).returncode == 0, layer
        for missing in found["missing"]:
            # Some layers are entered only on demand: then they are in force, and else that is an error.
            demanded = caller.do(["--require", missing["layer"], "--json", str(report)], ["true"], cwd=work)
            if demanded.returncode == 0:
                assert missing["layer"] in harness.read_json(report)["layers"], demanded
            else:
                assert demanded.returncode == 125 and missing["layer"] in demanded.stderr, demanded


def test_guests_own_filters_are_obeyed(caller: harness.Caller) -> None:
    """A program that gives up rights by itself must not get them back for being in a sandbox."""
    script = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0\n"
        "if libc.prctl(22, 1, 0, 0, 0) != 0: print('refused')\n"  # PR_SET_SECCOMP, SECCOMP_MODE_STRICT
        "else:\n os.write(1, b'strict\\n')\n os.getuid()\n os.write(1, b'not obeyed\\n')"
    )
    done = caller.sandbox(["/usr/bin/python3", "-c", script])
    assert done.stdout in ("refused\n", "strict\n"), done
