"""The engine `unikernel`: images written here against the published ABI (unikernel/), what they may do and what kills them."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import harness
import skerry
from skerry.engines.sentry import find_beside

pytestmark = pytest.mark.sandbox


@pytest.fixture
def do(images: Path, caller: harness.Caller) -> Callable[..., harness.Completed]:
    """`skerry do --engine unikernel`, as root and as nobody: the words of the first argument, in the image named `image`."""

    def run(words: str, *options: str, image: str = "tasks", **rest: object) -> harness.Completed:
        return caller.do(["--engine", "unikernel", *options], [images / image, *words.split()], cwd="/", **rest)

    return run


@pytest.fixture
def tend(images: Path) -> Callable[..., harness.Completed]:
    """The tender itself."""

    def run(words: str, *options: str, image: str | Path = "tasks") -> harness.Completed:
        return harness.run([find_beside("skerry-tender"), *options, "--", images / image, *words.split()], timeout=30)

    return run


def test_status_console_and_words(do) -> None:
    assert do("hello a b").stdout == "hello, a b\n"
    assert do("exit 7").returncode == 7
    done = do("abort")
    assert (done.returncode, done.stdout, done.stderr) == (255, "aborted\n", ""), done
    assert do("time").stdout.startswith("waited\nwall ")
    assert do("tls").stdout == "thread 77\n"


def test_it_starts_as_the_abi_says(tend) -> None:
    """Memory, registers, and nothing of the tender's; memory is whole pages."""
    facts = dict(line.split() for line in tend("boot", "--memory", str((4 << 20) + 5)).stdout.splitlines())
    assert facts == {
        "memory": str(4 << 20), "end": facts["end"], "devices": "1", "argument": str(0x11000), "stack": str((4 << 20) - 8),
        "others": "0", "direction": "0",
    }  # fmt: skip
    assert int(facts["end"]) % 4096 == 0 and 1 << 20 < int(facts["end"]) < 2 << 20


#: Tasks that do what a processor does not let them, with the signals of it; of both ABIs.
FAULTS = [
    ("null 0", signal.SIGSEGV),
    ("null 61440", signal.SIGSEGV),
    ("undefined", signal.SIGILL),
    ("divide", signal.SIGFPE),
    ("write-text", signal.SIGSEGV),
    ("run-data", signal.SIGSEGV),
    ("run-stack", signal.SIGSEGV),
    ("thread-pointer", signal.SIGSEGV),
]


@pytest.mark.parametrize(("task", "number"), [*FAULTS, ("int80", signal.SIGSYS)])
def test_faults_are_the_signals_of_a_program(tend, task: str, number: int) -> None:
    assert tend(task).returncode == -number


def test_a_fault_is_told_as_a_shell_does(do) -> None:
    assert do("null 0").returncode == 128 + signal.SIGSEGV
    assert do("call 39").returncode == 128 + signal.SIGSYS


#: Linux lets uretprobe and uprobe past every filter (from 6.13 on): they do nothing but in traps of a tracer's making.
UNFILTERED = (335, 336)
#: The numbers of the calls that an image without devices may make.
ALLOWED = {1: "write", 158: "arch_prctl", 228: "clock_gettime", 231: "exit_group", 281: "epoll_pwait", 286: "timerfd_settime"}


