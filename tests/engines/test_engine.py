"""One suite for all engines: what a sandbox is to whoever uses it, and what it leaves behind (nothing)."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import harness
import skerry

pytestmark = pytest.mark.sandbox


@pytest.fixture(autouse=True)
def runs_programs(traits) -> None:
    """All of it is about programs of Linux."""
    traits.need("programs of Linux")


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


# --- a command: its status, its streams, its surroundings ---


def test_status_and_streams(do) -> None:
    done = do("sh", "-c", "cat; echo err >&2; exit 7", input="in")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "err\n"), done
    assert do("sh", "-c", "kill -TERM $$").returncode == 128 + 15
    assert do("nosuch-command").returncode == 127
    assert do("/etc/passwd").returncode == 126
    assert do("/etc").returncode == 126


def test_what_cannot_be_started_is_told_apart(make, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x7fELF nonsense")
    binary.chmod(0o755)
    with make(cwd="/") as sandbox:
        with pytest.raises(skerry.CommandNotFound, match="command not found"):
            sandbox.run(["nosuch-command"])
        with pytest.raises(skerry.CommandNotFound, match="interpreter"):
            sandbox.run([script])
        with pytest.raises(skerry.CommandNotExecutable, match="permission denied"):
            sandbox.run(["/etc/passwd"])
        with pytest.raises(skerry.CommandNotExecutable, match="wrong format"):
            sandbox.run([binary])
        with pytest.raises(skerry.UsageError, match="/nosuch"):
            sandbox.run(["true"], cwd="/nosuch")
        assert sandbox.run(["true"]).returncode == 0


def test_environment_directory_and_name(traits, do) -> None:
    traits.need("hostname")
    done = do("sh", "-c", "echo $A:$SECRET:$PWD:$(uname -n)", options=("-e", "A=1", "--cwd", "/usr", "--hostname", "rock"))
    assert done.stdout == "1::/usr:rock\n", done


def test_the_caller_is_root_inside(do, traits, caller: harness.Caller) -> None:
    if caller.owner[0] != 0:
        traits.need("users of its own")
    assert do("sh", "-c", "id -u; id -g").stdout == "0\n0\n"


def test_another_user(make) -> None:
    with make(user="1234:2345", cwd="/") as sandbox:
        assert sandbox.run(shell("id -u; id -g; cat /proc/self/status | grep CapEff"), text=True).stdout == (
            "1234\n2345\nCapEff:\t0000000000000000\n"
        )
        with pytest.raises(skerry.CommandFailed):
            sandbox.run(shell("echo x > /etc/mine"), check=True)


def test_signals_reach_the_command_and_its_group(make) -> None:
    with make(cwd="/") as sandbox:
        with sandbox.spawn(shell("trap 'echo got; exit 3' USR1; echo up; while :; do sleep 0.05; done")) as process:
            assert process.stdout.readline() == b"up\n"
            process.send_signal(signal.SIGUSR1)
            assert process.wait(20) == 3
        with sandbox.spawn(shell("sleep 60 & sleep 60")) as process:
            process.kill()
            assert process.wait(20) == 128 + 9


def test_a_timeout_ends_it(do) -> None:
    start = time.monotonic()
    assert do("sleep", "60", options=("--timeout", "300ms")).returncode == 124
    assert time.monotonic() - start < 20


def test_large_streams_both_ways(make) -> None:
    data = os.urandom(1 << 20) * 3
    with make(cwd="/") as sandbox:
        assert sandbox.run(["cat"], input=data).stdout == data


def test_a_terminal(traits, make) -> None:
    with make(cwd="/") as sandbox:
        with sandbox.spawn(shell("tty; stty size; read line; echo got $line"), pty=(91, 33)) as process:
            lines = [process.stdout.readline(), process.stdout.readline()]
            process.stdin.write(b"word\n")
            process.stdin.flush()
            lines.append(process.stdout.read())
            assert process.wait(20) == 0
        assert re.fullmatch(rb"/dev/pts/\d+\r\n" if "numbers of its own" in traits.cannot else b"/dev/pts/0\r\n", lines.pop(0))
        assert lines == [b"33 91\r\n", b"word\r\ngot word\r\n"]
        with sandbox.spawn(shell("trap 'stty size; exit 4' WINCH; echo up; while :; do sleep 0.05; done"), pty=True) as process:
            assert process.stdout.readline() == b"up\r\n"
            process.resize(50, 20)
            assert process.stdout.readline() == b"20 50\r\n"
            assert process.wait(20) == 4


def test_processes_have_numbers_of_their_own(traits, make) -> None:
    traits.need("numbers of its own")
    with make(cwd="/") as sandbox:
        assert int(sandbox.run(shell("echo $$"), text=True).stdout) < 100
        with sandbox.spawn(["sleep", "60"]) as one:
            assert [state.process for state in sandbox.processes()] == [one.id]
            seen = sandbox.run(shell("cat /proc/[0-9]*/comm"), text=True).stdout.split()
            assert "sleep" in seen and "systemd" not in seen and "python3" not in seen
            one.kill()
            assert one.wait(20) == 137
        assert sandbox.processes() == []


def test_orphans_are_reaped(traits, make) -> None:
    traits.need("numbers of its own")
    with make(cwd="/") as sandbox:
        sandbox.run(shell("for i in 1 2 3 4 5; do (sleep 0.05 &) ; done"))
        gone = "! grep -qs '^State:.Z' /proc/[0-9]*/status && ! grep -qx sleep /proc/[0-9]*/comm"
        assert harness.eventually(lambda: sandbox.run(shell(gone)).returncode == 0)


# --- files ---


def test_writes_stay_inside(traits, do, caller: harness.Caller) -> None:
    traits.need("a tree of its own")
    with caller.workspace() as work:
        (work / "kept").write_text("host")
        os.chown(work / "kept", *caller.owner)
        script = f"echo inside > {work}/kept; echo new > {work}/new; rm -f {work}/kept; echo again > {work}/kept; cat {work}/kept {work}/new"
        done = do("sh", "-c", script, cwd=work)
        assert done.stdout == "again\nnew\n", done
        assert (work / "kept").read_text() == "host"
        assert os.listdir(work) == ["kept"]


def test_read_write_paths(do, caller: harness.Caller) -> None:
    with caller.workspace() as work:
        done = do("sh", "-c", f"mkdir {work}/in && echo out > {work}/in/file", options=("--rw", str(work)))
        assert done.returncode == 0, done
        assert (work / "in/file").read_text() == "out\n"
        assert (work / "in/file").stat().st_uid == caller.owner[0]


def test_read_only_and_hidden_paths_and_tmpfs(traits, do, caller: harness.Caller) -> None:
    traits.need("read_only to another place")
    with caller.workspace() as work:
        for name in ("shown", "hidden", "empty"):
            (work / name).mkdir()
            (work / name / "file").write_text(name)
        script = (
            f"cat {work}/moved/file; echo; echo x > {work}/moved/file || echo refused; ls -A {work}/hidden {work}/hidden.txt; "
            f"ls -A {work}/empty; echo y > {work}/empty/new && cat {work}/empty/new; cat {work}/hidden.txt"
        )
        (work / "hidden.txt").write_text("secret")
        options = (
            "--ro", f"{work}/shown:{work}/moved", "--hide", f"{work}/hidden", "--hide", f"{work}/hidden.txt", "--tmpfs", f"{work}/empty",
        )  # fmt: skip
        done = do("sh", "-c", script, options=options, cwd=work)
        assert done.stdout.split() == ["shown", "refused", f"{work}/hidden.txt", f"{work}/hidden:", "y"], done
        assert "secret" not in done.stdout


def test_hidden_paths(do, caller: harness.Caller) -> None:
    with caller.workspace() as work:
        for name in ("shown", "hidden"):
            (work / name).mkdir()
            (work / name / "file").write_text(name)
        (work / "secret.txt").write_text("secret")
        script = f"cat {work}/shown/file; cat {work}/secret.txt {work}/hidden/file; ls {work}/hidden; echo end"
        done = do("sh", "-c", script, options=("--hide", f"{work}/hidden", "--hide", f"{work}/secret.txt"))
        assert done.stdout == "shownend\n", done


def test_files_from_outside(make, writable) -> None:
    options, top = writable
    with make(cwd="/", **options) as sandbox:
        files = sandbox.files
        files.mkdir(f"{top}/a/b", parents=True)
        files.write(f"{top}/a/b/file", b"x" * 3_000_000)
        assert files.read(f"{top}/a/b/file") == b"x" * 3_000_000
        assert sandbox.run(shell(f"wc -c < {top}/a/b/file"), text=True).stdout.strip() == "3000000"
        sandbox.run(shell(f"ln -s file {top}/a/b/link; mkfifo {top}/a/b/fifo"))
        assert sorted((entry.name, entry.kind) for entry in files.list(f"{top}/a/b")) == [
            ("fifo", "fifo"), ("file", "file"), ("link", "symlink"),
        ]  # fmt: skip
        assert files.stat(f"{top}/a/b/link").size == 3_000_000
        with pytest.raises(skerry.FileError):
            files.read(f"{top}/a/b/fifo")
        with pytest.raises(skerry.SandboxFileNotFound):
            files.read(f"{top}/none")
        with pytest.raises(skerry.SandboxIsADirectory):
            files.read(f"{top}/a")
        files.rename(f"{top}/a/b/file", f"{top}/a/c")
        files.remove(f"{top}/a", recursive=True)
        assert not files.exists(f"{top}/a")
        # What the guest has put in the way of a file leads nowhere.
        sandbox.run(shell(f"ln -s /proc/1/mem {top}/trap; ln -s /proc/self/fd/3 {top}/trap2"))
        for trap in (f"{top}/trap", f"{top}/trap2"):
            with pytest.raises(skerry.SkerryError):
                files.write(trap, b"x")


def test_writes_elsewhere_are_denied(traits, do, caller: harness.Caller) -> None:
    """Where there is no tree of its own to keep them in."""
    if "a tree of its own" not in traits.cannot:
        pytest.skip(f"{traits.name} keeps writes inside")
    with caller.workspace() as work:
        (work / "kept").write_text("host")
        os.chown(work / "kept", *caller.owner)
        tried = (
            f"echo x > {work}/kept", f"echo x > {work}/new", f"rm {work}/kept", f"mv {work}/kept {work}/moved", f"mkdir {work}/new",
            f"ln {work}/kept {work}/new", f"ln -s x {work}/new", f"mkfifo {work}/new", f"chmod 777 {work}/kept",
            f"touch {work}/kept", f"chown {caller.owner[0]} {work}/kept", f"truncate -s 1 {work}/kept",
            f"ln {work}/kept $TMPDIR/link", f"/usr/bin/python3 -c 'import os; os.setxattr(\"{work}/kept\", \"user.x\", b\"x\")'",
            f"exec 5<{work}/kept; /usr/bin/python3 -c 'import os; os.fchmod(5, 0o777)'",
        )  # fmt: skip
        before = (work / "kept").stat()
        done = do(
            "sh", "-c", "\n".join(f"({one}) 2>/dev/null && echo '{one.split()[0]}' done" for one in tried) + "\ntrue", cwd=work
        )
        assert (done.returncode, done.stdout) == (0, ""), done
        after = (work / "kept").stat()
        assert (work / "kept").read_text() == "host" and os.listdir(work) == ["kept"]
        assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (after.st_mode, after.st_uid, after.st_mtime_ns)
        # Of its own and of what it was granted it changes all of that.
        own = "cd $TMPDIR && echo a > a && chmod 640 a && touch -d @7 a && ln a b && mv b c && mkdir d && mv c d && stat -c '%a %Y' d/c"
        assert do("sh", "-c", own, cwd=work).stdout == "640 7\n"
        granted = (
            f"cd {work} && chmod 640 kept && touch -h -d @9 kept && cp -p kept copy && stat -c '%a %Y' copy; chmod u+s copy"
        )
        done = do("sh", "-c", granted, cwd=work, options=("--rw", str(work)))
        assert (done.stdout, done.returncode) == ("640 9\n", 1), done


def test_devices_and_system_files(traits, do) -> None:
    script = (
        "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; ls /dev/fd/0; cat /proc/self/comm"
    )
    assert do("sh", "-c", script).stdout.split() == ["4", "8", "/dev/fd/0", "cat"]
    traits.need("a tree of its own")
    assert do("sh", "-c", "ls /dev/vda /dev/sda /dev/kmsg /dev/mem 2>/dev/null; ls /proc/sys >/dev/null").stdout == ""


# --- limits ---


def test_the_limit_of_processes(make) -> None:
    with make(pids=20, cwd="/") as sandbox:
        script = "n=0; while [ $n -lt 40 ]; do sleep 5 >/dev/null 2>&1 & n=$((n+1)); done; echo all"
        done = sandbox.run(shell(script), timeout=30, text=True)
        assert "all" not in done.stdout and done.returncode != 0, done
    with make(pids=100, cwd="/") as sandbox:
        assert (
            sandbox.run(shell("n=0; while [ $n -lt 40 ]; do sleep 1 >/dev/null & n=$((n+1)); done; echo all"), text=True).stdout
            == "all\n"
        )


def test_the_limit_of_memory(make) -> None:
    try:
        sandbox = make(memory="96m", cwd="/").start()
    except skerry.LayerUnavailable as error:
        pytest.skip(str(error))
    with sandbox:
        code = "x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
        done = sandbox.run(["/usr/bin/python3", "-c", code], timeout=60)
        assert (done.returncode, done.out_of_memory) == (137, True), done
        assert sandbox.run(["true"]).returncode == 0


def test_the_limit_of_memory_is_changed_while_it_runs(make) -> None:
    try:
        sandbox = make(memory="512m", cwd="/").start()
    except skerry.LayerUnavailable as error:
        pytest.skip(str(error))
    words = ["/usr/bin/python3", "-c", "b'x' * (120 << 20)"]
    with sandbox:
        assert "memory" in sandbox.update(memory="64m").limits
        done = sandbox.run(words, timeout=60)
        assert (done.returncode, done.out_of_memory) == (137, True), done
        sandbox.update(memory="512m")
        assert sandbox.run(words, timeout=60).returncode == 0
        with pytest.raises(skerry.UsageError, match="nothing is to be changed"):
            sandbox.update()
        with pytest.raises(skerry.Unenforceable, match="started without that limit"):
            sandbox.update(cpus=1)


def test_in_memory_files_are_limited(traits, make) -> None:
    traits.need("a tree of its own")
    try:
        sandbox = make(memory="64m", cwd="/").start()
    except skerry.LayerUnavailable as error:
        pytest.skip(str(error))
    with sandbox:
        done = sandbox.run(shell("dd if=/dev/zero of=/tmp/large bs=1M count=200 2>/dev/null"), timeout=60)
        assert done.returncode != 0


# --- the network ---


def test_no_network_but_loopback(traits, make) -> None:
    traits.need("network loopback")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    connect = f"import socket; s = socket.socket(); s.settimeout(5); s.connect(('127.0.0.1', {port}))"
    own = (
        "import socket; a = socket.create_server(('127.0.0.1', 0)); b = socket.create_connection(a.getsockname()); "
        "c, _ = a.accept(); b.sendall(b'hi'); print(c.recv(2).decode())"
    )
    with listener, make(network="loopback", cwd="/") as sandbox:
        assert sandbox.run(["/usr/bin/python3", "-c", connect]).returncode == 1
        assert sandbox.run(["/usr/bin/python3", "-c", own], text=True).stdout == "hi\n"
        names = sandbox.run(shell("tail -n +3 /proc/net/dev | cut -d: -f1"), text=True).stdout.split()
        assert names == ["lo"]
    with make(network="none", cwd="/") as sandbox:
        assert sandbox.run(["/usr/bin/python3", "-c", own]).returncode == 1


# --- options that cannot be enforced ---


def test_what_it_cannot_do_it_refuses_by_name(traits, make, tmp_path: Path) -> None:
    options = {
        "trace": {"trace": True},
        "profile": {"profile": "strict"},
        "hostname": {"hostname": "rock"},
        "read_only to another place": {"read_only": [("/usr", "/mnt")]},
        "hide": {"hide": [tmp_path]},
        "tmpfs": {"tmpfs": ["/mnt"]},
        "overlay_dir": {"overlay_dir": tmp_path},
        "network loopback": {"network": "loopback"},
        "network user": {"network": "user"},
    }
    for name, option in options.items():
        if name in traits.cannot:
            with pytest.raises(skerry.Unenforceable) as caught:
                make(**option).start()
            assert (caught.value.option, caught.value.engine) == (name.split()[0], traits.name)
        else:
            make(**option, cwd="/").start().close()


def test_a_layer_that_it_has_can_be_required(make) -> None:
    with make(cwd="/") as sandbox:
        layers = sandbox.info().layers
        assert "seccomp" in layers
    with make(require=layers, cwd="/") as sandbox:
        assert sandbox.run(["true"]).returncode == 0
    missing = set("seccomp user_namespace mount_namespace pid_namespace network_namespace landlock".split()) - set(layers)
    for layer in missing:
        try:
            with make(require=layer, cwd="/") as sandbox:
                assert layer in sandbox.info().layers  # entered because it was asked for
        except skerry.LayerUnavailable as error:
            assert layer in str(error)


# --- bad input ---


def test_bad_bytes_on_the_wire(make) -> None:
    """The engine ends, by itself, and leaves nothing."""
    rng = random.Random(5)
    for attempt in range(8):
        sandbox = make(cwd="/").start()
        guest = sandbox._guest
        sandbox.spawn(["sleep", "600"], stdin=skerry.DEVNULL, stdout=skerry.DEVNULL, stderr=skerry.DEVNULL)
        garbage = bytes(rng.randrange(256) for _ in range(rng.choice([1, 5, 64, 4096])))
        if attempt % 2:
            body = json.dumps(
                {"id": 7, "method": rng.choice(["spawn", "file", "nosuch"]), "params": {"x": [None] * 50}}
            ).encode()
            garbage = len(body).to_bytes(4, "little") + body
        else:
            garbage = rng.choice([b"\xff\xff\xff\xff", b"\x04\0\0\0"]) + garbage
        try:
            guest.client._connection.sendall(garbage)
            guest.client._connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert guest._process.wait(20) is not None, "it goes on"
        sandbox.close()


# --- what is left: nothing ---


class Watched:
    """Processes that were seen, by number and time of start, and the sleepers of one test; other sandboxes do not count."""

    def __init__(self) -> None:
        self.marker = f"{random.randrange(10**6, 10**7)}.125"
        self.seen: set[tuple[int, str]] = set()
        self.mounts = Path("/proc/self/mountinfo").read_text()

    def see(self, top: int) -> list[int]:
        found = [top, *harness.descendants(top)]
        self.seen.update((pid, start) for pid in found if (start := started(pid)))
        return found

    def left(self) -> list[str]:
        found = [f"process {pid}" for pid, start in self.seen if started(pid) == start]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if self.marker.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(f"sleeper {pid}")
            except OSError:
                continue
        numbers = {str(pid) for pid, _ in self.seen}
        groups = [*Path("/sys/fs/cgroup").glob("skerry-*"), *Path("/sys/fs/cgroup").glob("*/skerry-*")]
        found += [f"cgroup {path}" for path in groups if path.name.split("-")[1] in numbers]
        found += [f"directory {path}" for path in Path("/tmp").glob("skerry-private-*") if nobody_holds(path)]
        if Path("/proc/self/mountinfo").read_text() != self.mounts:
            found.append("a mount")
        return found


def nobody_holds(directory: Path) -> bool:
    """Whether the sandbox that a directory in /tmp belongs to is gone."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return directory.exists()


