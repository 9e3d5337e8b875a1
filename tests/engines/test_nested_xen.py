"""Xen, in a machine of QEMU's tcg: Debian's hypervisor and first domain, in which `xl` gets the files that our driver writes.
Opt-in: it takes some minutes, Debian's packages of Xen and its kernel (80 MB, fetched and unpacked, nothing is installed) and
QEMU. SKERRY_NESTED_XEN=1 runs it.

QEMU's processor has AMD's virtualization (SVM), so that PVH guests, which our driver makes, really start; as PV guests, which
take no such hardware, they do too. What a guest must have said at the end is its agent's greeting, through the channel.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import harness
from skerry import vmm
from skerry.engines import microvm
from skerry.engines.sentry import find_beside
from skerry.vmm import initramfs, kernel

pytestmark = pytest.mark.sandbox

HERE = Path(__file__).parent
PACKAGES = (
    "xen-hypervisor-4.17-amd64 xen-utils-4.17 qemu-system-xen busybox-static libxencall1 libxendevicemodel1 "
    "libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxenmisc4.17 libxenstore4 libxentoolcore1 libxentoollog1 "
    "libyajl2"
).split()
PROGRAMS = ("xl", "xenstored", "xenconsoled", "xen-init-dom0", "libxl-save-helper")
#: Of the first domain.
MODULES = ("xenfs", "xen_privcmd", "xen_evtchn", "xen_gntdev", "xen_gntalloc")
#: Of the outer machine; half of it is the first domain's.
MEMORY = "3G"
PATIENCE = 570
#: Guests that are started, with what of our driver's file is another thing in theirs.
STARTED = {"pvh": {}, "pv": {"type": '"pv"'}}
#: Until February 2025 `xl` took the first channel for the guest's primary console, and left it out with an error.
BEFORE_OURS = "connection=pty, name=unused"


def fetched(place: Path) -> Path:
    """Debian's packages, by apt, which checks their signatures, and unpacked."""
    archives, tree = place / "archives", place / "tree"
    archives.mkdir()
    words = ["apt-get", "download", "-q", *PACKAGES]
    done = subprocess.run(words, cwd=archives, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"Debian's Xen cannot be fetched: {done.stderr.strip()}")
    for archive in archives.iterdir():
        subprocess.run(["dpkg-deb", "-x", archive, tree], check=True, timeout=60)
    return tree


def libraries(tree: Path, programs: Iterable[Path]) -> dict[str, Path]:
    """What the programs are linked with, by name: of the packages, else this host's."""
    places = [str(path.parent) for path in tree.glob("usr/lib/**/*.so.*")]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(dict.fromkeys(places))}
    found = {}
    for program in programs:
        done = subprocess.run(["ldd", program], env=environment, capture_output=True, text=True, check=True, timeout=20)
        assert "not found" not in done.stdout, done.stdout
        for path in re.findall(r"(/\S+) \(0x", done.stdout):
            found[Path(path).name] = Path(path)
    return found


def machine_of(name: str, images: Iterable[str] = ()) -> dict[str, str]:
    """What our driver writes for a guest with that name."""
    command_line = microvm._command_line("xen", vmm.monitor("xen"))
    wanted = vmm.Machine(
        kernel="/guest/kernel", initramfs="/guest/initramfs", memory=256 << 20, cpus=1, command_line=command_line,
        images=list(images), name=name,
    )  # fmt: skip
    plan = vmm.monitor("xen").plan(wanted)
    assert plan.argv[1:] == ["create", "-F", "-q", "machine.cfg"]
    return {path: text.replace(vmm.CHANNEL, "/run/channel") for path, text in plan.files.items()}