def test_each_call_that_is_not_allowed_kills(images: Path, tend) -> None:
    """All that the host may know, those of 32 bits and x32 among them; in the end a look at all numbers that are allowed."""
    tender = find_beside("skerry-tender")
    special = (2, 9, 41, 56, 59, 62, 101, 257, 317, 0x40000001, 0x400000E7)
    numbers = [number for number in (*range(0, 470, 3), *special) if number not in ALLOWED and number not in UNFILTERED]
    for start in range(0, len(numbers), 16):
        batch = [
            subprocess.Popen([tender, images / "tasks", "call", str(n), "1", "0", "0"], stdout=subprocess.PIPE)
            for n in numbers[start : start + 16]
        ]
        for number, process in zip(numbers[start:], batch, strict=False):
            out, _ = process.communicate(timeout=30)
            assert (process.returncode, out) == (-signal.SIGSYS, b"before\n"), number
    for words in (
        "call 1 2 data 3",  # standard error
        "call 1 0 data 3",
        "call 0 0 data 3",
        "call 228 2 data",  # another clock
        "call 158 4097 data",  # ARCH_SET_GS
        "call 286 1 1 data 0",  # another descriptor
        "call 281 1 data 1 0 0",
        "call 17 1 data 512 0",
    ):
        assert tend(words).returncode == -signal.SIGSYS, words
    assert tend("call 1 1 data 4").stdout == "before\ndataanswer 4\n"
    assert tend("call 228 1 4096").stdout == "before\nanswer -14\n"


def test_options_that_it_cannot_hold_are_refused_by_name(do, images: Path, tmp_path: Path) -> None:
    for options, name in (
        (("--rw", "/tmp"), "--rw"),
        (("--ro", "/usr"), "--ro"),
        (("--tmpfs", "/tmp"), "--tmpfs"),
        (("-e", "A=1"), "--env"),
        (("--hostname", "rock"), "--hostname"),
        (("--network", "loopback"), "network"),
        (("--trace",), "--trace"),
        (("-t",), "pty"),
        (("--policy", "python"), "unikernel"),
    ):
        done = do("hello", *options)
        assert done.returncode == 2 and name in done.stderr and "unikernel" in done.stderr, done
    with skerry.Sandbox(engine="unikernel") as sandbox:
        with pytest.raises(skerry.Unenforceable, match="files"):
            sandbox.files.read("/etc/passwd")
        with pytest.raises(skerry.Unenforceable, match="pty"):
            sandbox.spawn([images / "tasks"], pty=True)
        with pytest.raises(skerry.Unenforceable, match="env"):
            sandbox.run([images / "tasks"], env={"A": "1"})
    with pytest.raises(skerry.Unenforceable, match="block"):
        skerry.Sandbox(block={"storage": "/etc/passwd"}).start()


def test_nothing_is_chosen_by_itself_that_runs_images_only(ourselves: harness.Caller) -> None:
    assert ourselves.do(["--engine", "auto"], ["true"], cwd="/").returncode == 0


def test_timeouts_signals_and_output(images: Path, do) -> None:
    start = time.monotonic()
    assert do("spin", "--timeout", "300ms").returncode == 124
    assert time.monotonic() - start < 20
    with skerry.Sandbox(engine="unikernel", memory="4m") as sandbox:
        with sandbox.spawn([images / "tasks", "sleep"]) as process:
            assert process.stdout.readline() == b"up\n"
            assert [state.process for state in sandbox.processes()] == [process.id]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 128 + signal.SIGTERM
        assert sandbox.run([images / "tasks", "hello", "you"], text=True).stdout == "hello, you\n"
        with sandbox.spawn([images / "tasks", "flood"]) as process:
            assert len(process.stdout.read(1 << 20)) == 1 << 20
            process.stdout.close()
            assert process.wait(20) == 128 + signal.SIGPIPE
        with pytest.raises(skerry.TimeoutExpired):
            sandbox.run([images / "tasks", "spin"], timeout=0.2)


def test_memory_is_the_limit(do) -> None:
    assert "memory 8388608" in do("boot", "--memory", "8m").stdout
    for size, status, message in (("512k", 126, "give it more"), ("256t", 125, "ask for less")):
        done = do("boot", "--memory", size)
        assert done.returncode == status and message in done.stderr, done


# --- devices ---


