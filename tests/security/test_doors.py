"""Hostile programs inside, and what they leave outside: nothing.

`doors.c` makes calls that would leave a trace if they reached the host's kernel; the traces are looked for here, from
outside, where nothing that happens inside can lie about them.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

DOORS = ["syscall", "high", "x32", "int80", "compatibility", "sysenter", "vsyscall", "stub", "sweep", "x32-sweep"]


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("security") / "doors"
    source = Path(__file__).with_name("doors.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-o", str(program), str(source)], check=True)
    return program


class Traces:
    """What the host shows of an intrusion: a victim process, a secret file, a canary's place, a port."""

    def __init__(self, caller: harness.Caller, work: Path) -> None:
        self.secret = work / "secret"
        self.secret.write_text("a secret of the host")
        self.secret.chmod(0o640)
        os.chown(self.secret, *caller.owner)
        self.canary = work / "canary"
        self.victim = subprocess.Popen([*caller.prefix, "sleep", "600"], start_new_session=True)
        self.priority = os.getpriority(os.PRIO_PROCESS, self.victim.pid)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.connections = 0
        self.server.settimeout(0.2)
        self.listening = True
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self) -> None:
        while self.listening:
            try:
                connection, _ = self.server.accept()
            except TimeoutError:
                continue
            self.connections += 1
            connection.close()

    def end(self) -> None:
        self.listening = False
        self.thread.join()
        self.server.close()
        self.victim.kill()
        self.victim.wait()

    def assert_none(self) -> None:
        status = harness.status_of(self.victim.pid)
        assert self.victim.poll() is None, f"the victim ended: {self.victim.returncode}"
        assert status["State"].startswith("S"), f"the victim is {status['State']}"
        assert status["TracerPid"] == "0", "the victim is traced"
        assert os.getpriority(os.PRIO_PROCESS, self.victim.pid) == self.priority, "the victim's priority was changed"
        assert not self.canary.exists() and not self.canary.is_symlink(), "the canary was made on the host"
        assert self.secret.read_text() == "a secret of the host"
        found = self.secret.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (0o640, 1), oct(found.st_mode)
        assert self.connections == 0, f"{self.connections} connections reached the host's loopback"


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_door_is_shut(caller: harness.Caller, doors: Path, door: str) -> None:
    with caller.workspace() as work:
        program = work / "doors"
        program.write_bytes(doors.read_bytes())
        program.chmod(0o755)
        traces = Traces(caller, work)
        try:
            options = ["--hostname", "doors-are-tried-here", "--memory", "512m", "--timeout", "120"]
            words = [program, door, str(traces.victim.pid), str(traces.secret), str(traces.canary), str(traces.port)]
            done = caller.do(options, words, cwd=work, timeout=150)
            traces.assert_none()
            assert f"{door}: tried" in done.stdout, done
            assert done.returncode == 0 and "OPEN" not in done.stdout, done
        finally:
            traces.end()


def test_hidden_file_cannot_be_read(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        (work / "vault").mkdir()
        (work / "vault/key").write_text("TOP SECRET")
        (work / "vault/key").chmod(0o644)
        way_in = [
            f"{work}/vault/key",
            f"/proc/1/root{work}/vault/key",
            f"/proc/self/root{work}/vault/key",
            f"{work}/../{work.name}/vault/key",
        ]
        script = f"cat {' '.join(way_in)}; ls -lR {work}/vault; find {work} | xargs cat; mv {work}/vault {work}/v; cat {work}/v/key; rmdir {work}/vault; cat {work}/vault/key"
        done = caller.do(["--hide", f"{work}/vault"], ["sh", "-c", script], cwd=work)
        assert "TOP SECRET" not in done.stdout + done.stderr, done


def test_host_processes_are_not_seen(caller: harness.Caller) -> None:
    done = caller.sandbox(
        [
            "sh",
            "-c",
            f"kill -0 {os.getpid()} 2>/dev/null; echo $?; ls -d /proc/{os.getpid()} 2>/dev/null; ls -d /proc/[0-9]* | wc -l",
        ]
    )
    gone, count = done.stdout.split()
    assert gone == "1" and int(count) < 6, done


def test_host_unix_sockets_cannot_be_reached(caller: harness.Caller) -> None:
    with caller.workspace() as work, socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as abstract:
        path = work / "host.sock"
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        abstract.bind(f"\0skerry-test-{os.getpid()}")
        abstract.listen()
        script = (
            "import socket\n"
            f"for name in ({str(path)!r}, '\\0skerry-test-{os.getpid()}'):\n"
            "    try: socket.socket(socket.AF_UNIX).connect(name); print('connected')\n"
            "    except OSError as error: print('refused')"
        )
        done = caller.sandbox(["/usr/bin/python3", "-c", script], cwd=work)
        assert done.stdout == "refused\nrefused\n", done
        done = caller.do(["--rw", str(work)], ["/usr/bin/python3", "-c", script], cwd=work)
        assert done.stdout == "refused\nrefused\n", done


def test_host_fifo_cannot_be_opened(caller: harness.Caller) -> None:
    """Opening it would block, or wake a reader on the host."""
    with caller.workspace() as work:
        os.mkfifo(work / "pipe", 0o666)
        (work / "pipe").chmod(0o666)
        done = caller.do(
            ["--rw", str(work), "--timeout", "20"], ["sh", "-c", "timeout 3 sh -c 'echo leak > pipe'; echo $?"], cwd=work
        )
        reader = os.open(work / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert os.read(reader, 100) == b""
        finally:
            os.close(reader)
        assert done.returncode == 0 and done.stdout.strip() != "0", done


def test_inherited_descriptors_do_not_come_in(ourselves: harness.Caller, tmp_path: Path) -> None:
    (tmp_path / "inherited").write_text("x")
    with (tmp_path / "inherited").open() as file:
        os.set_inheritable(file.fileno(), True)
        process = subprocess.Popen(
            [*ourselves.command, "do", "--", "sh", "-c", "ls /proc/self/fd | wc -l; exec sleep 20"],
            pass_fds=[file.fileno()], env=ourselves.environment(None), stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdout.readline().strip() in ("3", "4")
            for pid in harness.descendants(process.pid):
                for descriptor, target in harness.descriptors_of(pid).items():
                    assert "inherited" not in target, f"{pid} holds {descriptor}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            process.stdout.close()


def test_environment_of_the_caller_is_nowhere(ourselves: harness.Caller) -> None:
    token = "a-token-that-must-not-come-in"
    done = harness.run(
        [*ourselves.command, "do", "--", "sh", "-c", "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'"],
        environment=ourselves.environment(None) | {"SECRET_TOKEN": token},
    )
    assert done.returncode == 0 and token not in done.stdout, done


def test_set_id_bits_act_inside_only(nobody: harness.Caller) -> None:
    """A set-user-id program gives a sandboxed `nobody` nothing on the host."""
    with nobody.workspace() as work:
        script = "cp /bin/sh s; chmod 4755 s; chown 0:0 s; ./s -p -c 'id -u; cat /etc/shadow'"
        done = nobody.sandbox(["sh", "-c", script], cwd=work)
        assert "root:" not in done.stdout, done
        done = nobody.do(["--rw", str(work)], ["sh", "-c", "cp /bin/sh s; chmod 4755 s; ls s"], cwd=work)
        if (work / "s").exists():
            found = (work / "s").stat()
            assert found.st_uid == nobody.owner[0], "a set-id file of another user on the host"
