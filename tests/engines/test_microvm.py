"""What is the engine `microvm`'s own. The guests here run under tcg."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_engine import Watched

import harness
import skerry
from skerry import vmm
from skerry.engines import microvm
from skerry.policy import _verify
from skerry.vmm import accel, image


@pytest.fixture(autouse=True)
def usable(native_only: bool) -> None:
    if native_only:
        pytest.skip("--native-only")
    harness.usable_engine("microvm")


def make(**options: object) -> skerry.Sandbox:
    return skerry.Sandbox(**{"engine": "microvm", "accel": "tcg", "cwd": "/", **options})


def test_guests_of_one_snapshot_have_their_own_random_numbers_and_the_time() -> None:
    told = []
    for _ in range(2):
        with make() as sandbox:
            told.append(sandbox.run(["cat", "/proc/sys/kernel/random/uuid"], text=True).stdout)
            now = float(sandbox.run(["date", "+%s.%N"], text=True).stdout)
            assert abs(now - time.time()) < 20
            machine = sandbox.info().machine
    assert len(told[0]) == 37 and told[0] != told[1]
    assert machine["accel"] == "tcg: asked for" and machine["monitor"] == "qemu" and machine["kernel"] != os.uname().release
    assert {"virtio_console", "virtiofs", "virtio_balloon", "virtio_rng"} <= set(machine["virtual devices"].split(", "))
    assert machine["entropy"].startswith("virtio_rng") and machine["start"] == "snapshot"


def test_the_small_machine() -> None:
    with make(vmm="qemu-microvm", memory="256m") as sandbox:
        assert sandbox.run(["uname", "-r"], text=True).stdout.strip() != os.uname().release
        assert sandbox.info().machine["start"] == "boot"
        with pytest.raises(skerry.Unenforceable, match="use --vmm qemu"):
            sandbox.update(memory="1g")


def test_hardware_that_does_not_run_it_is_an_error_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(skerry.Unenforceable, match="its level is 3"):
        make(min_isolation=4).start()
    monkeypatch.setattr(accel, "KVM", "/dev/skerry-none")
    with pytest.raises(skerry.Unenforceable, match="kvm does not work here: /dev/skerry-none"):
        make(accel="kvm").start()
    with pytest.raises(skerry.Unenforceable) as caught:
        skerry.Sandbox(engine="namespace", accel="tcg").start()
    assert (caught.value.option, caught.value.engine) == ("accel", "namespace")


@pytest.mark.parametrize("monitor", ["firecracker", "cloud-hypervisor", "xen"])
def test_monitors_that_were_never_run_say_so(monitor: str) -> None:
    with pytest.raises(skerry.EngineUnavailable, match="not run on hardware"):
        make(vmm=monitor).start()


# --- the jail of what runs the machine ---


def processes(sandbox: skerry.Sandbox) -> dict[str, int]:
    """Of a sandbox, by what they are."""
    return named([sandbox._guest.pid, *harness.descendants(sandbox._guest.pid)])


def named(pids: list[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for pid in pids:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        if name.startswith("skerry-machine"):
            name = "relay" if "guardian" in found else "guardian"
        found[{"qemu-system-x86": "monitor", "virtiofsd": "server", "skerry-gateway": "gateway"}.get(name, name)] = pid
    return found


def status(pid: int) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))


def test_what_runs_the_machine_is_in_a_jail() -> None:
    with make(require=["landlock", "no_capabilities"]) as one, make() as other:
        users = set()
        for sandbox in (one, other):
            pids = processes(sandbox)
            monitor, server = status(pids["monitor"]), status(pids["server"])
            for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(monitor[field], 16) == 0, (field, monitor)
            assert int(server["CapEff"], 16) & ~0xDB == int(server["CapBnd"], 16) == 0
            for held in (monitor, server):
                # Ours, and one of its own.
                assert (held["NoNewPrivs"], held["Seccomp"], held["Seccomp_filters"]) == ("1", "2", "2"), held
            for space in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
                assert os.readlink(f"/proc/{pids['monitor']}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}"), space
            assert "Landlock ABI" in sandbox.info().machine["jail"]
            users.add(monitor["Uid"])
            if os.geteuid() == 0:
                (uid,), (gid,) = set(monitor["Uid"].split()), set(monitor["Gid"].split())
                assert 0x70000000 <= int(uid) < 0x70400000 and uid == gid and not monitor["Groups"].strip()
                assert f"user {uid}" in sandbox.info().machine["jail"]
            # Nothing of the host's is open but what it was given.
            opened = [
                os.readlink(f"/proc/{pids['monitor']}/fd/{number}") for number in os.listdir(f"/proc/{pids['monitor']}/fd")
            ]
            assert {path for path in opened if path.startswith("/")} <= {"/dev/shm/memory", "/dev/urandom", "/dev/null"}, opened
        assert len(users) == (2 if os.geteuid() == 0 else 1), "one monitor could get at the other's"


# --- kills: what the caller hears, and that nothing is left ---

NOTHING = {"stdin": skerry.DEVNULL, "stdout": skerry.DEVNULL, "stderr": skerry.DEVNULL}

TOLD = {
    "guardian": "was killed by SIGKILL",
    "relay": "was killed by SIGKILL",
    "monitor": "its monitor was killed by signal 9",
    "server": "virtiofsd was killed by signal 9",
    "gateway": "its gateway was killed by signal 9",
}


def kill_while_it_runs(who: str, **options: Any) -> None:
    watched = Watched()
    with make(**options) as sandbox:
        process = sandbox.spawn(["sleep", watched.marker], **NOTHING)
        watched.see(sandbox._guest.pid)
        os.kill(processes(sandbox)[who], signal.SIGKILL)
        for wait in (lambda: process.wait(60), lambda: sandbox.run(["true"])):
            with pytest.raises(skerry.SandboxError, match=TOLD[who]):
                wait()
    assert harness.eventually(lambda: not watched.left(), within=30), watched.left()


def kill_while_it_boots(who: str, **options: Any) -> None:
    """Without a snapshot that takes seconds."""
    watched = Watched()
    errors: list[BaseException] = []
    booting = make(snapshot="never", **options)

    def start() -> None:
        try:
            booting.start()
        except skerry.SkerryError as error:
            errors.append(error)

    before = set(harness.descendants(os.getpid()))
    thread = threading.Thread(target=start)
    thread.start()
    found = harness.eventually(lambda: started_since(before), within=60)
    assert found, "it does not start"
    for pid in found.values():
        watched.see(pid)
    os.kill(found[who], signal.SIGKILL)
    thread.join(60)
    assert len(errors) == 1 and TOLD[who] in str(errors[0]), errors
    assert harness.eventually(lambda: not watched.left(), within=30), watched.left()


@pytest.mark.parametrize("who", ["guardian", "relay", "monitor", "server"])
def test_a_kill_while_it_runs_is_told_and_leaves_nothing(who: str) -> None:
    kill_while_it_runs(who)


@pytest.mark.parametrize("who", ["relay", "monitor", "server"])
def test_a_kill_while_it_boots_or_ends_is_told_and_leaves_nothing(who: str, tmp_path: Path) -> None:
    kill_while_it_boots(who)
    watched = Watched()
    # It is asked to end, and given time, where it may hold writes to the host's files.
    ending = make(read_write=[tmp_path]).start()
    assert ending.run(["sh", "-c", f"echo kept > {tmp_path}/file; sync"]).returncode == 0
    watched.see(ending._guest.pid)
    pid = processes(ending)[who]
    thread = threading.Thread(target=ending.close)
    thread.start()
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive() and (tmp_path / "file").read_text() == "kept\n"
    assert harness.eventually(lambda: not watched.left(), within=30), watched.left()


def started_since(before: set[int]) -> dict[str, int] | None:
    """What is there of a machine, when all of it is."""
    try:
        found = named([pid for pid in harness.descendants(os.getpid()) if pid not in before])
    except FileNotFoundError:
        return None
    return found if "monitor" in found else None


def test_a_kill_of_the_caller_leaves_nothing(ourselves: harness.Caller) -> None:

    watched = Watched()
    words = [
        *ourselves.command,
        "do",
        "--engine",
        "microvm",
        "--accel",
        "tcg",
        "--",
        "sh",
        "-c",
        f"echo up; sleep {watched.marker}",
    ]
    process = subprocess.Popen(words, cwd="/", stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    watched.see(process.pid)
    process.kill()
    process.wait(30)
    process.stdout.close()
    assert harness.eventually(lambda: not watched.left(), within=30), watched.left()


def test_nobody_inside_reaches_the_agent() -> None:
    """Its first process is none of the programs' to kill, nor is what is above that; the rest of them is root's."""
    with make() as sandbox:
        other = sandbox.spawn(["sleep", "600"], **NOTHING)
        script = "kill -9 1; kill -9 -1; kill -9 -- -0; exit 3"
        assert sandbox.run(["sh", "-c", script]).returncode in (3, 137)
        assert other.wait(60) == 137
        assert sandbox.run(["sh", "-c", "echo o > /proc/sysrq-trigger; reboot -f; echo $$; kill -9 $$"]).returncode == 137
        assert sandbox.run(["true"]).returncode == 0


def test_the_caller_as_itself(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        script = f"id -u; echo x > {work}/file; mkdir {work}/directory; chmod 640 {work}/file; stat -c '%u %a' {work}/file"
        options = ["--engine", "microvm", "--accel", "tcg", "--user", "caller", "--rw", str(work)]
        done = caller.do(options, ["sh", "-c", script], cwd="/")
        uid = caller.owner[0]
        assert (done.stdout, done.returncode) == (f"{uid}\n{uid} 640\n", 0), done
        assert (work / "file").stat().st_uid == (work / "directory").stat().st_uid == uid


# --- the network ---


@pytest.fixture
def served() -> Iterator[tuple[str, int]]:
    """A server at an address of the host's that is not loopback: says hello and no more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError as error:
            pytest.skip(f"the host has no network: {error.strerror}")
        own = asked.getsockname()[0]
    listener = socket.create_server((own, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"hello\n")

    threading.Thread(target=serve, daemon=True).start()
    yield own, listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A server of the names that the test puts into it, which the gateway finds as the host's programs find theirs."""
    names: dict[str, str] = {}
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        asked.bind(("127.0.0.77", 53))
    except OSError as error:
        pytest.skip(f"a server of names takes port 53: {error.strerror}")

    def serve() -> None:
        while True:
            try:
                query, who = asked.recvfrom(512)
            except OSError:
                return
            if len(query) < 17:
                return
            end = query.index(b"\0", 12)
            labels, at = [], 12
            while at < end:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            address = names.get(".".join(labels).lower())
            is_four = query[end + 1 : end + 3] == b"\0\1"
            flags, count = (0x8180, int(is_four)) if address else (0x8183, 0)
            answer = query[:2] + struct.pack(">5H", flags, 1, count, 0, 0) + query[12 : end + 5]
            if count:
                answer += struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(str(address))
            asked.sendto(answer, who)

    file = tmp_path / "resolv.conf"
    file.write_text("# of the test\nsearch secret.example\nnameserver 127.0.0.77\n")
    monkeypatch.setattr(microvm, "RESOLVERS", str(file))
    thread = threading.Thread(target=serve)
    thread.start()
    yield names
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(b"end", ("127.0.0.77", 53))
    thread.join(10)
    asked.close()


#: Programs that start soon: QEMU's tcg takes ten seconds for a Python that imports something.
HELLO = "exec 3<>/dev/tcp/{}/{} && cat <&3"


def denials(events: list[Mapping[str, Any]]) -> set[tuple[object, ...]]:
    found = [event for event in events if event["event"] == "network_denied"]
    return {(event["protocol"], event["address"], event["clause"]) for event in found}


def test_the_network_reaches_what_the_policy_names(served: tuple[str, int], resolver: dict[str, str]) -> None:
    own, port = served
    resolver["skerry.test"] = own
    said = {"mode": "user", "addresses": [own], "domains": ["skerry.test"], "connect": [f"tcp:{port}"]}
    events: list[Mapping[str, Any]] = []
    with make(policy=skerry.Policy(network=said), events=events.append, cpus=1) as sandbox:
        # Root inside cannot take it away, nor widen it: it is not its own.
        script = "ip link set eth0 down; ip route add 192.0.2.99 dev lo; echo 9.9.9.9 > /etc/resolv.conf; cat /etc/resolv.conf"
        assert sandbox.run(["bash", "-c", script], text=True).stdout == "nameserver 10.0.2.3\n"
        names = sandbox.run(["sh", "-c", "tail -n +3 /proc/net/dev | cut -d: -f1"], text=True).stdout.split()
        assert sorted(names) == ["eth0", "lo"]
        for name in (own, "skerry.test"):
            assert sandbox.run(["bash", "-c", HELLO.format(name, port)], text=True, timeout=60).stdout == "hello\n", name
        assert sandbox.run(["getent", "ahostsv4", "other.test"], timeout=60).returncode == 2
        assert sandbox.run(["getent", "ahostsv4", "skerry.test"], timeout=60, text=True).stdout.startswith(own)
        others = [(own, 9), ("192.0.2.9", port), ("169.254.169.254", port), ("10.0.2.2", port), ("127.0.0.1", port)]
        script = "; ".join(f"timeout 30 bash -c ': > /dev/tcp/{host}/{number}' && echo reached" for host, number in others)
        assert sandbox.run(["bash", "-c", script], text=True, timeout=200).stdout == ""
        expected = {
            ("dns", "other.test", "network.domains"),
            ("tcp", own, "network.connect"),
            ("tcp", "192.0.2.9", "network.domains"),
            ("tcp", "169.254.169.254", "network.mode"),
            ("tcp", "10.0.2.2", "network.mode"),
        }
        assert harness.eventually(lambda: denials(events) == expected, within=10), denials(events)
        assert sandbox.info().machine["network"].startswith("user")
        assert "virtio_net" in sandbox.info().machine["virtual devices"]
        gateway = processes(sandbox)["gateway"]
        held = status(gateway)
        assert Path(f"/proc/{gateway}/environ").read_bytes() == b""
        assert int(held["CapPrm"], 16) == int(held["CapEff"], 16) == 0 and (held["NoNewPrivs"], held["Seccomp"]) == ("1", "2")
        assert os.geteuid() != 0 or "0" not in held["Uid"].split()
        groups = {Path(f"/proc/{processes(sandbox)[who]}/cgroup").read_text() for who in ("gateway", "monitor")}
        assert len(groups) == 1 and os.sched_getaffinity(gateway) == os.sched_getaffinity(processes(sandbox)["monitor"])
        found = skerry_explained(events)
        assert 'add "tcp:9" to network.connect' in found and 'add "other.test" to network.domains' in found, found


def skerry_explained(events: list[Mapping[str, Any]]) -> list[str]:
    from skerry.policy._explain import Explainer

    return [finding.allow for finding in Explainer({"engine": "microvm"}).explain(events)]


def test_its_clauses_are_verified(served: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is taken out on purpose is found."""
    own, port = served
    said = {"mode": "user", "addresses": [own], "domains": ["skerry.test"], "connect": [f"tcp:{port}"]}
    monkeypatch.setenv(_verify.TEST_SWITCH, "network.connect")
    rows = _verify.verify(skerry.Policy(network=said), ["microvm"])
    held = {(row.clause, row.expected): row.held for row in rows if row.probe.startswith(("connect", "ask"))}
    assert held == {
        ("network.mode", "denied"): True,
        ("network.addresses", "denied"): True,
        ("network.addresses", "not denied"): True,
        ("network.connect", "denied"): False,
        ("network.domains", "denied"): True,
        ("network.domains", "not denied"): True,
    }, [row.as_dict() for row in rows]


@pytest.mark.parametrize(
    "options", [{"snapshot": "never"}, {"vmm": "qemu-microvm", "memory": "256m"}], ids=["booted", "qemu-microvm"]
)
def test_the_network_of_machines_that_boot(served: tuple[str, int], options: dict[str, str]) -> None:
    """And its own host is out of reach where it is not named."""
    own, port = served
    events: list[Mapping[str, Any]] = []
    policy = skerry.Policy(network={"mode": "user", "addresses": [own]})
    with make(policy=policy, **options) as sandbox:
        assert sandbox.run(["bash", "-c", HELLO.format(own, port)], text=True, timeout=60).stdout == "hello\n"
    with make(network="user", events=events.append, **options) as sandbox:
        assert sandbox.run(["bash", "-c", HELLO.format(own, port)], timeout=60).returncode == 1
        assert harness.eventually(lambda: denials(events) == {("tcp", own, "network.mode")}, within=10), events


def test_what_the_network_cannot_be_is_refused_by_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for monitor in ("firecracker", "cloud-hypervisor", "xen"):
        with pytest.raises(skerry.Unenforceable, match=f"network.*cards of {monitor} are taps"):
            make(vmm=monitor, network="user").start()
    for clause, value in (("addresses", ["192.0.2.0/24"]), ("domains", ["example.org"])):
        with pytest.raises(skerry.Unenforceable, match=rf'network\.{clause}.*mode = "user"'):
            make(policy=skerry.Policy(network={clause: value})).start()
    with pytest.raises(skerry.Unenforceable, match=r"network\.bind.*nobody outside"):
        make(policy=skerry.Policy(network={"mode": "user", "bind": ["tcp:80"]})).start()
    # What the gateway does not take, it says.
    monkeypatch.setattr(microvm, "host_resolvers", lambda: ["nowhere"])
    with pytest.raises(skerry.SkerryError, match="network user cannot be had here: its gateway ended with status 1: .*nowhere"):
        make(network="user").start()


def test_the_network_of_an_image_and_of_a_name_that_leads_elsewhere(tree: Path) -> None:
    if reason := harness.missing("mkfs.erofs"):
        pytest.skip(reason)
    (tree / "etc/resolv.conf").symlink_to("../run/somebody/stub.conf")
    with make(root_image=tree, network="user") as sandbox:
        assert sandbox.run(["cat", "/etc/resolv.conf"], text=True).stdout == "nameserver 10.0.2.3\n"


@pytest.mark.parametrize("who", TOLD)
def test_a_kill_where_there_is_a_network_is_told_and_leaves_nothing(who: str) -> None:
    kill_while_it_runs(who, network="user")


@pytest.mark.parametrize("who", ["gateway", "guardian", "relay", "monitor"])
def test_a_kill_while_a_network_comes_up_leaves_nothing(who: str) -> None:
    kill_while_it_boots(who, network="user")


def test_the_network_of_a_caller(caller: harness.Caller, served: tuple[str, int]) -> None:
    """Who has no privileges has a gateway too; it ends with a caller that is killed."""
    own, port = served
    watched = Watched()
    with caller.workspace() as work:
        (work / "policy.toml").write_text(f'[network]\nmode = "user"\naddresses = ["{own}"]\n')
        words = [*caller.command, "do", "--engine", "microvm", "--accel", "tcg", "--policy", str(work / "policy.toml"), "--"]
        words += ["bash", "-c", f"{HELLO.format(own, port)}; sleep {watched.marker}"]
        process = subprocess.Popen(words, cwd="/", env=caller.environment(work), stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"hello\n"
        assert "skerry-gateway" in [Path(f"/proc/{pid}/comm").read_text().strip() for pid in watched.see(process.pid)]
        process.kill()
        process.wait(30)
        process.stdout.close()
        assert harness.eventually(lambda: not watched.left(), within=30), watched.left()


def test_a_real_download() -> None:
    """By the names and certificates of the world: what pip asks for by itself."""
    if reason := harness.missing("curl"):
        pytest.skip(reason)
    asked = [sys.executable, "-c", "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"]
    index = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    words = ["curl", "-fsS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}\n", f"{index}/pip/"]
    outside = subprocess.run(words, capture_output=True, text=True, timeout=100)
    if outside.returncode:
        pytest.skip(f"the host reaches nothing: {outside.stderr.strip()}")
    with make(network="user", inherit_env="all") as sandbox:
        done = sandbox.run(words, text=True, timeout=100)
        assert done.stdout == "200\n", done


# --- the tree on a disk ---


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A shell and a few programs, with their libraries."""
    top = tmp_path / "tree"
    for program in ("sh", "cat", "stat", "ls"):
        path = Path(f"/bin/{program}")
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for needed in (str(path), *re.findall(r"/\S+", listed)):
            place = top / needed.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(Path(needed).read_bytes())
            place.chmod(0o755)
    (top / "etc").mkdir()
    (top / "etc/file").write_text("one")
    (top / "etc/file").chmod(0o640)
    return top


def test_the_tree_is_an_image_of_a_directory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := harness.missing("mkfs.erofs"):
        pytest.skip(reason)
    script = (
        "cat /etc/file; stat -c ' %u %a' /etc/file; echo new > /etc/file; echo x > /more; cat /etc/file /more; ls -d /usr /srv"
    )
    with make(root_image=tree) as sandbox:
        # Its own files, all of them, and nobody else's; what is written is not kept.
        done = sandbox.run(["sh", "-c", script], text=True)
        usr = "/usr\n" if (tree / "usr").exists() else ""
        assert done.stdout == f"one {os.geteuid()} 640\nnew\nx\n{usr}", done
        assert sandbox.info().machine["tree"] == "erofs:/dev/vda"
        assert "server" not in processes(sandbox)
    (tree / "etc/file").write_text("two")  # of the same length
    with make(root_image=tree) as sandbox:
        assert sandbox.run(["cat", "/etc/file"], text=True).stdout == "two"
    for option in ({"read_write": [tree]}, {"hide": [tree / "etc"]}, {"read_only": [tree]}):
        with pytest.raises(skerry.Unenforceable, match="the tree comes from an image"):
            make(root_image=tree, **option).start()
    monkeypatch.setattr(image, "_MAKERS", ("mkfs.none",))
    with pytest.raises(skerry.EngineUnavailable, match="erofs-utils"):
        make(root_image=tree).start()


def test_the_tree_is_an_image_that_is_given(tree: Path, tmp_path: Path) -> None:
    """One that only its owner can read, on both machines; what it is says it itself."""
    given = tmp_path / "given"
    if reason := harness.missing("/usr/sbin/mkfs.ext4"):
        pytest.skip(reason)
    words = ["/usr/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, given, "32M"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=60)
    given.chmod(0o400)
    with make(root_image=given) as sandbox:
        assert sandbox.run(["sh", "-c", "cat /etc/file; echo x > /etc/file; cat /etc/file"], text=True).stdout == "onex\n"
        assert sandbox.info().machine["tree"] == "ext4:/dev/vda"
    given.chmod(0o444)
    with make(root_image=given, vmm="qemu-microvm") as sandbox:
        assert sandbox.run(["cat", "/etc/file"], text=True).stdout == "one"
    for wrong, match in ((__file__, "neither an image"), ("/", "the host's whole tree")):
        with pytest.raises(skerry.UsageError, match=match):
            make(root_image=wrong).start()
    with pytest.raises(skerry.Unenforceable, match="virtual machines"):
        skerry.Sandbox(engine="namespace", root_image=given).start()


# --- a machine that grows ---


def test_memory_and_cpus_are_plugged_in_while_it_runs() -> None:
    both = len(os.sched_getaffinity(0)) > 1
    try:
        sandbox = make(memory="128m", **({"cpus": 1} if both else {})).start()
    except skerry.LayerUnavailable as error:
        pytest.skip(str(error))

    def takes(mib: int) -> int:
        return sandbox.run(["/usr/bin/python3", "-c", f"b'x' * ({mib} << 20)"], timeout=100).returncode

    def seen() -> tuple[int, int]:
        told = sandbox.run(["sh", "-c", "nproc; grep MemTotal /proc/meminfo"], text=True).stdout.split()
        return int(told[0]), int(told[2]) >> 10

    with sandbox:
        before = seen()
        changed: dict[str, object] = {"memory": "400m"}
        if both and sandbox.info().limits["cpus"].startswith("cgroup"):
            changed["cpus"] = 2
        told = sandbox.update(**changed)
        cpus, memory = seen()
        assert memory >= before[1] + 240 and cpus == (2 if "cpus" in changed else before[0]), (before, cpus, memory)
        assert told.machine["cpus"] == sandbox.info().machine["cpus"] == ("0-1" if cpus == 2 else told.machine["cpus"])
        assert takes(300) == 0
        for option, more in (("memory", "100000g"), ("cpus", 4096)):
            if option in changed:
                with pytest.raises(skerry.Unenforceable, match="the host has none"):
                    sandbox.update(**{option: more})


def test_a_change_that_fails_half_way_is_counted_as_far_as_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the limits as they were; the same change is done when it is asked for again."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU only")
    try:
        sandbox = make(memory="128m", cpus=1).start()
    except skerry.LayerUnavailable as error:
        pytest.skip(str(error))

    def memory() -> int:
        told = sandbox.run(["sh", "-c", "nproc; grep MemTotal /proc/meminfo"], text=True).stdout.split()
        assert told[0] == "1"
        return int(told[2]) >> 10

    with sandbox:
        if not sandbox.info().limits["cpus"].startswith("cgroup"):
            pytest.skip(sandbox.info().limits["cpus"])
        driver, before = sandbox._engine._monitor, memory()
        real_memory, real_cpu = driver.plug_memory, driver.plug_cpu
        wrong = vmm.Request("device_add", "", {"driver": "none-such"})
        # A module of which the monitor takes one half.
        monkeypatch.setattr(driver, "plug_memory", lambda number, size: [real_memory(number, size)[0], wrong])
        with pytest.raises(skerry.SkerryError, match=r"the machine cannot be changed: .*none-such"):
            sandbox.update(memory="400m", cpus=2)
        assert memory() == before
        monkeypatch.setattr(driver, "plug_memory", real_memory)
        # Memory, and no CPU.
        monkeypatch.setattr(driver, "plug_cpu", lambda number, machine: [wrong])
        with pytest.raises(skerry.SkerryError, match=r"the machine cannot be changed: .*none-such"):
            sandbox.update(memory="400m", cpus=2)
        assert harness.eventually(lambda: memory() >= before + 240)
        grown = memory()
        words = ["/usr/bin/python3", "-c", "b'x' * (300 << 20)"]
        assert sandbox.run(words, timeout=100).returncode == 137, "the limit stays"
        assert sandbox._options.memory == 128 << 20 and sandbox._options.cpus == 1
        monkeypatch.setattr(driver, "plug_cpu", real_cpu)
        # What is there is not plugged in again.
        assert sandbox.update(memory="400m", cpus=2).machine["cpus"] == "0-1"
        told = sandbox.run(["sh", "-c", "nproc; grep MemTotal /proc/meminfo"], text=True).stdout.split()
        assert told[0] == "2" and abs((int(told[2]) >> 10) - grown) < 64, (told, grown)
        assert sandbox.run(words, timeout=100).returncode == 0