def started(pid: int) -> str | None:
    """When a process started; None where it is gone, or a zombie of somebody else's."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


#: Starts in a row; fewer where each takes seconds.
STARTS = int(os.environ.get("SKERRY_ENGINE_STARTS", "100"))


def test_starts_in_a_row_leave_nothing(traits, make) -> None:
    watched, descriptors = Watched(), len(os.listdir("/proc/self/fd"))
    for _ in range(STARTS // 10 if getattr(traits, "boots", False) else STARTS):
        with make(cwd="/") as sandbox:
            assert sandbox.run(["/bin/true"]).returncode == 0
            sandbox.spawn(["sleep", watched.marker], stdin=skerry.DEVNULL, stdout=skerry.DEVNULL, stderr=skerry.DEVNULL)
            watched.see(sandbox._guest.pid)
    assert harness.eventually(lambda: not watched.left()), watched.left()
    assert len(os.listdir("/proc/self/fd")) == descriptors


#: Kills at random moments.
KILLS = int(os.environ.get("SKERRY_ENGINE_KILLS", "20"))


@pytest.mark.parametrize("who", ["caller", "engine"])
def test_killed_at_a_random_moment_it_leaves_nothing(traits, who: str, ourselves: harness.Caller) -> None:
    watched = Watched()
    rng = random.Random(11)
    script = f"sleep {watched.marker} & (setsid sleep {watched.marker} &); sleep {watched.marker}"
    words = [*ourselves.command, "do", "--engine", traits.name, "--memory", "512m", "--"]
    for _ in range(KILLS // 2):
        process = subprocess.Popen([*words, "sh", "-c", script], cwd="/", start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.0, 1.8 if traits.boots else 0.25))
        below = [pid for pid in watched.see(process.pid) if is_engine(pid)]
        if who == "engine" and below:
            for pid in rng.sample(below, min(len(below), rng.choice([1, 2]))):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        else:
            process.kill()
        process.wait(30)
    # What a caller that was killed has left of cgroups, the next sandbox takes away.
    subprocess.run([*words, "true"], cwd="/", check=True)
    assert harness.eventually(lambda: not watched.left()), watched.left()


def is_engine(pid: int) -> bool:
    """Not a process of the guest's: of User Mode Linux's those are the host's too."""
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        if Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/linux.uml"):
            return False
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].rpartition(b"/")[2] in (
            b"skerry-sentry",
            b"skerry-agent",
            b"skerry-machine",
            b"linux.uml",
        )
    except OSError:
        return False


