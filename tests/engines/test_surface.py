"""`skerry surface`, really: what the engines leave of the host's system calls. These numbers are the wall's: more is a change."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

import pytest

import harness
from skerry._surface import tracing

pytestmark = pytest.mark.sandbox

#: What the stub makes by itself (crates/platform/src/filter.rs), and for data of open files besides.
STRICT = "mmap munmap mprotect madvise mremap futex sched_yield rt_sigreturn getppid close exit".split()
DATA = "read write pread64 pwrite64 lseek".split()
#: On processors, and under kernels before 5.9, where programs cannot set the bases of fs and gs (HWCAP2_FSGSBASE).
AT_HWCAP2, FSGSBASE = 26, 2
BASES = [] if ctypes.CDLL(None).getauxval(AT_HWCAP2) & FSGSBASE else ["arch_prctl"]
UNIKERNEL = "write exit_group clock_gettime epoll_pwait timerfd_settime arch_prctl".split()


def test_what_the_engines_leave(images: Path, ourselves: harness.Caller, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root reads filters back")
    words = [*ourselves.command, "surface", "--engines", "unikernel,sentry,sentry:strict,namespace"]
    options = ["--image", f"{images}/tasks hello", "--no-functions", "--json", "--svg", str(tmp_path / "plot.svg")]
    done = harness.run([*words, *options, "--", "/bin/true"], cwd="/")
    assert done.returncode == 0, done
    found = {subject["name"]: subject for subject in json.loads(done.stdout)["subjects"]}
    reached = {name: one["application"] and one["application"]["calls"] for name, one in found.items()}
    if not all(reached.values()):
        pytest.skip(f"filters cannot be read here: {[one['notes'] for one in found.values()]}")
    assert sorted(reached["unikernel"]["allow"]) == sorted(UNIKERNEL)
    assert sorted(reached["sentry:strict"]["allow"]) == sorted(STRICT + BASES)
    assert sorted(reached["sentry"]["allow"]) == sorted(STRICT + BASES + DATA)
    # Where there is no pid namespace, each process asks to die with the sentry.
    assert [call for call in reached["sentry"]["notify"] if call != "prctl"] == ["clone"]
    assert len(reached["sentry"]["allow"]) < found["namespace"]["application"]["reachable"] < 300
    assert all(one["application"]["reachable_32_bit"] == 0 for one in found.values())
    assert "</svg>" in (tmp_path / "plot.svg").read_text()
    top = tracing.place()
    if top is None:
        pytest.skip("there is no tracefs here to count calls with")
    assert found["unikernel"]["made"]["counts"]["exit_group"] >= 1
    assert "openat" in found["sentry"]["made"]["counts"]
    assert not [name for name in os.listdir(f"{top}/instances") if name.startswith("skerry-surface-")]


def test_a_peer_is_looked_at_in_the_same_way(ourselves: harness.Caller) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root reads filters back")
    done = harness.run([*ourselves.command, "surface", "--peer", "plain=env A=1", "--no-functions", "--", "/bin/true"], cwd="/")
    assert done.returncode == 0 and "plain: the application can make all" in done.stdout, done
    done = harness.run([*ourselves.command, "surface", "--peer", "none=env A=1", "--", "nosuch-command"], cwd="/")
    assert done.returncode == 2 and "status 127" in done.stderr, done


def test_without_root_it_says_what_is_missing(nobody: harness.Caller) -> None:
    done = harness.run([*nobody.command, "surface", "--engines", "rules", "--", "/bin/true"], cwd="/")
    assert done.returncode == 0 and "only root can read filters back" in done.stdout, done
