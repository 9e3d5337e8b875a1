"""What is the engine `microvm`'s own. The guests here run under tcg."""

from __future__ import annotations

import os
import time

import pytest

import harness
import skerry
from skerry.vmm import accel


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
    with make(vmm="qemu-microvm") as sandbox:
        assert sandbox.run(["uname", "-r"], text=True).stdout.strip() != os.uname().release
        assert sandbox.info().machine["start"] == "boot"


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
