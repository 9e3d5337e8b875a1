"""What is prepared and kept for machines: kernels, first file systems, snapshots."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path

import pytest

import harness
import skerry
from skerry.vmm import initramfs, kernel, store


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def a_snapshot(name: str) -> str:
    part = store.new_snapshot(name)
    Path(part).write_bytes(b"devices")
    with open(f"{part}.memory", "wb") as memory:
        memory.truncate(8 << 20)
        memory.seek(3 << 20)
        memory.write(b"kernel")
    return store.keep(name, part, {"memory": "8 MiB"})


def test_a_snapshot_that_was_changed_is_never_used() -> None:
    for file, place, bytes_ in (("", 0, b"D"), (".memory", 3 << 20, b"K"), (".memory", 7 << 20, b"x"), (".json", 40, b"x")):
        path = a_snapshot("one")
        assert store.snapshot("one") == path
        with open(path + file, "r+b") as changed:
            changed.seek(place)
            changed.write(bytes_)
        assert store.snapshot("one") is None
        assert not list(Path(path).parent.glob("snapshot-one*[!k]"))
    path = a_snapshot("one")
    os.truncate(f"{path}.memory", 9 << 20)
    assert store.snapshot("one") is None and store.snapshot("none") is None


def test_what_killed_processes_have_left_goes() -> None:
    place = Path(store.directory())
    for name in ("snapshot-one.77.part", "snapshot-one.77.part.memory", "snapshot-two.78.part", "kernel-x.79-79.part"):
        (place / name).write_bytes(b"half")
    os.utime(place / "kernel-x.79-79.part", (1, 1))
    with store.lock_of_snapshot("one"):
        store.drop(store.new_snapshot("one"))
    # The other may be in the making.
    assert os.listdir(place) == ["snapshot-two.78.part"]
    # Whoever waits for a name that another gives up gets it after that, and nobody else has it then.
    held, most = 0, 0

    def take() -> None:
        nonlocal held, most
        for _ in range(50):
            with store.lock_of_snapshot("one"):
                held += 1
                most = max(most, held)
                time.sleep(0.0002)
                held -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and os.listdir(place) == ["snapshot-two.78.part"]


def test_what_is_kept_is_ours_alone_bounded_and_deleted() -> None:
    for number in range(store.MOST_SNAPSHOTS + 2):
        path = a_snapshot(f"{number}")
        os.utime(path, ns=(number, number))
    found = {name: about for name, _, about in store.listed()}
    assert len(found) == store.MOST_SNAPSHOTS and "snapshot-0" not in found and found["snapshot-4"] == "memory 8 MiB"
    assert os.stat(store.directory()).st_mode & 0o777 == 0o700
    assert all(os.stat(entry).st_mode & 0o77 == 0 for entry in Path(store.directory()).iterdir())
    assert store.delete("snapshot-4") and not store.delete("snapshot-4")
    os.chmod(store.directory(), 0o755)
    with pytest.raises(skerry.EngineUnavailable, match="XDG_CACHE_HOME"):
        store.directory()


def test_the_same_memory_has_the_same_hash_with_holes_or_without(place: Path) -> None:
    with open(place / "holes", "wb") as file:
        file.truncate(1 << 20)
        file.seek(300_000)
        file.write(b"x")
    (place / "plain").write_bytes((place / "holes").read_bytes())
    assert store.hash_of(str(place / "holes")) == store.hash_of(str(place / "plain"))


def bz_image(payload: bytes) -> bytes:
    """As little of one as is looked at (Documentation/arch/x86/boot.rst)."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload + b"after"


def lz4(plain: bytes) -> bytes:
    """One block of literals, a match that overlaps itself, and literals again."""
    block = bytes([0xF0 | 15, len(plain) - 15]) + plain + struct.pack("<H", 1) + bytes([255, 6]) + bytes([0x10]) + b"!"
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


def test_kernels_are_unpacked() -> None:
    plain = b"\x7fELF" + bytes(range(100))
    size = struct.pack("<I", len(plain))
    gzip = zlib.compressobj(wbits=31)
    assert kernel.vmlinux(bz_image(gzip.compress(plain) + gzip.flush() + size)) == plain
    assert kernel.vmlinux(bz_image(lz4(plain) + size)) == plain + plain[-1:] * (4 + 15 + 255 + 6) + b"!"
    assert kernel.vmlinux(plain) == plain
    for broken in (bz_image(b"\x02\x21\x4c\x18" + size + b"\xff"), bz_image(b"\x28\xb5\x2f\xfd"), b"MZ", b""):
        assert kernel.vmlinux(broken) is None


def test_the_first_file_system_is_what_cpio_reads(place: Path) -> None:
    (place / "archive").write_bytes(
        initramfs.cpio([("init", b"#!", 0o100755), ("modules", b"", 0o040755), ("modules/00-a.ko", b"x" * 4097, 0o100600)])
    )
    if harness.missing("cpio"):
        pytest.skip("not installed: cpio")
    (place / "out").mkdir()
    subprocess.run(["cpio", "-id", "--quiet"], input=(place / "archive").read_bytes(), cwd=place / "out", check=True)
    assert (place / "out/modules/00-a.ko").read_bytes() == b"x" * 4097
    assert os.stat(place / "out/init").st_mode & 0o777 == 0o755


def test_modules_come_after_what_they_need() -> None:
    try:
        found = kernel.find()
    except skerry.EngineUnavailable as error:
        pytest.skip(str(error))
    names = [name for name, _ in initramfs.modules(found.modules, ["virtiofs", "virtio-rng", "virtio_pci"])]
    assert names.index("virtio_ring") < names.index("virtio") < names.index("virtio_pci")
    assert names.index("fuse") < names.index("virtiofs") and "virtio_rng" in names and len(set(names)) == len(names)
    with pytest.raises(skerry.EngineUnavailable, match="no_such_module"):
        initramfs.modules(found.modules, ["no_such_module"])
