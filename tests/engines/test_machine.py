"""The relay between a caller and a guest with a kernel of its own, with guests of ours that do not keep to the protocol.

The machine's monitor is a script in the jail: its standard input is the line.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import harness
import skerry
from skerry.control import frame, messages
from skerry.engines import _machine, namespace
from skerry.engines.sentry import ProgramGuest

pytestmark = pytest.mark.sandbox

#: What a guest's init does first, and answers; then `REST`.
PROLOGUE = r"""
import json, os, socket, struct, sys, time
line = socket.socket(fileno=0)
def send(kind, payload=b"", stream=0): line.sendall(struct.pack("<BBHI", kind, 0, len(payload), stream) + payload)
def say(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    data = struct.pack("<I", len(data)) + data
    for start in range(0, len(data), 16384): send(2, data[start:start + 16384])
BOOTED = {"layers": [], "missing": [], "limits": {"pids": "held"}, "version": "0", "guest_memory": "none", "sentry_pid": 1}
def greet(): send(1, b"skerry-guest 1")
def frame():
    head = line.recv(8, socket.MSG_WAITALL)
    kind, _, length, stream = struct.unpack("<BBHI", head)
    return kind, stream, line.recv(length, socket.MSG_WAITALL) if length else b""
def boot():
    greet(); kind, _, data = frame(); say({"id": json.loads(data[4:])["id"], "ok": BOOTED})
"""


class Machine:
    """A relay with a guest that is a script."""

    def __init__(self, script: str, patience: float = 10, program: dict[str, object] | None = None, **more: object) -> None:
        self.ended = threading.Event()
        self.error: skerry.SkerryError | None = None
        self.events: list[Mapping[str, object]] = []
        self.guest: ProgramGuest = _machine.start_machine("uml", self.events.append, self.on_end)
        boot = messages.boot(
            mounts=[messages.mount_overlay("/", "/0")], hostname="rock", network="none", identity="caller_is_root"
        )
        mounts = [
            messages.mount_host("/", "/", writable=False),
            messages.mount_plain("/proc", "proc"),
            messages.mount_plain("/dev", "devtmpfs"),
            messages.mount_tmpfs("/tmp"),
        ]
        boot["machine"] = messages.machine(
            monitor=messages.host_program(["/usr/bin/python3", "-S", "-c", PROLOGUE + script], **(program or {})),
            mounts=mounts, memory_files=1 << 20, patience_ms=int(patience * 1000), **more,
        )  # fmt: skip
        self.message = boot

    def on_end(self, error: skerry.SandboxError) -> None:
        self.error = error
        self.ended.set()

    def boot(self) -> dict[str, object]:
        return self.guest.client.call("boot", self.message, timeout=30)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.guest.close()


@pytest.fixture
def machine(native_only: bool) -> Callable[..., Machine]:
    if native_only:
        pytest.skip("--native-only")
    harness.usable_engine("namespace")
    return Machine


def test_a_guest_that_does_not_come_up(machine) -> None:
    told = r"(?s)ended with status 3.*no root file system"
    with machine("print('no root file system'); sys.exit(3)") as one, pytest.raises(skerry.SkerryError, match=told):
        one.boot()
    with machine("time.sleep(60)", patience=0.3) as one, pytest.raises(skerry.SkerryError, match="has not come up in"):
        one.boot()
    for script in ("line.sendall(b'Linux version 6.1'); time.sleep(60)", "send(1, b'skerry-guest 2'); time.sleep(60)"):
        with machine(script) as one, pytest.raises(skerry.SkerryError, match="does not speak"):
            one.boot()


def test_the_machine_is_in_a_jail(machine) -> None:
    script = r"""
print(os.listdir("/proc/self/fd"), [name for name in os.listdir("/proc") if name.isdigit()])
for path in ("/etc/mine", "/mine"):
    try: open(path, "w"); print("wrote", path)
    except OSError as error: print(error.strerror)
print(open("/proc/self/status").read().split("CapEff:")[1].split()[0])
print([line.split(":")[0].strip() for line in open("/proc/net/dev")][2:], socket.gethostname())
sys.exit(9)
"""
    with machine(script) as one, pytest.raises(skerry.SkerryError) as caught:
        one.boot()
    text = str(caught.value)
    assert "wrote" not in text and text.count("Read-only file system") == 2, text
    assert "['0', '1', '2', '3'] ['1', '2']" in text and "0000000000000000" in text and "['lo'] rock" in text, text


def test_landlock_holds_what_runs_in_the_jail(machine, tmp_path: Path) -> None:
    """A program in the monitor's place, with rights on some files: the tree around it shows more."""
    script = r"""
def tries(what, act):
    try: act(); print(what, "done")
    except OSError as error: print(what, error.strerror)
tries("read", lambda: open("/etc/passwd").read())
tries("list", lambda: os.listdir("/etc"))
tries("make", lambda: open("/tmp/new", "w"))
tries("connect", lambda: socket.socket().connect(("127.0.0.1", 1)))
tries("signal", lambda: os.kill(1, 0))
tries("urandom", lambda: open("/dev/urandom", "rb").read(1))
print("user", os.getuid(), len(os.getgroups()), flush=True)
tries("run", lambda: os.execv("/usr/bin/env", ["env"]))
sys.exit(9)
"""
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 6:  # landlock_create_ruleset(2): the version
        pytest.skip("this host's Landlock holds no signals")
    program = os.path.realpath("/usr/bin/python3")
    files = [messages.file_rule(path, ("execute", "read_file")) for path in (program, "/usr/lib", "/usr/lib64")]
    files += [messages.file_rule("/usr/lib", ("read_dir",)), messages.file_rule("/dev/urandom", ("read_file",))]
    with machine(script, program={"files": files, "own_user": True}) as one, pytest.raises(skerry.SkerryError) as caught:
        one.boot()
    text = str(caught.value)
    for what in ("read", "list", "make", "run", "connect"):
        assert f"  {what} Permission denied" in text, text
    assert "signal Operation not permitted" in text and "urandom done" in text, text
    if os.geteuid() == 0:
        (uid,) = re.findall(r"user (\d+) 0", text)
        assert 0x70000000 <= int(uid) < 0x70400000


def test_a_guest_whose_agent_has_ended_ends(machine) -> None:
    with machine("boot(); line.shutdown(socket.SHUT_RDWR); time.sleep(60)") as one:
        one.boot()
        assert one.ended.wait(20)
        assert "it closed its line" in str(one.error), one.error


def test_a_machine_without_one_of_its_helpers_ends(machine) -> None:
    script = "import time, sys; sys.stderr.write('helper: of its own\\n'); time.sleep(1); sys.exit(5)"
    helper = messages.host_program(["/usr/bin/python3", "-S", "-c", script])
    with machine("boot(); time.sleep(60)", helpers=[helper]) as one:
        one.boot()
        assert one.ended.wait(20)
        assert "its helper /usr/bin/python3 ended with status 5" in str(one.error), one.error


HOSTILE = {
    "a kind of frame": "boot(); line.sendall(bytes([77]) * 64)",
    "a length": "boot(); line.sendall(struct.pack('<BBHI', 4, 0, 65535, 1))",
    "a stream of its own": "boot(); send(3, b'\\x01', 5)",
    "another greeting": "boot(); greet()",
    "no JSON": "boot(); say(b'{')",
    "no message": "boot(); say(b'[1, 2]')",
    "deep JSON": "boot(); say(b'[' * 100000)",
    "a frame too long": "boot(); send(2, b'\\xff\\xff\\xff\\xff')",
    "an answer to nothing": "boot(); say({'id': 99, 'ok': {}})",
    "the end of nobody": "boot(); say({'event': 'exited', 'process': 7, 'status': 0, 'signal': None, 'core_dumped': False, 'usage': {}})",
    "room that nobody took": "boot(); send(7, struct.pack('<I', 4), 1); send(10, struct.pack('<I', 4))",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_guest_that_breaks_the_protocol_ends(machine, what: str) -> None:
    with machine(HOSTILE[what] + "; time.sleep(60)") as one:
        booted = one.boot()
        assert booted["limits"] == {"pids": "held, in the guest"} and "seccomp" in booted["layers"]
        assert one.ended.wait(20)
        assert "does not keep to the protocol" in str(one.error), one.error


def test_a_guest_that_says_nothing_of_an_update_ends(machine) -> None:
    with machine("boot(); _, _, data = frame(); say({'id': json.loads(data[4:])['id'], 'ok': {}}); time.sleep(60)") as one:
        one.boot()
        with pytest.raises(skerry.SkerryError, match="does not keep to the protocol"):
            one.guest.client.call("update", messages.update(memory=1 << 20), timeout=30)
    with machine("boot(); time.sleep(60)") as one:
        one.boot()
        # Of a monitor that has no control socket nothing more can be had.
        steps = messages.growth([messages.step({"execute": "x"})], cpus=1, memory=1)
        for wrong in (messages.update(machine=steps), messages.update(cpus=1.0)):
            with pytest.raises(skerry.SkerryError, match=r"control socket|started without that limit"):
                one.guest.client.call("update", wrong, timeout=30)


def test_a_limit_of_cpus_is_the_hosts_when_the_guest_has_done_its_part(machine) -> None:
    script = """
boot()
for outcome in ({"error": {"kind": "unenforceable", "message": "no room"}}, {"ok": BOOTED}):
    _, _, data = frame(); say({"id": json.loads(data[4:])["id"], **outcome})
time.sleep(60)
"""

    def quotas() -> set[str]:
        groups = Path("/sys/fs/cgroup").glob("**/skerry-*")
        files = [group / name for group in groups for name in ("cpu.max", "cpu.cfs_quota_us")]
        return {file.read_text().split()[0] for file in files if file.exists()}

    with machine(script) as one:
        one.message["limits"]["cpus"] = 0.41
        if not one.boot()["limits"].get("cpus", "").startswith("cgroup"):
            pytest.skip("no cgroup holds time here")
        assert "41000" in quotas()
        with pytest.raises(skerry.SkerryError, match="no room"):
            one.guest.client.call("update", messages.update(memory=1 << 20, cpus=0.43), timeout=30)
        assert "41000" in quotas() and "43000" not in quotas()
        one.guest.client.call("update", messages.update(memory=1 << 20, cpus=0.43), timeout=30)
        assert "43000" in quotas() and "41000" not in quotas()


def test_bytes_beyond_the_window_end_it(machine) -> None:
    script = """
boot()
streams = []
while True:
    kind, stream, data = frame()
    if kind == 3: streams.append(stream)
    if kind == 2: break
for _ in range(200): send(4, bytes(8192), streams[1])
time.sleep(60)
"""
    read, write = os.pipe()
    try:
        with machine(script) as one:
            one.boot()
            spawn = messages.spawn(
                arguments=["true"],
                environment=[],
                directory="/",
                uid=0,
                gid=0,
                groups=[],
                stdio=messages.stdio_descriptors(0, 1, 1),
            )
            with pytest.raises(skerry.SkerryError, match="more than there was room for"):
                one.guest.client.call("spawn", spawn, [read, write], timeout=30)
    finally:
        os.close(read)
        os.close(write)


def test_the_relay_tells_of_its_own_walls(machine) -> None:
    with machine("boot(); time.sleep(600)") as one:
        one.message["limits"]["cpus"] = 1.0
        booted = one.boot()
        assert set(booted["limits"]) == {"cpus", "pids"}
        assert one.guest.client.call("info", timeout=10) == booted


def test_a_monitor_that_dies_is_told_with_its_last_words(machine) -> None:
    with machine("print('Kernel panic: of its own', flush=True); boot(); os.kill(os.getpid(), 9)") as one:
        one.boot()
        assert one.ended.wait(20)
        assert "killed by signal 9" in str(one.error) and "Kernel panic: of its own" in str(one.error), one.error


@pytest.mark.parametrize("who", ["caller", "relay", "guardian"])
def test_nothing_is_left_when_one_of_them_is_killed(machine, who: str) -> None:
    with machine("boot(); os.fork() or os.setsid(); os.fork(); time.sleep(600)") as one:
        one.boot()
        pids = [one.guest.pid, *harness.descendants(one.guest.pid)]
        assert len(pids) >= 3 and harness.eventually(lambda: len(harness.descendants(one.guest.pid)) >= 5)
        pids = [one.guest.pid, *harness.descendants(one.guest.pid)]
        if who == "caller":
            one.guest.client.close()
        else:
            os.kill(pids[0] if who == "guardian" else pids[1], signal.SIGKILL)
        assert harness.eventually(lambda: not any(alive(pid) for pid in pids[1:])), pids


def test_a_guest_that_takes_nothing_outlives_nobody(machine) -> None:
    with machine("boot(); time.sleep(600)", line_holds=1 << 16) as one:
        one.boot()
        large = {"operation": "write", "path": "/x", "offset": 0, "data": "A" * 400_000, "truncate": True, "mode": 0o600}
        one.guest.client._send(frame.encode(messages.request(9, "file", large)), [])
        pids = [one.guest.pid, *harness.descendants(one.guest.pid)]
        one.guest.client._connection.shutdown(socket.SHUT_RDWR)
        assert harness.eventually(lambda: not any(alive(pid) for pid in pids[1:]), within=20), pids


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_of_the_host_a_guest_gets(tmp_path: Path) -> None:
    for name in ("shown", "hidden"):
        (tmp_path / name).mkdir()
    top = os.path.realpath(tmp_path)
    guest, jail = _machine.share(
        [
            messages.mount_overlay("/", "/"),
            messages.mount_plain("/proc", "proc"),
            messages.mount_host("/data", f"{top}/shown", writable=False),
            messages.mount_host(top, top, writable=True),
            messages.mount_plain(f"{top}/hidden", "hide"),
            messages.mount_plain(f"{top}/nosuch", "hide"),
        ]
    )
    assert [mount.get("source") for mount in guest] == ["/0", None, "/2", "/3", None, None]
    assert [(mount["target"], mount["type"]) for mount in jail] == [
        ("/machine/0", "host_read_only"), ("/machine/2", "host_read_only"), ("/machine/3", "host_read_write"),
        ("/machine/0/proc", "hide"), (f"/machine/0{top}/hidden", "hide"), ("/machine/3/hidden", "hide"),
    ]  # fmt: skip
    assert _machine.writes_back(guest) and not _machine.writes_back(guest[:3])
    assert _machine.interpreter_of(sys.executable) in (None, "/lib64/ld-linux-x86-64.so.2")


# --- a gateway: a script outside of the jail, with the monitor's frames as descriptor 3 ---

GATEWAY = r"""#!/usr/bin/python3 -IS
import json, os, socket, sys
told = json.load(sys.stdin)
frames = socket.socket(fileno=3)
"""


class Networked(Machine):
    """A machine whose network ends at a script."""

    def __init__(self, directory: Path, gateway: str, script: str, patience: float = 10) -> None:
        program = directory / "gateway"
        program.write_text(GATEWAY + gateway)
        program.chmod(0o755)
        super().__init__(script, patience, gateway=messages.gateway(program, {"addresses": ["192.0.2.0/24"]}))
        self.message["network"] = "user"


def test_a_gateway_is_outside_of_the_jail_and_has_nothing_of_the_callers(machine, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SKERRY_TEST_SECRET", "secret")
    gateway = r"""
open = sorted(os.listdir("/proc/self/fd"), key=int)[:-1]
facts = [told, dict(os.environ), open, os.getcwd(), os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/pid")]
print("ready", flush=True)
for port in (25, 25, 26):
    denied = {"protocol": "tcp", "address": "192.0.2.1", "port": port, "clause": "network.connect"}
    print(json.dumps({"denied": denied}), "no report", '{"denied": 7}', sep="\n", file=sys.stderr, flush=True)
frames.sendall(frames.recv(100) + json.dumps(facts).encode())
frames.recv(1)
"""
    script = r"""
boot()
frames = socket.socket(fileno=3)
frames.sendall(b"frame")
while True:
    kind, _, data = frame()
    if kind == 2: say({"id": json.loads(data[4:])["id"], "ok": {"data": frames.recv(4096).decode(), "end": True}})
"""
    with Networked(tmp_path, gateway, script) as one:
        one.boot()
        reply = one.guest.client.call("file", {"operation": "read", "path": "/", "offset": 0, "length": 1}, timeout=30)
        assert isinstance(reply, dict) and reply["data"].startswith("frame")
        told, environment, descriptors, directory, *spaces = json.loads(reply["data"].removeprefix("frame"))
        assert told == {"addresses": ["192.0.2.0/24"]} and descriptors == ["0", "1", "2", "3"] and directory == "/"
        assert not set(environment) - {"LC_CTYPE"}, "Python's own"
        assert spaces == [os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/pid")]
        assert harness.eventually(lambda: len(one.events) >= 2)
        assert [(event["event"], event["port"]) for event in one.events] == [("network_denied", 25), ("network_denied", 26)]


def test_what_becomes_of_a_gateway_is_told(machine, tmp_path: Path) -> None:
    ends = "print('ready', flush=True); frames.recv(1); print('no room', file=sys.stderr); sys.exit(7)"
    with Networked(tmp_path, ends, "boot(); os.write(3, b'x'); time.sleep(60)") as one:
        one.boot()
        assert one.ended.wait(30) and re.search("its gateway ended with status 7: no room", str(one.error)), one.error
    for gateway, told in (
        ("sys.exit('no such network')", "network user cannot be had here: its gateway ended with status 1: no such network"),
        ("print('reads more', flush=True); frames.recv(1)", "does not say that it is ready"),
        ("os.kill(os.getpid(), 9)", "its gateway was killed by signal 9"),
        ("import time; time.sleep(60)", "does not come up"),
    ):
        with Networked(tmp_path, gateway, "time.sleep(60)", patience=3) as one, pytest.raises(skerry.SkerryError, match=told):
            one.boot()
    with Machine("boot(); time.sleep(60)") as one:
        one.message["machine"]["gateway"] = messages.gateway("/nonexistent/gateway", {})
        with pytest.raises(skerry.SkerryError, match="go together"):
            one.boot()
        one.message["network"] = "user"
    with Networked(tmp_path, "", "") as one:
        one.message["machine"]["gateway"]["program"] = "/nonexistent/gateway"
        with pytest.raises(skerry.SkerryError, match="ended with status 126: No such file"):
            one.boot()


@pytest.mark.parametrize("engine", ["namespace", "rules"])
def test_only_a_machine_has_a_card(machine, engine: str) -> None:
    """Whatever asks: in `namespace` it would be the host's network."""
    guest = namespace.start_agent(engine, "init", lambda event: None, lambda error: None)
    try:
        boot = messages.boot(
            mounts=[messages.mount_host("/", "/", writable=False)], hostname="rock", network="user", identity="caller_is_root"
        )
        with pytest.raises(skerry.SkerryError, match="network: user cannot be had from the engine"):
            guest.client.call("boot", boot, timeout=30)
    finally:
        guest.close()
