"""What only the engine `rules` has: ports of the host's loopback, attributes, others' processes, versions of Landlock."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import pytest

import harness
import skerry
from skerry.control import messages

pytestmark = pytest.mark.sandbox


@pytest.fixture(autouse=True)
def usable(native_only: bool) -> None:
    if native_only:
        pytest.skip("--native-only")
    harness.usable_engine("rules")


CLIENT = """
import socket, sys
def attempt(name, act):
    try: print(name, act())
    except OSError as error: print(name, error.errno)
def connect(address, family=socket.AF_INET):
    with socket.socket(family) as one:
        one.settimeout(5)
        one.connect(address)
        return one.recv(2)
port, other = map(int, sys.argv[1:3])
attempt("granted", lambda: connect(("127.0.0.1", port)))
attempt("blocking", lambda: socket.create_connection(("localhost", port)).recv(2))
attempt("other", lambda: connect(("127.0.0.1", other)))
attempt("outside", lambda: connect(("192.0.2.1", port)))
attempt("datagram", lambda: socket.socket(type=socket.SOCK_DGRAM))
attempt("multipath", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("fast", lambda: socket.socket().sendto(b"x", 0x20000000, ("127.0.0.1", other)))
def bind(address):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
        one.listen()
        return one.getsockname()[0]
free = int(sys.argv[3])
attempt("bind", lambda: bind(("127.0.0.1", free)))
attempt("any", lambda: bind(("0.0.0.0", free)))
attempt("elsewhere", lambda: bind(("192.0.2.1", free)))
attempt("unnamed", lambda: bind(("127.0.0.1", other)))
attempt("listen", lambda: socket.socket().listen())
"""


def test_ports_of_the_hosts_loopback(caller: harness.Caller) -> None:
    """The ports that a policy names, at loopback addresses, and nothing else of the network."""
    with (
        caller.workspace() as work,
        socket.create_server(("127.0.0.1", 0)) as granted,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("127.0.0.1", 0)) as freed,
    ):
        port, denied, free = (one.getsockname()[1] for one in (granted, other, freed))
        freed.close()
        (work / "policy.toml").write_text(
            f'version = 1\n[files]\ndefault = "read_only"\n[network]\nmode = "loopback"\nconnect = ["tcp:{port}"]\nbind = ["tcp:{free}"]\n'
        )
        (work / "client.py").write_text(CLIENT)
        process = subprocess.Popen(
            [*caller.command, "do", "--engine", "rules", "--policy", work / "policy.toml", "--events", work / "events", "--",
             "/usr/bin/python3", work / "client.py", str(port), str(denied), str(free)],
            cwd="/", env=caller.environment(None), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        granted.settimeout(30)
        for _ in range(2):
            connection, _ = granted.accept()
            connection.sendall(b"hi")
            connection.close()
        out, err = process.communicate(timeout=60)
        events = [json.loads(line) for line in (work / "events").read_text().splitlines()]
        other.settimeout(0.1)
        with pytest.raises(TimeoutError):
            other.accept()
    assert dict(line.split(None, 1) for line in out.splitlines()) == {
        "granted": "b'hi'", "blocking": "b'hi'", "other": "13", "outside": "101", "datagram": "97", "multipath": "97",
        "raw": "97", "fast": "95", "bind": "127.0.0.1", "any": "127.0.0.1", "elsewhere": "99", "unnamed": "13", "listen": "13",
    }, err  # fmt: skip
    told = {(event["name"], event.get("path")) for event in events if event["event"] == "call"}
    assert {("connect", f"127.0.0.1:{denied}"), ("connect", f"192.0.2.1:{port}"), ("bind", f"127.0.0.1:{denied}")} <= told
    assert ("socket", None) in told and ("sendto", None) in told


def boot(**rules: object) -> skerry.Sandbox:
    """A sandbox with rules of our own besides the engine's."""
    sandbox = skerry.Sandbox(engine="rules", cwd="/")
    plain = sandbox._options.boot_message
    sandbox._options.boot_message = lambda: {**plain(), "rules": messages.rules(**rules)}
    return sandbox


def test_calls_are_logged_denied_and_killed_for() -> None:
    calls = messages.call_rules(
        "allow",
        [
            messages.call_rule(["sysinfo"], "log"),
            messages.call_rule(["getpgid"], {"errno": 77}),
            messages.call_rule(["kill"], "kill", [messages.argument(1, "equal", 12)]),
            messages.call_rule(["execve"], {"errno": 13}),
        ],
    )
    script = (
        "import ctypes, errno, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.syscall(99, ctypes.create_string_buffer(256)), libc.syscall(121, 0), ctypes.get_errno())\n"
        "try: os.execv('/bin/true', ['true'])\n"
        "except OSError as error: print(error.errno)\n"
        "os.kill(os.getpid(), 0)\n"
        "print('on', flush=True)\n"
        "os.kill(os.getpid(), 12)\n"
        "print('over')\n"
    )
    events: list[dict] = []
    with boot(calls=calls) as sandbox:
        sandbox._on_event_now = events.append
        done = sandbox.run(["/usr/bin/python3", "-S", "-c", script], text=True)
    assert (done.returncode, done.stdout) == (137, "0 -1 77\n13\non\n"), done
    told = [(event["name"], event["action"]) for event in events if event["event"] == "call"]
    for expected in (("sysinfo", "log"), ("getpgid", {"errno": 77}), ("kill", "kill"), ("execve", {"errno": 13})):
        assert expected in told, told


def test_a_version_that_lacks_a_right_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, clause in ((1, "refer"), (0, "execute")):
        monkeypatch.setenv("SKERRY_TEST_WITHOUT", f"landlock_{version}")
        with pytest.raises(skerry.LayerUnavailable, match=f"{clause}.*Landlock ABI") as caught:
            skerry.Sandbox(engine="rules").start()
        assert str(version) in str(caught.value) or version == 0


WITHOUT_LANDLOCK = r"""
import ctypes, errno, fcntl, os, resource, signal, struct, sys, termios, threading, time
libc = ctypes.CDLL(None, use_errno=True)
other, group, outside, inside = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
def attempt(name, act):
    try: print(name, act())
    except OSError as error: print(name, errno.errorcode[error.errno])
def call(number, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(number, *arguments)
    if done < 0: raise OSError(ctypes.get_errno(), "")
    return done
# Truncation.
for flags in (os.O_RDONLY, 3):
    attempt("read", lambda: os.open(outside, flags | os.O_TRUNC))
    attempt("at", lambda: os.open(os.path.basename(outside), flags | os.O_TRUNC, dir_fd=os.open(os.path.dirname(outside), os.O_PATH)))
attempt("write", lambda: os.open(outside, os.O_WRONLY | os.O_TRUNC))
attempt("creat", lambda: call(85, outside.encode(), 0o600))
attempt("truncate", lambda: os.truncate(outside, 0))
attempt("negative", lambda: os.truncate(inside, -1))
attempt("directory", lambda: os.truncate(os.path.dirname(inside), 0))
attempt("absent", lambda: os.truncate(inside + "x", 0))
open(inside, "w").write("12345")
attempt("mine", lambda: os.truncate(inside, 3))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
attempt("large", lambda: os.truncate(inside, 4097))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print("left", open(inside).read(), open(outside).read())
# Devices.
full = os.open("/dev/full", os.O_RDWR)
for name, request in (("rotational", 0x1268), ("sizes", 0x80081272), ("owner", 0x8902), ("typing", 0x5412), ("entropy", 0x5203)):
    attempt(name, lambda: fcntl.ioctl(full, request, bytes(8)))
read, write = os.pipe()
os.write(write, b"123")
attempt("waiting", lambda: struct.unpack("i", fcntl.ioctl(read, termios.FIONREAD, bytes(4)))[0])
# Signals, outside.
kill = signal.SIGKILL
attempt("kill", lambda: os.kill(other, kill))
attempt("group", lambda: os.killpg(group, kill))
attempt("thread", lambda: call(234, other, other, int(kill)))
attempt("tkill", lambda: call(200, other, int(kill)))
attempt("queue", lambda: call(129, other, int(kill), bytes(128)))
attempt("tgqueue", lambda: call(297, other, other, int(kill), bytes(128)))
def by_descriptor(descriptor):
    signal.pidfd_send_signal(descriptor, kill)
attempt("pidfd", lambda: by_descriptor(os.pidfd_open(other)))
attempt("proc", lambda: by_descriptor(os.open(f"/proc/{other}", os.O_RDONLY | os.O_DIRECTORY)))
attempt("owned", lambda: fcntl.fcntl(read, fcntl.F_SETOWN, other))
attempt("owned too", lambda: fcntl.fcntl(read, 15, struct.pack("ii", 1, other)))
attempt("parent", lambda: os.kill(os.getppid(), kill))
attempt("nobody", lambda: os.kill(4194300, 0))
attempt("bad", lambda: call(62, os.getppid(), 99))
# Signals, inside.
got = []
signal.signal(signal.SIGURG, lambda *_: got.append("urg"))
signal.signal(signal.SIGUSR1, lambda *_: got.append("usr1"))
signal.signal(signal.SIGUSR2, lambda *_: got.append("usr2"))
os.kill(os.getpid(), signal.SIGUSR1)
signal.raise_signal(signal.SIGUSR1)
os.kill(0, signal.SIGUSR1)
os.killpg(os.getpgid(0), signal.SIGUSR1)
waits = threading.Thread(target=time.sleep, args=(0.3,))
waits.start()
signal.pthread_kill(waits.ident, signal.SIGUSR1)
call(200, waits.native_id, int(signal.SIGUSR2))
waits.join()
print("got", *sorted(got))
def child(act):
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        act(go)
        os._exit(0)
    os.read(ready, 1)
    return pid
def sleeps(go):
    os.write(go, b"x"); time.sleep(60)
pid = child(sleeps); os.kill(pid, signal.SIGTERM); print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
def in_a_group(go):
    os.setpgid(0, 0); sleeps(go)
pid = child(in_a_group); os.killpg(pid, kill); print("its group", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
def stops(go):
    os.write(go, b"x"); os.abort()
pid = child(stops); print("abort", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
got.clear()
def all_of_them(go):
    os.kill(-1, signal.SIGURG); os.write(go, b"x")
pid = child(all_of_them); os.waitpid(pid, 0); print("all", got, flush=True)
os.kill(os.getpid(), kill)
"""


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_what_a_version_lacks_is_held_otherwise(caller: harness.Caller, tmp_path: Path, version: int) -> None:
    """Truncation, requests to devices, signals: by calls, and by asking the agent."""
    with caller.workspace() as work:
        (work / "outside").write_text("12345")
        (work / "inside").mkdir()
        (work / "script").write_text(WITHOUT_LANDLOCK)
        for name in ("outside", "inside"):
            os.chown(work / name, *caller.owner)
        victim = subprocess.Popen(
            ["sleep", "100"], start_new_session=True, user=caller.owner[0], group=caller.owner[1], extra_groups=[]
        )  # fmt: skip
        try:
            words = ["/usr/bin/python3", "-S", str(work / "script"), str(victim.pid), str(victim.pid)]
            options = ["do", "--engine", "rules", "--rw", work / "inside", "--", *words, work / "outside", work / "inside/file"]
            without = ["env", f"SKERRY_TEST_WITHOUT=landlock_{version}"]
            done = harness.run(
                [*caller.prefix, *without, caller.skerry, *options], cwd="/", environment=caller.environment(None)
            )
            assert victim.poll() is None
            assert (work / "outside").read_text() == "12345"
        finally:
            victim.kill()
            victim.wait()
    told = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    facts = dict(told)
    assert done.returncode == 137, done
    for name, error in told:
        if name in ("read", "at", "write", "creat", "truncate"):
            assert error == "EACCES", done.stdout
    for name in ("kill", "group", "thread", "tkill", "queue", "tgqueue", "parent"):
        assert facts[name] in ("EPERM", "ESRCH"), (name, done.stdout)
    # Landlock looks when the signal is sent.
    assert version == 6 or facts["owned"] == facts["owned too"] == "EPERM", done.stdout
    assert facts["pidfd"] in ("EPERM", "ENOSYS") and facts["proc"] in ("EPERM", "ENOSYS", "EACCES"), done.stdout
    assert facts["rotational"] in ("EACCES", "ENOTTY") and facts["typing"] in ("EPERM", "EACCES"), done.stdout
    assert (facts["negative"], facts["absent"], facts["mine"], facts["waiting"]) == ("EINVAL", "ENOENT", "None", "3")
    assert (facts["directory"], facts["nobody"], facts["bad"]) == ("EISDIR", "ESRCH", "EINVAL"), done.stdout
    assert facts["large"] == "EFBIG", done.stdout
    for line in ("left 123 12345", "got" + " usr1" * 5 + " usr2", "child -15", "its group -9", "abort -6", "all ['urg']"):
        assert line in done.stdout.splitlines(), done.stdout


def test_what_is_left_when_guardian_and_agent_are_killed_at_once_is_swept() -> None:
    """From Python nobody adopts them: a mark that they cannot take off tells whose they were."""
    marker = f"{random.randrange(10**6, 10**7)}.25"
    script = (
        "import os, resource\n"
        "try: resource.setrlimit(10, (5, 5))\n"
        "except (OSError, ValueError) as error: print('kept', flush=True)\n"
        f"os.spawnlp(os.P_NOWAIT, 'setsid', 'setsid', 'sleep', '{marker}')\n"
        f"os.execlp('sleep', 'sleep', '{marker}')\n"
    )

    def sleepers() -> list[int]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(pid))
        return found

    with skerry.Sandbox(engine="rules", cwd="/") as other:
        sandbox = skerry.Sandbox(engine="rules", cwd="/").start()
        process = sandbox.spawn(["/usr/bin/python3", "-S", "-c", script], stderr=skerry.DEVNULL)
        bystander = other.spawn(["/bin/sleep", "60"])
        assert process.stdout.readline() == b"kept\n"
        assert harness.eventually(lambda: len(sleepers()) == 2)
        guardian = sandbox._guest.pid
        agent = [pid for pid in harness.descendants(guardian) if pid not in sleepers()]
        os.kill(guardian, signal.SIGSTOP)
        for pid in (*agent, guardian):
            os.kill(pid, signal.SIGKILL)
        sandbox.close()
        assert harness.eventually(lambda: not sleepers()), sleepers()
        assert [state.process for state in other.processes()] == [bystander.id]
        bystander.kill()
        bystander.wait(20)
    for one in (process, bystander):
        for stream in (one.stdin, one.stdout, one.stderr):
            if stream is not None:
                stream.close()