def test_a_block_device(do, caller: harness.Caller) -> None:
    with caller.workspace() as work:
        disk = work / "disk"
        disk.write_bytes(bytes(64 << 10))
        os.chown(disk, *caller.owner)
        for options, block in (("", 512), (",size=4096", 4096)):
            done = do("block", "--block", f"storage={disk}{options}", image="storage")
            assert done.stdout == f"capacity 65536\nblock {block}\nall blocks\n", done
        assert disk.read_bytes() == bytes((index // 4096 + index % 4096) & 0xFF for index in range(64 << 10))
        # What is read-only is not written to, and says so (EROFS).
        done = do("transfer write 512 0", "--block", f"storage={disk},ro", image="storage")
        assert done.stdout == "before\nanswer -30\n", done
        assert do("transfer read 512 0", "--block", f"storage={disk},ro", image="storage").stdout == "before\nanswer 512\n"
        os.chmod(disk, 0o444)
        if caller.owner[0] != 0:
            done = do("block", "--block", f"storage={disk}", image="storage")
            assert done.returncode == 125 and "Permission denied" in done.stderr, done
        assert disk.stat().st_size == 64 << 10


@pytest.mark.parametrize(
    ("transfer", "allowed"),
    [
        ("write 512 0", True),
        ("read 512 7680", True),
        ("read 512 8192", False),
        ("write 512 7681", False),
        ("write 512 -512", False),
        ("read 1024 0", False),
        ("read 0 0", False),
        ("read 4294967808 0", False),
        ("read 512 4294967296", False),
    ],
)
def test_a_block_in_its_place_and_nothing_else(tend, tmp_path: Path, transfer: str, allowed: bool) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8192))
    done = tend(f"transfer {transfer}", "--block", f"storage={disk}", image="storage")
    expected = (0, "before\nanswer 512\n") if allowed else (-signal.SIGSYS, "before\n")
    assert (done.returncode, done.stdout) == expected, done
    assert disk.stat().st_size == 8192


def test_devices_and_wishes_must_meet(tend, do, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1000))
    for options, message in (
        ((), "wants the block device 'storage': give --block storage=FILE"),
        (("--block", f"store={disk}"), "the image wants no block device 'store': its manifest has the block device 'storage'"),
        (("--net", "storage=tap:tap0"), "the image wants no net device 'storage'"),
        (("--block", f"storage={disk}"), "its size is 1000 bytes"),
        (("--block", "storage=/dev/null"), "neither a regular file nor a block device"),
        (("--block", f"storage={tmp_path}"), "Is a directory"),
        (("--block", f"storage={disk}x"), "No such file"),
    ):
        done = tend("devices", *options, image="storage")
        assert done.returncode == 125 and message in done.stderr and not done.stdout, done
    for option, value in (("--block", f"storage={disk}x"), ("--block", "storage"), ("--net", "service=eth0")):
        done = do("devices", option, value, image="devices")
        assert done.returncode == 2 and option in done.stderr, done


