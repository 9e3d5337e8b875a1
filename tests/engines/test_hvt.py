"""Unikernels for hvt: the sources of `test_unikernel.py`'s images behind a machine's border. They run where /dev/kvm does, and in
`test_nested_kvm.py`'s machine.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_unikernel import FAULTS

import harness
import skerry
from skerry.engines.sentry import find_beside
from skerry.vmm import accel

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def tender(built_images: Path) -> str:
    program = find_beside("skerry-tender")
    try:
        done = harness.run([program, "--probe", "hvt"], timeout=20)
    except subprocess.TimeoutExpired:
        pytest.skip("this host's /dev/kvm runs nothing in 20 s")
    if done.returncode != 0:
        pytest.skip(done.stderr.strip())
    # There are hosts whose KVM interprets a guest's ring 0, some of them thousands of times slower than a processor.
    done = harness.run([program, "--memory", "8388608", built_images / "hvt-tasks", "boot"], timeout=60)
    if done.seconds > accel.patient(1):
        pytest.skip(f"this host's KVM takes {done.seconds:.1f} s for what a processor does in no time")
    return program


@pytest.fixture
def tend(built_images: Path, tender: str) -> Callable[..., harness.Completed]:
    """The tender itself, with an image for hvt."""

    def run(words: str, *options: str, image: str = "hvt-tasks", **rest: object) -> harness.Completed:
        return harness.run(
            [tender, "--memory", "8388608", *options, "--", built_images / image, *words.split()], timeout=60, **rest
        )

    return run


def test_status_console_and_words(tend) -> None:
    assert tend("hello a b").stdout == "hello, a b\n"
    assert tend("exit 7").returncode == 7
    assert (tend("abort").returncode, tend("abort").stdout) == (255, "aborted\n")
    assert tend("time").stdout.startswith("waited\nwall 1")
    assert tend("tls").stdout == "thread 77\n"


def test_it_starts_as_the_abi_says(tend) -> None:
    facts = dict(line.split() for line in tend("boot", "--memory", str((8 << 20) + 4097)).stdout.splitlines())
    assert facts == {
        "memory": str(8 << 20), "end": facts["end"], "devices": "1", "argument": str(0x10000), "stack": str((8 << 20) - 8),
        "others": "0", "direction": "0",
    }  # fmt: skip
    assert int(facts["end"]) % 4096 == 0 and 1 << 20 < int(facts["end"]) < 2 << 20


@pytest.mark.parametrize(
    ("task", "number"),
    [
        *FAULTS,
        ("null 8388608", signal.SIGSEGV),  # behind its memory
        ("null 4294963200", signal.SIGSEGV),
        ("int80", signal.SIGSEGV),
        # Of a machine only: it stops, it has no handlers, it has no page tables.
        ("halt", signal.SIGSEGV),
        ("lost", signal.SIGSEGV),
        ("tables 4194304", signal.SIGSEGV),
        # Machines in machines are not there (EFER.SVME; vmrun is one fault or another).
        ("model 3221225600 7425", signal.SIGSEGV),
        # Ports that are none of the ABI's.
        ("port 1279 0", signal.SIGSYS),
        ("port 1 0", signal.SIGSYS),
        ("port 65535 0", signal.SIGSYS),
        ("byte 1282 0", signal.SIGSYS),
        ("in 1282", signal.SIGSYS),
        ("many", signal.SIGSYS),
    ],
)
def test_what_ends_it_is_a_signal_as_of_a_program(tend, task: str, number: int) -> None:
    done = tend(task)
    assert (done.returncode, done.stdout) == (-number, ""), done


def test_it_makes_no_machine_of_its_own(tend) -> None:
    assert tend("nested").returncode in (-signal.SIGILL, -signal.SIGSEGV)


@pytest.mark.parametrize(
    "task",
    [
        "hypercall 0 1048576",
        "hypercall 9 1048576",
        "hypercall 64000 1048576",
        *(f"hypercall {number} {address}" for number in range(1, 9) for address in (8388608, 8388601, 4294967295)),
        # What a structure names.
        *(f"ask 2 2 {data} {size}" for data, size in ((8388608, 1), (8388600, 9), (-1, 1), (4096, -4096), (4294967296, 1))),
        "ask 2 2 data -1",
        "ask 2 2 data 8388608",
    ],
)
def test_addresses_outside_of_its_memory_end_it(tend, task: str) -> None:
    done = tend(task)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "before\n"), done


def test_a_block_device(tend, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 << 10))
    done = tend("block", "--block", f"storage={disk}", "--block-size", "storage=4096", image="hvt-storage")
    assert (done.returncode, done.stdout) == (0, "capacity 65536\nblock 4096\nall blocks\n"), done
    assert disk.read_bytes() == bytes((index // 4096 + index % 4096) & 0xFF for index in range(64 << 10))
    write, read = 4, 5
    for words, answer in (
        (f"{write} 4 1 512 data 512", 0),
        (f"{read} 4 1 65024 data 512", 0),
        (f"{read} 4 1 65536 data 512", 2),
        (f"{read} 4 1 -512 data 512", 2),
        (f"{read} 4 1 1 data 512", 2),
        (f"{read} 4 1 0 data 1024", 2),
        (f"{read} 4 1 0 data 4294967808", 2),
        (f"{read} 4 2 0 data 512", 2),
        (f"{read} 4 4294967297 0 data 512", 2),
        (f"{read} 4 1 4294967296 data 512", 2),
    ):
        done = tend(f"ask {words}", "--block", f"storage={disk}", image="hvt-storage")
        assert (done.returncode, done.stdout) == (0, f"before\nanswer {answer}\n"), (words, done)
    # What is read-only is not written to.
    done = tend(f"ask {write} 4 1 512 data 512", "--block", f"storage={disk}", "--read-only", "storage", image="hvt-storage")
    assert done.stdout == "before\nanswer 2\n", done
    for data in (8388608, 8388097, -512, -1):
        done = tend(f"ask {read} 4 1 0 {data} 512", "--block", f"storage={disk}", image="hvt-storage")
        assert (done.returncode, done.stdout) == (-signal.SIGSYS, "before\n"), (data, done)
    assert disk.stat().st_size == 64 << 10


def test_a_net_device_of_a_socket(built_images: Path, tender: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.settimeout(60)
    with ours, theirs:
        options = ["--net", f"service=fd:{theirs.fileno()}", "--mac", "service=02:00:00:00:00:07", "--block", f"storage={disk}"]
        process = subprocess.Popen(
            [tender, "--memory", "8388608", *options, built_images / "hvt-devices", "echo"],
            pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for payload in (b"one!", b"x" * 1400, b"end!"):
            ours.send(b"\2\0\0\0\0\7" + b"\2\0\0\0\0\1" + b"\x88\xb5" + payload)
            assert ours.recv(2000) == b"\2\0\0\0\0\1" + b"\2\0\0\0\0\7" + b"\x88\xb5" + payload
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.split() == "mtu 1500 mac 2 mac 0 mac 0 mac 0 mac 0 mac 7".split()


def test_the_engine_runs_it(images: Path, tender: str, ourselves: harness.Caller) -> None:
    done = ourselves.do(["--engine", "unikernel"], [images / "hvt-tasks", "hello", "you"], cwd="/")
    assert (done.returncode, done.stdout) == (0, "hello, you\n"), done
    with skerry.Sandbox(engine="unikernel", memory="8m") as sandbox:
        with sandbox.spawn([images / "hvt-tasks", "sleep"]) as process:
            assert process.stdout.readline() == b"up\n"
            facts = dict(re.findall(r"(\w+):\t(.*)", Path(f"/proc/{process.id}/status").read_text()))
            assert (facts["CapEff"], facts["CapPrm"], facts["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
            assert (facts["Seccomp"], facts["Seccomp_filters"]) == ("2", "2")
            # Standard output and error, and the processor. (The host's KVM may have a thread of its own there.)
            assert len(os.listdir(f"/proc/{process.id}/fd")) == 3
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 128 + signal.SIGTERM
        assert sandbox.run([images / "hvt-tasks", "null", "0"]).returncode == 128 + signal.SIGSEGV
        with pytest.raises(skerry.TimeoutExpired):
            sandbox.run([images / "hvt-tasks", "spin"], timeout=0.5)


def test_without_kvm_it_says_so(built_images: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("it takes root to become somebody who may not open /dev/kvm")
    program = find_beside("skerry-tender")
    done = subprocess.run(
        [program, built_images / "hvt-tasks"], user=65534, group=65534, extra_groups=[], capture_output=True, text=True
    )
    if done.returncode == 3:
        pytest.skip("everybody may open /dev/kvm here")
    assert (done.returncode, done.stdout) == (125, "")
    assert re.fullmatch(
        "skerry-tender: the image is for hvt, and that takes KVM: /dev/kvm: "
        "(Permission denied|No such file or directory); where there is none, build it for spt\n",
        done.stderr,
    )