def test_labels_that_the_host_has_no_module_for_are_refused() -> None:
    for name, label in (("apparmor", "skerry-none"), ("selinux", "system_u:system_r:skerry_none_t:s0")):
        with pytest.raises(skerry.LayerUnavailable, match=f"{name} cannot be held here"):
            boot(**{name: label}).start()


def test_limits_of_each_process_and_capabilities() -> None:
    with boot(resources={"nofile": 77, "core": 0}) as sandbox:
        assert sandbox.run(["/bin/sh", "-c", "ulimit -n; ulimit -Hn"], text=True).stdout == "77\n77\n"
    if os.geteuid() == 0:
        with boot(capabilities=["CAP_CHOWN"]) as sandbox:
            assert "CapEff:\t0000000000000001" in sandbox.run(["cat", "/proc/self/status"], text=True).stdout
            assert "no_capabilities" not in sandbox.info().layers
    with pytest.raises(skerry.LayerUnavailable, match="CAP_SYS_ADMIN"):
        boot(capabilities=["CAP_SYS_ADMIN"]).start()


def test_other_processes_are_out_of_reach_and_its_own_are_not(caller: harness.Caller) -> None:
    victim = subprocess.Popen([*caller.prefix, "sleep", "600"])
    script = (
        f"import os, resource, sys\n"
        f"def attempt(act):\n"
        f"    try: act(); print('done')\n"
        f"    except OSError: print('denied')\n"
        f"child = os.fork()\n"
        f"if child == 0:\n"
        f"    os.execv('/bin/sleep', ['sleep', '60'])\n"
        f"for pid in ({victim.pid}, child):\n"
        f"    attempt(lambda: os.kill(pid, 0))\n"
        f"    attempt(lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 30, 1 << 30)))\n"
        f"    attempt(lambda: os.setpriority(os.PRIO_PROCESS, pid, 7))\n"
        f"    attempt(lambda: os.sched_setaffinity(pid, os.sched_getaffinity(0)))\n"
        f"    attempt(lambda: os.readlink(f'/proc/{{pid}}/cwd'))\n"
        f"os.kill(child, 9)\n"
    )
    try:
        done = caller.do(["--engine", "rules"], ["/usr/bin/python3", "-S", "-c", script], cwd="/")
        assert done.stdout.split() == ["denied"] * 5 + ["done"] * 5, done
        assert os.getpriority(os.PRIO_PROCESS, victim.pid) == 0 and victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_what_is_written_is_not_executed_where_a_policy_names_programs(caller: harness.Caller) -> None:
    script = (
        "import os, shutil\n"
        "def attempt(act):\n"
        "    try: print(act())\n"
        "    except OSError as error: print(error.errno)\n"
        "own = os.environ['TMPDIR'] + '/program'\n"
        "shutil.copy('/usr/bin/true', own)\n"
        "attempt(lambda: os.spawnv(os.P_WAIT, own, ['true']))\n"
        "attempt(lambda: os.memfd_create('program'))\n"
        "attempt(lambda: os.memfd_create('data', 8) > 2)\n"
        "attempt(lambda: os.spawnv(os.P_WAIT, '/usr/bin/true', ['true']))\n"
    )
    with caller.workspace() as work:
        for text, expected in (
            ("", ["0", "3", "True", "0"]),
            ('execute = ["/usr/bin", "/usr/lib", "/lib64"]\n', ["127", "13", "True", "0"]),
        ):
            (work / "policy.toml").write_text(f'version = 1\n[files]\ndefault = "read_only"\n{text}')
            words = ["/usr/bin/python3", "-S", "-c", script]
            done = caller.do(["--engine", "rules", "--policy", str(work / "policy.toml")], words, cwd="/")
            assert done.stdout.split() == expected, done