def test_a_net_device_of_a_socket(images: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(20)
    with ours, theirs:
        options = ["--net", f"service=fd:{theirs.fileno()}", "--mac", "service=02:00:00:00:00:07", "--block", f"storage={disk}"]
        process = subprocess.Popen(
            [find_beside("skerry-tender"), *options, images / "devices", "echo"],
            pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for payload in (b"one!", b"x" * 1400, b"end!"):
            ours.send(b"\2\0\0\0\0\7" + b"\2\0\0\0\0\1" + b"\x88\xb5" + payload)
            assert ours.recv(2000) == b"\2\0\0\0\0\1" + b"\2\0\0\0\0\7" + b"\x88\xb5" + payload
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.split() == "mtu 1500 mac 2 mac 0 mac 0 mac 0 mac 0 mac 7".split()


def test_a_tap_device(images: Path, tmp_path: Path, ourselves: harness.Caller) -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("it takes root and /dev/net/tun")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    name = f"sk{os.getpid()}"
    words = [*ourselves.command, "do", "--engine", "unikernel", "--block", f"storage={disk}"]
    image = [images / "devices", "echo"]
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))  # TUNSETIFF: TAP, NO_PI
        fcntl.ioctl(tap, 0x400454CB, 1)  # TUNSETPERSIST
    except OSError as error:
        pytest.skip(f"no tap device can be made here: {error.strerror}")
    try:
        os.close(tap)
        done = harness.run([*words, "--net", f"service=tap:{name}", "--", *image])
        assert done.returncode == 125 and "the interface is down" in done.stderr, done
        done = harness.run([*words, "--net", "service=tap:none0", "--", *image])
        assert done.returncode == 125 and "there is no such interface" in done.stderr, done
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH22x", name.encode(), 0x1))  # SIOCSIFFLAGS: UP
        process = subprocess.Popen(
            [*words, "--net", f"service=tap:{name},mac=02:00:00:00:00:07", "--", *image],
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as wire:
            wire.bind((name, 0x88B5))
            wire.settimeout(0.2)
            frame = b"\2\0\0\0\0\7" + b"\2\0\0\0\0\1" + b"\x88\xb5" + b"end!"
            for _ in range(100):
                try:
                    wire.send(frame)
                    answer = wire.recv(2000)
                    break
                except OSError:
                    continue  # it is not there yet
            assert answer[:18] == b"\2\0\0\0\0\1" + b"\2\0\0\0\0\7" + b"\x88\xb5" + b"end!"
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0 and "mac 7" in out
    finally:
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
        fcntl.ioctl(tap, 0x400454CB, 0)
        os.close(tap)


# --- images that are none ---


def test_images_that_cannot_be_run(do, images: Path, caller: harness.Caller) -> None:
    for image, status, message in (
        ("virtio", 126, "the image is for virtio, neither spt nor hvt"),
        ("old", 126, "version 1 of the spt ABI, not version 2"),
        ("nosuch", 127, "there is no such image"),
        (".", 126, "no regular file"),
        ("/bin/true", 126, "it is no unikernel"),
        ("/etc/passwd", 126, "it is no ELF file"),
    ):
        done = do("hello", image=image)
        assert (done.returncode, done.stdout) == (status, "") and message in done.stderr, done


def program_header(data: bytes, kind: int, which: int = 0) -> int:
    """Where in an image the header of a segment is."""
    found = [at for at in range(64, 64 + 56 * data[56], 56) if struct.unpack_from("<I", data, at)[0] == kind]
    return found[which]


def test_hostile_images_never_run(images: Path, tend, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in tend("hello", image=tmp_path / "fifo").stderr
    whole = (images / "tasks").read_bytes()
    text, data = program_header(whole, 1), program_header(whole, 1, 1)
    abi, manifest = program_header(whole, 4), program_header(whole, 4, 1)
    note = struct.unpack_from("<Q", whole, manifest + 8)[0]
    address = struct.unpack_from("<Q", whole, text + 16)[0]

    def changed(at: int, form: str, *values: int) -> bytes:
        bytes_ = bytearray(whole)
        struct.pack_into(form, bytes_, at, *values)
        return bytes(bytes_)

    cases = {
        "cut off in the header": (whole[:40], "the ELF header is not all there"),
        "cut off in the table": (whole[:100], "program headers is not all there"),
        "cut off in a segment": (whole[: struct.unpack_from("<Q", whole, data + 8)[0] + 9], "a segment is not all there"),
        "empty": (b"", "the ELF header is not all there"),
        "overlapping": (changed(data + 16, "<Q", address), "segment 2" if text > 64 else "segment 1"),
        "descending": (changed(text + 16, "<Q", address + (1 << 24)), "over the one before it, or before it"),
        "too low": (changed(text + 16, "<Q", 0x10000), "below 0x100000"),
        "huge in memory": (changed(data + 40, "<Q", 1 << 46), "give it more"),
        "beyond everything": (changed(data + 40, "<Q", (1 << 64) - 1), "beyond the end"),
        "huge in the file": (changed(data + 32, "<QQ", 1 << 30, 1 << 30), "give it more"),
        "from beyond the file": (changed(data + 8, "<Q", 1 << 62), "is not all there"),
        "from beyond all files": (changed(data + 8, "<Q", (1 << 64) - 1), "beyond the end of all files"),
        "more in the file": (changed(data + 40, "<Q", 1), "more bytes in the file than in memory"),
        "writable and executable": (changed(data + 4, "<I", 7), "writable and executable"),
        "entered in its data": (changed(24, "<Q", struct.unpack_from("<Q", whole, data + 16)[0]), "entry point"),
        "entered outside": (changed(24, "<Q", 0xFFFFFFFF81000000), "entry point"),
        "too many headers": (changed(56, "<H", 65535), "65535 program headers"),
        "no headers": (changed(56, "<H", 0), "no note that names its ABI"),
        "no notes": (changed(abi, "<I", 0), "no note that names its ABI"),
        "no manifest": (changed(manifest, "<I", 0), "no manifest"),
        "a manifest of another version": (changed(note + 24, "<I", 2), "of version 2"),
        "a manifest with more than it has": (changed(note + 28, "<I", 64), "its entries take"),
        "a manifest of 65": (changed(note + 28, "<I", 65), "65 entries"),
        "a manifest of its size": (changed(note + 4, "<I", 0xFFFFFFFF), "wrong size"),
        "attached already": (changed(note + 32 + 96, "<B", 1), "attached already"),
        "another machine": (changed(18, "<H", 183), "x86-64"),
    }
    for name, (content, message) in cases.items():
        image = tmp_path / "image"
        image.write_bytes(content)
        done = tend("hello", image=image)
        assert (done.returncode, done.stdout) == (126, "") and message in done.stderr, (name, done)


# --- what is left ---

KILLS = int(os.environ.get("SKERRY_ENGINE_KILLS", "20")) // 2


@pytest.mark.parametrize("who", ["caller", "tender"])
def test_killed_at_a_random_moment_it_leaves_nothing(images: Path, ourselves: harness.Caller, who: str) -> None:
    rng = random.Random(5)
    marker = str(9_000_000 + os.getpid())
    command = [*ourselves.command, "do", "--engine", "unikernel", "--", images / "tasks", "sleep", marker]
    for _ in range(KILLS):
        process = subprocess.Popen(
            command, cwd="/", start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.0, 0.15))
        victims = [pid for pid in marked(marker) if b"skerry-tender" in cmdline(pid)]
        if who == "tender" and victims:
            os.kill(victims[0], signal.SIGKILL)
            assert process.wait(20) == 137
        else:
            process.kill()
            process.wait(20)
    assert harness.eventually(lambda: not marked(marker)), marked(marker)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def marked(marker: str) -> list[int]:
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in numbers if pid != os.getpid() and marker.encode() in cmdline(pid).split(b"\0")]