def first_domain(tree: Path, work: Path, outer: kernel.Kernel) -> bytes:
    """Its first file system: a shell, Xen's programs with their libraries, our guests' files."""
    programs = [path for name in PROGRAMS for path in tree.glob(f"usr/lib/xen-*/bin/{name}")]
    programs.append(tree / "usr/libexec/xen-qemu-system-i386")
    assert len(programs) == len(PROGRAMS) + 1
    greeting = work / "greeting"
    subprocess.run(["gcc", "-O1", "-Wall", "-static", "-o", greeting, HERE / "nested/greeting.c"], check=True, timeout=60)
    contents: dict[str, tuple[bytes, int]] = {
        "init": ((HERE / "nested/dom0.sh").read_bytes(), 0o755),
        "bin/busybox": ((tree / "bin/busybox").read_bytes(), 0o755),
        "bin/greeting": (greeting.read_bytes(), 0o755),
        "usr/share/qemu/keymaps/en-us": (Path("/usr/share/qemu/keymaps/en-us").read_bytes(), 0o644),  # a device model's
        "etc/xen/xl.conf": (b'autoballoon="off"\n', 0o644),
    }
    for path in programs:
        contents[str(path.relative_to(tree))] = (path.read_bytes(), 0o755)
    for name, path in libraries(tree, programs).items():
        contents[f"lib64/{name}" if name.startswith("ld-linux") else f"lib/{name}"] = (path.read_bytes(), 0o755)
    for number, (name, module) in enumerate(initramfs.modules(outer.modules, MODULES)):
        contents[f"modules/{number:02}-{name}.ko"] = (module, 0o600)
    inner = kernel.find()
    image = Path(inner.path).read_bytes()
    contents["guest/kernel"] = (kernel.vmlinux(image) or image, 0o644)
    agent = Path(find_beside("skerry-agent")).read_bytes()
    wanted = (*vmm.monitor("xen").modules, *microvm._MODULES)
    contents["guest/initramfs"] = (initramfs.build(agent, inner.modules, wanted), 0o644)
    contents["guest/tree"] = (bytes(1 << 20), 0o644)
    contents["start"] = (" ".join(STARTED).encode(), 0o644)
    # With its tree, which is only read: Debian's device model serves no read-only files.
    contents.update(
        {f"machines/tree/{path}": (text.encode(), 0o644) for path, text in machine_of("tree", ["/guest/tree"]).items()}
    )
    for name, changed in STARTED.items():
        for path, text in machine_of(name).items():
            for key, value in changed.items():
                text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
            text = text.replace("channel = [", f'channel = ["{BEFORE_OURS}", ')
            contents[f"machines/{name}/{path}"] = (text.encode(), 0o644)
    directories = {"dev", "proc", "sys", "run", "var/log/xen", "var/lib/xen", "var/lock", "var/run/xen", "tmp", "sbin"}
    for path in [*contents, *(f"{directory}/x" for directory in directories)]:
        directories.update(str(parent) for parent in Path(path).parents if str(parent) != ".")
    files = [(directory, b"", 0o040755) for directory in sorted(directories)]
    files += [(path, content, 0o100000 | mode) for path, (content, mode) in contents.items()]
    return initramfs.cpio(files)


@pytest.fixture(scope="module")
def parts(native_only: bool) -> Iterator[dict[str, tuple[int, str]]]:
    """What each part of `nested/dom0.sh` said, and its status."""
    if native_only or not os.environ.get("SKERRY_NESTED_XEN"):
        pytest.skip("SKERRY_NESTED_XEN=1 runs it: it takes some minutes")
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or harness.missing("gcc"):
        pytest.skip("it takes qemu-system-x86_64 and gcc")
    with tempfile.TemporaryDirectory(prefix="skerry-nested-", dir="/var/tmp") as name:
        work = Path(name)
        tree = fetched(work)
        outer = kernel.fetch("linux-image-amd64", os.environ.get("SKERRY_NESTED_KERNELS") or str(work / "kernels"))
        (work / "initramfs").write_bytes(first_domain(tree, work, outer))
        (hypervisor,) = tree.glob("boot/xen-*.gz")
        (work / "xen").write_bytes(gzip.decompress(hypervisor.read_bytes()))
        arguments = "console=hvc0 quiet loglevel=1 panic=-1"
        words = [
            qemu, "-M", "q35,usb=off", "-accel", "tcg,thread=multi", "-cpu", "max,-la57,-smap,-smep,-rdtscp", "-m", MEMORY,
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", work / "xen",
            "-append", "console=com1 com1=115200,8n1 dom0_mem=1536M,max:1536M dom0_max_vcpus=1 loglvl=warning",
            "-initrd", f"{outer.path} {arguments},{work}/initramfs",
        ]  # fmt: skip
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
            output, errors = done.stdout, done.stderr
        except subprocess.TimeoutExpired as expired:
            output, errors = expired.stdout or b"", b"the outer machine did not end\n" + (expired.stderr or b"")
    said = output.decode("utf-8", "replace").replace("\r", "")
    print(said, errors.decode("utf-8", "replace"), sep="\n")
    assert "dom0: that is all" in said, said[-3000:]
    yield {match[1]: (int(match[3]), match[2].strip()) for match in re.finditer(r"(?sm)^<<(\w+)\n(.*?)^>>\1 (\d+)$", said)}


def test_the_first_domain_runs(parts) -> None:
    status, said = parts["xen"]
    assert status == 0 and re.search(r"xen_version +: 4\.", said) and "Domain-0" in said, said
    assert "hvm" in said and "pv" in said, said


@pytest.mark.parametrize("guest", [*STARTED, "tree"])
def test_xl_reads_what_our_driver_writes(parts, guest: str) -> None:
    status, said = parts[f"dry_{guest}"]
    assert status == 0 and f'"name": "{guest}"' in said and '"path": "/run/channel"' in said, said
    assert ('"pdev_path": "/guest/tree"' in said) == (guest == "tree"), said


@pytest.mark.parametrize("guest", STARTED)
def test_a_guest_greets_through_its_channel(parts, guest: str) -> None:
    """The agent, in our initramfs, in a kernel under Xen; and it is gone when it was ended."""
    status, said = parts[f"channel_{guest}"]
    text = b"skerry-guest 1"
    assert status == 0, (said, parts[f"console_{guest}"], parts[f"xl_{guest}"])
    assert bytes.fromhex(said).endswith(text), said
    assert re.search(rf"(?m)^{guest} ", parts[f"list_{guest}"][1]), parts[f"list_{guest}"]
    assert parts[f"destroy_{guest}"][0] == 0 and parts[f"left_{guest}"][1] == "0"