def test_attributes_by_the_names_of_open_files(caller: harness.Caller) -> None:
    """/dev/fd/N is one of the program's own descriptors, whoever looks it up for it."""
    script = (
        "import os\n"
        "own = os.environ['TMPDIR'] + '/file'\n"
        "for number in range(3, 20):\n"
        "    file = os.open(own, os.O_CREAT | os.O_RDWR)\n"
        "    for name in (f'/dev/fd/{file}', f'/proc/self/fd/{file}', f'/proc/thread-self/fd/{file}', f'/proc/{os.getpid()}/fd/{file}'):\n"
        "        os.chmod(name, 0o600 + number)\n"
        "        assert os.fstat(file).st_mode & 0o777 == 0o600 + number, name\n"
        "        os.fchmod(file, 0o700)\n"
        "host = os.open('/etc/hostname', os.O_RDONLY)\n"
        "for name in (f'/dev/fd/{host}', '/dev/fd/999'):\n"
        "    try: os.chmod(name, 0o644)\n"
        "    except OSError as error: print(error.errno)\n"
    )
    done = caller.do(["--engine", "rules"], ["/usr/bin/python3", "-S", "-c", script], cwd="/")
    assert done.stdout.split() == ["13", "2"], done


def test_what_landlock_denies_is_told_where_somebody_listens(caller: harness.Caller) -> None:
    """Without a policy too; and what is allowed, or is not there, is not."""
    with caller.workspace() as work:
        (work / "dir").mkdir()
        (work / "file").write_text("x")
        script = (
            f"cat file > /dev/null; cat nosuch; echo x > file; echo x > new; rm file; mkdir other; mv file moved; ls /; cd dir; "
            f"cat ../file; echo y > ../file; echo z > $TMPDIR/own; kill -0 {os.getpid()}; sh -c 'kill -0 $$'"
        )
        options = ["--engine", "rules", "--events", str(work.parent / "events")]
        (work.parent / "events").touch()
        os.chown(work.parent / "events", *caller.owner)
        caller.do(options, ["sh", "-c", script], cwd=work)
        events = [json.loads(line) for line in (work.parent / "events").read_text().splitlines()]
    told = {
        (event["name"], event.get("access"), (event.get("path") or "").removeprefix(str(work)), event["errno"])
        for event in events
        if event["event"] == "observed"
    }
    assert told >= {
        ("openat", "write", "/file", 13), ("openat", "write", "/new", 13), ("unlinkat", "write", "/file", 13),
        ("mkdir", "write", "/other", 13), ("openat", "read", "/", 13), ("openat", "write", "/dir/../file", 13),
        ("kill", None, "", 1),
    }, told  # fmt: skip
    assert {path for _, access, path, _ in told if access == "read"} == {"/"}
    assert not any(text in path for _, _, path, _ in told for text in ("nosuch", "own"))