#: Root inside, against whatever it can see and guess: one by one, by thread, by descriptor and all at once.
KILLS_ALL = """
import ctypes, os, signal
mine, libc, seen = os.getpid(), ctypes.CDLL(None), 0
def tries(what, *arguments):
    try:
        what(*arguments)
    except OSError:
        pass
def by_descriptor(pid, number):
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, number)
    os.close(descriptor)
numbers = {int(name) for name in os.listdir("/proc") if name.isdigit()}
for pid in sorted(numbers | set(range(-1, 300))):
    if pid in (mine, 0, -1):
        continue
    seen += pid in numbers
    for number in (signal.SIGSTOP, signal.SIGKILL):
        tries(os.kill, pid, number)
        tries(by_descriptor, pid, number)
        libc.tgkill(pid, pid, number)
        if pid > 1:
            tries(os.killpg, pid, number)
print("seen", seen, flush=True)
tries(os.kill, -1, signal.SIGSTOP)
tries(os.kill, -1, signal.SIGKILL)
os._exit(3)
"""


def test_a_program_that_kills_all_that_it_sees_reaches_programs_only(traits, make) -> None:
    """Not who tells of their ends: the agent, a guest's first process, the guest kernel."""
    traits.need("numbers of its own")  # elsewhere it would see the host's
    watched = Watched()
    quiet = {"stdin": skerry.DEVNULL, "stdout": skerry.DEVNULL, "stderr": skerry.DEVNULL}
    with make(cwd="/") as sandbox:
        for _ in range(2):
            other = sandbox.spawn(["sleep", watched.marker], **quiet)
            watched.see(sandbox._guest.pid)
            done = sandbox.run(["/usr/bin/python3", "-S", "-c", KILLS_ALL], timeout=60, text=True)
            assert done.returncode == 3 and re.fullmatch("seen [1-9].*\n", done.stdout), done
            assert other.wait(20) == 137
            assert sandbox.processes() == []
        assert sandbox.run(shell("echo on; exit 7"), text=True).returncode == 7
    assert harness.eventually(lambda: not watched.left()), watched.left()


def test_many_at_once(make) -> None:
    failures: list[object] = []

    def one() -> None:
        try:
            with make(cwd="/") as sandbox:
                assert sandbox.run(shell("echo $((6 * 7))"), text=True).stdout == "42\n"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
