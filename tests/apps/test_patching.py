"""Code is patched while its process runs, all of its threads included: nobody can tell, but by reading it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

PROGRAMS = Path(__file__).parent / "programs"
#: Seconds. What such a program does natively keeps Linux 6.18 (two CPUs, automatic task groups) from running anything else for ten seconds
#: and more where one more process computes: the guest kernel and the test as well.
PATIENCE = 300


def compiled(name: str, directory: Path) -> Path:
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    program = directory / name
    source = PROGRAMS / f"{name}.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-o", program, source, "-pthread"], check=True)
    return program


@pytest.fixture(scope="session")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("patched", tmp_path_factory.mktemp("patching"))


@pytest.fixture(scope="session")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("maps", tmp_path_factory.mktemp("patching"))


def test_natively(patched: Path, maps: Path) -> None:
    for program in (patched, maps):
        done = subprocess.run([program, "0.3"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "as it was\n"), done.stderr


@pytest.mark.parametrize("without", ["", "spinning", "pace", "marshalling"])
def test_threads_go_on_in_patched_code(
    caller: harness.Caller, patched: Path, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    with caller.workspace() as work:
        shutil.copy(patched, work)
        done = caller.sandbox(["./patched", "20"], cwd=work, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "changed\n"), done


@pytest.mark.parametrize("without", ["", "spinning", "marshalling"])
def test_who_only_asks_the_host_for_memory_gets_patched_code_too(
    caller: harness.Caller, maps: Path, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    with caller.workspace() as work:
        shutil.copy(maps, work)
        done = caller.sandbox(["./maps", "20"], cwd=work, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "changed\n"), done


@pytest.mark.parametrize("further", [(), ("executes",)], ids=["ends", "executes"])
def test_a_process_may_end_meanwhile(ourselves: harness.Caller, patched: Path, further: tuple[str, ...]) -> None:
    """At moments around that at which its code is replaced: who is held does not keep it."""
    with ourselves.workspace() as work:
        for hundredths in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20):
            done = ourselves.sandbox([patched, f"{hundredths / 100}", *further], cwd=work, timeout=PATIENCE)
            assert done.returncode == 0, f"{hundredths}: {done}"