def test_a_directory_of_its_own_is_gone_at_the_end(caller: harness.Caller) -> None:
    done = caller.do(["--engine", "rules"], ["sh", "-c", "cd $TMPDIR && mkdir a && echo x > a/b && cat a/b && pwd"], cwd="/")
    assert done.stdout.splitlines()[0] == "x" and not Path(done.stdout.splitlines()[1]).exists(), done


def test_rules_hold_in_namespaces_too() -> None:
    """Ports, programs and calls of a policy; what is not held there is refused."""
    everything = [right for right in messages.FILE_RIGHTS if right != "execute"]
    script = (
        "import os, socket, sys\n"
        "def attempt(name, act):\n"
        "    try: print(name, act())\n"
        "    except OSError as error: print(name, error.errno)\n"
        "server = socket.create_server(('127.0.0.1', 8099))\n"
        "attempt('granted', lambda: bool(socket.create_connection(('127.0.0.1', 8099))))\n"
        "attempt('other', lambda: socket.create_connection(('127.0.0.1', 8098)))\n"
        "attempt('bind', lambda: socket.create_server(('127.0.0.1', 8098)))\n"
        "attempt('listen', lambda: socket.socket().listen())\n"
        "attempt('datagram', lambda: socket.socket(type=socket.SOCK_DGRAM))\n"
        "attempt('call', lambda: os.getpgid(0))\n"
        "attempt('program', lambda: os.execv('/bin/true', ['true']))\n"
    )
    events: list[dict] = []
    sandbox = skerry.Sandbox(engine="namespace", cwd="/", network="loopback")
    plain = sandbox._options.boot_message
    rules = messages.rules(
        files=[messages.file_rule("/", everything), messages.file_rule("/usr/lib", ["execute"]),
               messages.file_rule(os.path.realpath("/usr/bin/python3"), ["execute"])],
        ports={"connect_tcp": [8099], "bind_tcp": [8099]},
        calls=messages.call_rules("allow", [messages.call_rule(["getpgid"], {"errno": 77})]),
    )  # fmt: skip
    sandbox._options.boot_message = lambda: {**plain(), "rules": rules}
    sandbox._on_event_now = events.append
    with sandbox:
        done = sandbox.run(["/usr/bin/python3", "-S", "-c", script], text=True)
        assert done.stdout.splitlines() == [
            "granted True", "other 13", "bind 13", "listen 13", "datagram 97", "call 77", "program 13",
        ], done  # fmt: skip
    assert {("getpgid", str({"errno": 77}))} <= {
        (event["name"], str(event["action"])) for event in events if event["event"] == "call"
    }
    sandbox = skerry.Sandbox(engine="namespace", cwd="/")
    less = sandbox._options.boot_message
    sandbox._options.boot_message = lambda: {
        **less(),
        "rules": messages.rules(files=[messages.file_rule("/usr", ["read_file"])]),
    }
    with pytest.raises(skerry.LayerUnavailable, match="attributes"):
        sandbox.start()
