"""What takes a KVM that works, in a machine in which it does: QEMU's tcg has AMD's virtualization (SVM), slowly, so that a Linux
under it has a /dev/kvm. Opt-in: it takes some minutes, Debian's kernel package (70 MB) and QEMU. SKERRY_NESTED_KVM=1 runs it.

The outer machine's root file system is the host's own, read-only; what is tested is what is installed here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from skerry.engines.sentry import find_beside
from skerry.vmm import accel, initramfs, kernel

pytestmark = pytest.mark.sandbox

HERE = Path(__file__).parent
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "kvm_amd", "overlay", "tun")
#: Of the outer machine; what the inner one gets is a part of it.
MEMORY = "3G"
PATIENCE = 900
#: Seconds without any time of processors in which even an idle kernel would use some.
STILL = 90


def to_its_end(words: list[str], output: Path) -> str:
    """What the outer machine says. Now and then QEMU's processor does not wake from a halt while it runs the inner one: then it
    uses no time at all, and is started once more.
    """
    for _ in range(2):
        with open(output, "wb") as file:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        deadline, seen = time.monotonic() + PATIENCE, [0.0] * STILL
        try:
            while process.poll() is None and time.monotonic() < deadline and (seen[-1] > seen[0] + 0.2 or not all(seen)):
                time.sleep(1)
                seen = [*seen[1:], time_used(process.pid)]
        finally:
            process.kill()
            still_there = process.wait() == -signal.SIGKILL
        if not still_there or time.monotonic() >= deadline:
            break
        print(f"the outer machine used no time for {STILL} s")
    return output.read_text("utf-8", "replace").replace("\r", "")


def time_used(pid: int) -> float:
    """Seconds of processors."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def parts(native_only: bool, built_images: Path) -> Iterator[dict[str, tuple[int, str]]]:
    """What each part of `nested/inside.sh` said, and its status."""
    if native_only or not os.environ.get("SKERRY_NESTED_KVM"):
        pytest.skip("SKERRY_NESTED_KVM=1 runs it: it takes some minutes")
    if os.geteuid() != 0:
        pytest.skip("it takes root, who may read all that is tested")
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or harness.missing("gcc"):
        pytest.skip("it takes qemu-system-x86_64 and gcc")
    with tempfile.TemporaryDirectory(prefix="skerry-nested-", dir="/var/tmp") as work:
        outer = kernel.fetch("linux-image-amd64", os.environ.get("SKERRY_NESTED_KERNELS") or os.path.join(work, "kernels"))
        inner = kernel.find()
        subprocess.run(["gcc", "-O1", "-Wall", "-static", "-o", f"{work}/init", HERE / "nested/init.c"], check=True, timeout=60)
        files = [("init", Path(work, "init").read_bytes(), 0o100755), ("dev", b"", 0o040755), ("modules", b"", 0o040755)]
        for number, (name, content) in enumerate(initramfs.modules(outer.modules, MODULES)):
            files.append((f"modules/{number:02}-{name}.ko", content, 0o100600))
        Path(work, "initramfs").write_bytes(initramfs.cpio(files))
        image = Path(outer.path).read_bytes()
        Path(work, "kernel").write_bytes(kernel.vmlinux(image) or image)
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/run", "TMPDIR": "/run", "XDG_CACHE_HOME": "/run/cache",
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "SKERRY": harness.ourselves().command[0], "SKERRY_SENTRY": find_beside("skerry-sentry"),
            "SKERRY_KERNEL": inner.path, accel.PATIENCE: "30", "TENDER": find_beside("skerry-tender"),
            "SKERRY_TEST_IMAGES": str(built_images), "PYTHON": sys.executable, "TESTS": str(HERE.parent),
        }  # fmt: skip
        lines = [f"export {name}='{value}'\n" for name, value in environment.items()]
        Path(work, "script").write_text("".join(lines) + (HERE / "nested/inside.sh").read_text())
        words = [
            qemu, "-M", "q35,usb=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", MEMORY, "-nodefaults",
            "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
            "-kernel", f"{work}/kernel", "-initrd", f"{work}/initramfs",
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            "-append", f"console=ttyS0 quiet loglevel=1 reboot=t panic=-1 script={work}/script",
        ]  # fmt: skip
        said = to_its_end(words, Path(work, "said"))
    print(said)
    yield {match[1]: (int(match[3]), match[2].strip()) for match in re.finditer(r"(?sm)^<<(\w+)\n(.*?)^>>\1 (\d+)$", said)}


def test_the_outer_machine_has_a_kvm_that_works(parts) -> None:
    status, said = parts["kvm"]
    assert status == 0 and "/dev/kvm" in said and said.endswith("svm"), said


@pytest.mark.parametrize("part", ["auto", "make", "again"])
def test_microvm_runs_on_it(parts, part: str) -> None:
    """Found by a trial; asked for, booted and kept; from what was kept, and at the level that hardware has."""
    status, said = parts[part]
    outer = parts["kvm"][1].split()[0]
    release, user = said.splitlines()[-2:]
    assert status == 0 and user.startswith("uid=0(root)"), said
    assert release != outer and re.fullmatch(r"\d+\.\d+.*", release)
    assert "without kvm" not in said
    if part == "auto":
        assert json.loads(parts["trial"][1])["why"] == "", parts["trial"]


def test_what_its_landlock_lacks_is_held_otherwise(parts) -> None:
    """Debian 12's kernel has ABI 2."""
    status, said = parts["rules"]
    assert status == 0 and re.search(r"^1 passed", said, re.M), said
    assert parts["image"] == parts["machine"] == (0, "hello, nested")


def test_unikernels_run_in_it(parts) -> None:
    """All of test_hvt.py, and spt beside it."""
    assert parts["spt"] == (0, "hello, nested")
    status, said = parts["hvt"]
    assert status == 0 and re.search(r"^\d\d+ passed", said, re.M) and "failed" not in said, said