def test_what_is_in_force(images: Path) -> None:
    """Of a running unikernel: no capabilities, no new privileges, two filters, its descriptors and no others."""
    with skerry.Sandbox(engine="unikernel", memory="4m") as sandbox, sandbox.spawn([images / "tasks", "sleep"]) as process:
        assert process.stdout.readline() == b"up\n"
        pid = process.id
        facts = dict(re.findall(r"(\w+):\t(.*)", Path(f"/proc/{pid}/status").read_text()))
        assert (facts["CapEff"], facts["CapPrm"], facts["NoNewPrivs"], facts["Seccomp"]) == ("0" * 16, "0" * 16, "1", "2")
        assert facts["Seccomp_filters"] == "2" and facts["Threads"] == "1"
        if os.geteuid() == 0:
            # Standard output and error, the timer, and who waits for it.
            assert len(os.listdir(f"/proc/{pid}/fd")) == 4
        process.kill()
        assert process.wait(20) == 137


def test_the_result_as_json(images: Path, ourselves: harness.Caller, tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = ourselves.do(["--engine", "unikernel", "--json", str(report)], [images / "tasks", "null", "0"], cwd="/")
    found = json.loads(report.read_text())
    assert (done.returncode, found["signal"], found["exit_status"]) == (139, 11, 139)
    assert {"seccomp", "landlock", "no_capabilities"} <= set(found["layers"])
