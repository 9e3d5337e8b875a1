"""What is the engine `microvm`'s own. The guests here run under tcg."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from test_engine import Watched

import harness
import skerry
from skerry import vmm
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
        found[{"qemu-system-x86": "monitor", "virtiofsd": "server"}.get(name, name)] = pid
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
}


@pytest.mark.parametrize("who", TOLD)
def test_a_kill_while_it_runs_is_told_and_leaves_nothing(who: str) -> None:
    watched = Watched()
    with make() as sandbox:
        process = sandbox.spawn(["sleep", watched.marker], **NOTHING)
        watched.see(sandbox._guest.pid)
        os.kill(processes(sandbox)[who], signal.SIGKILL)
        for wait in (lambda: process.wait(60), lambda: sandbox.run(["true"])):
            with pytest.raises(skerry.SandboxError, match=TOLD[who]):
                wait()
    assert harness.eventually(lambda: not watched.left(), within=30), watched.left()


@pytest.mark.parametrize("who", ["relay", "monitor", "server"])
def test_a_kill_while_it_boots_or_ends_is_told_and_leaves_nothing(who: str, tmp_path: Path) -> None:
    watched = Watched()
    errors: list[BaseException] = []

    def start(sandbox: skerry.Sandbox) -> None:
        try:
            sandbox.start()
        except skerry.SkerryError as error:
            errors.append(error)

    # Without a snapshot it takes seconds.
    booting = make(snapshot="never")
    before = set(harness.descendants(os.getpid()))
    thread = threading.Thread(target=start, args=[booting])
    thread.start()
    found = harness.eventually(lambda: started_since(before), within=60)
    assert found, "it does not start"
    for pid in found.values():
        watched.see(pid)
    os.kill(found[who], signal.SIGKILL)
    thread.join(60)
    assert len(errors) == 1 and TOLD[who] in str(errors[0]), errors
    assert harness.eventually(lambda: not watched.left(), within=30), watched.left()
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
