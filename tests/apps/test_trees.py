"""Trees that are gone through: a directory's files are opened with it (ADR 69)."""

import os
import time
from pathlib import Path

import pytest

import harness

DIRECTORIES, FILES = 12, 6


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("trees", tmp_path_factory.mktemp("trees"))


def fill(caller: harness.Caller, work: Path, trees: Path) -> Path:
    """Directories as the program walks them; the last but one has another one in it."""
    (work / "mark").write_text("")
    directories = [work / f"d{number:02}" for number in range(DIRECTORIES)]
    for directory in [*directories, directories[-2] / "sub"]:
        directory.mkdir(mode=0o755)
        for number in range(FILES):
            (directory / f"f{number}").write_text(str(number) * (100 + number))
    nested = [work / "nested" / f"n{number}" / "sub" for number in range(10)]
    for directory in nested:
        directory.mkdir(mode=0o755, parents=True)
        (directory / "f0").write_text("0" * 100)
    directories.append(work / "nested")
    for path in [work / "mark", *(path for directory in directories for path in [directory, *directory.rglob("*")])]:
        os.chown(path, *caller.owner)
    return harness.place(trees, work)


def test_native(caller: harness.Caller, trees: Path) -> None:
    harness.holds_natively(caller, lambda work: fill(caller, work, trees))


@pytest.mark.sandbox
@harness.with_lending
def test_sandbox(
    caller: harness.Caller, trees: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: fill(caller, work, trees), options)


@pytest.mark.sandbox
def test_a_directory_takes_one_request(caller: harness.Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tar(1) goes through them. /proc/stat's ctxt counts the calls that the sentry has served."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    script = """
import ctypes, os
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
libc, room = ctypes.CDLL(None), ctypes.create_string_buffer(4096)
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
def names(fd):
    while got := libc.syscall(217, fd, room, len(room)):
        at = 0
        while at < got:
            yield room[at + 19:at + 64].split(b"\\0")[0].decode()
            at += int.from_bytes(room[at + 16:at + 18], "little")
def walk(above, name):
    os.stat(name, dir_fd=above, follow_symlinks=False)
    fd = os.open(name, FLAGS, dir_fd=above)
    os.fstat(fd)
    size = 0
    for name in list(names(fd)):
        if name.startswith("."):
            continue
        if name.startswith("d"):
            size += walk(fd, name)
            continue
        os.stat(name, dir_fd=fd, follow_symlinks=False)
        file = os.open(name, FLAGS, dir_fd=fd)
        size += len(os.read(file, 1000))
        os.close(file)
    os.fstat(fd)
    os.close(fd)
    return size
before = calls()
size = walk(None, "many")
print(calls() - before, size)
"""
    with caller.workspace() as work:
        for number in range(200):
            directory = work / "many" / f"d{number}"
            directory.mkdir(mode=0o755, parents=True)
            for file in range(5):
                (directory / f"f{file}").write_text("x" * 100)
        harness.run(["chmod", "-R", "a+rX", work / "many"])
        # What was changed just now may change once more without another stamp.
        time.sleep(0.2)
        result = caller.do([], ["/usr/bin/python3", "-c", script], cwd=work)
    assert result.returncode == 0, str(result)
    requests, size = map(int, result.stdout.split())
    assert size == 200 * 5 * 100
    # Without: 1,200 and more.
    # Without: 1,000.
    assert requests < 500, str(result)
