"""Names that are not there, or no links, are told to all processes (ADR 68): whoever changes that, everybody sees it at once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import harness

sys.path.insert(0, str(harness.ROOT / "src"))
import skerry

# fanotify_init(2): FAN_CLOEXEC, FAN_NONBLOCK, FAN_REPORT_DIR_FID.
FANOTIFY_INIT, FLAGS = 300, 0x1 | 0x2 | 0x400


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("names", tmp_path_factory.mktemp("names"))


def lay(caller: harness.Caller, work: Path, names: Path) -> Path:
    for directory in ("in", "a/b", "no-link", "searched", "root/only-there", "mount", "told", "many", "with", "shown"):
        (work / directory).mkdir(parents=True)
    for file in ("with/name", "shown/name"):
        (work / file).touch()
    (work / "way").symlink_to("a/b")
    for path in work.rglob("*"):
        os.chown(path, *caller.owner, follow_symlinks=False)
    return harness.place(names, work)


def missing_notices() -> str | None:
    """Why the host does not tell of changes in directories, for whoever asks."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(FANOTIFY_INIT, FLAGS, os.O_RDONLY)
    if descriptor < 0:
        return f"the host does not tell of changes in directories: {errno.errorcode[ctypes.get_errno()]}"
    os.close(descriptor)
    return None


def test_native(caller: harness.Caller, names: Path) -> None:
    harness.holds_natively(caller, lambda work: lay(caller, work, names))


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("without", "options"),
    [("", ()), ("expiry", ()), ("expiry,load,pace", ()), ("board", ()), ("expiry", ("--rw", "."))],
    ids=["default", "for_good", "spinning", "without", "rw"],
)
def test_sandbox(
    caller: harness.Caller, names: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    harness.holds_inside(caller, lambda work: lay(caller, work, names), options)


@pytest.mark.sandbox
def test_who_looks_for_names_asks_the_sentry_a_few_times(caller: harness.Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many processes asks for each of many names. /proc/stat's ctxt counts the calls that the sentry has served."""
    if reason := missing_notices():
        pytest.skip(reason)
    # Else nothing is posted before that has been missed for 15 ms.
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", "expiry")
    script = """
import os
calls = lambda: int(next(line for line in open("/proc/stat") if line.startswith("ctxt")).split()[1])
names = [f"/usr/{'lib' if number % 2 else 'bin'}/not-there-{number}" for number in range(300)]
for process in range(10):
    if os.fork() == 0:
        before = calls()
        wrong = sum(os.access(name, os.F_OK) or os.path.lexists(name) for name in names)
        try:
            os.readlink("/usr/lib")
        except OSError as error:
            wrong += error.errno != 22
        print(wrong, calls() - before, flush=True)
        os._exit(0)
    os.wait()
"""
    result = caller.do([], ["/usr/bin/python3", "-c", script])
    assert result.returncode == 0, str(result)
    wrong, counts = zip(*(map(int, line.split()) for line in result.stdout.splitlines()), strict=True)
    assert sum(wrong) == 0 and len(counts) == 10, str(result)
    # Without: 600 in each. Somebody may install something there meanwhile, and names may share a place.
    assert sorted(counts)[5] < 200, str(result)


@pytest.mark.sandbox
def test_directories_are_watched_where_that_is_worth_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 ms at the end, where a request for a name takes six thousandths of one (ADR 72)."""
    if reason := missing_notices():
        pytest.skip(reason)
    monkeypatch.setenv("SKERRY_TEST_WITHOUT", "")
    script = "import os, sys; [os.path.lexists(f'/usr/bin/not-there-{name}') for name in range(int(sys.argv[1]))]"

    def watches(sandbox: skerry.Sandbox) -> bool:
        shown = []
        for descriptor in Path(f"/proc/{sandbox.info().sentry_pid}/fd").iterdir():
            # Others come and go.
            with contextlib.suppress(FileNotFoundError):
                shown.append(os.readlink(descriptor))
        return "anon_inode:[fanotify]" in shown

    with skerry.Sandbox() as sandbox:
        for count, is_watched in ((200, False), (20_000, True)):
            assert sandbox.run(["/usr/bin/python3", "-c", script, str(count)]).returncode == 0
            assert watches(sandbox) == is_watched, count


@pytest.mark.sandbox
@pytest.mark.parametrize("without", ["", "expiry", "expiry,load,pace"])
@pytest.mark.parametrize("way", ["pipe", "file"])
def test_who_is_told_of_what_the_host_changes_finds_it(
    caller: harness.Caller, monkeypatch: pytest.MonkeyPatch, without: str, way: str
) -> None:
    """By standard input, or in a file that the program reads without asking anybody."""
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    script = """
import os, sys, time
told = os.open(sys.argv[1], os.O_RDONLY)
while os.path.isfile(sys.argv[1]) and os.lseek(told, 0, os.SEEK_CUR) < 100_000:
    os.read(told, 1000)
while True:
    while not (line := os.read(told, 200)):
        time.sleep(0.001)
    if line == b"end\\n":
        break
    name = line.strip()
    found = os.path.lexists(name)
    for again in range(4):
        os.path.lexists(name + b"/below"), os.path.lexists(name)
    print(found, flush=True)
"""
    with caller.workspace() as work:
        (work / "there").mkdir()
        (work / "there").chmod(0o755)
        (work / "told").write_bytes(bytes(100_000))
        (work / "told").chmod(0o644)
        source = "/dev/stdin" if way == "pipe" else work / "told"
        command = [*caller.command, "do", "--", "/usr/bin/python3", "-c", script, source]
        pipe = subprocess.PIPE
        with (
            subprocess.Popen(command, cwd=work, env=caller.environment(work), stdin=pipe, stdout=pipe, text=True) as process,
            (work / "told").open("a") as file,
        ):
            assert process.stdin is not None and process.stdout is not None
            to = process.stdin if way == "pipe" else file

            def ask(name: Path) -> str:
                to.write(f"{name}\n")
                to.flush()
                return process.stdout.readline().strip()

            try:
                for number in range(100):
                    name = work / "there" / f"n{number % 7}"
                    assert ask(name) == "False", number
                    name.touch()
                    assert ask(name) == "True", number
                    name.unlink()
                    assert ask(name) == "False", number
                    # What is above it.
                    (work / "there").rename(work / "away")
                    assert ask(work / "away") == "True", number
                    (work / "away").rename(work / "there")
                    assert ask(work / "away") == "False", number
                to.write("end\n")
                to.flush()
                process.stdin.close()
                assert process.wait(20) == 0
            finally:
                process.kill()


@pytest.mark.sandbox
def test_nobody_writes_on_the_board(caller: harness.Caller) -> None:
    """It lies where the stub's `layout.rs` says."""
    script = """
import ctypes, os, signal
board, libc = 0x7000_0009_0000, ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mmap.restype = ctypes.c_void_p
assert libc.mprotect(board, 4096, 3) < 0
assert libc.mmap(board, 4096, 3, 0x32, -1, 0) != board
if os.fork() == 0:
    ctypes.memset(board, 1, 8)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGSEGV
"""
    result = caller.do([], ["/usr/bin/python3", "-c", script])
    assert result.returncode == 0, str(result)


@pytest.mark.sandbox
def test_calls_that_are_to_be_seen_are_seen(caller: harness.Caller) -> None:
    script = "import os\nfor again in range(50): os.access('/usr/lib/not-there', os.F_OK)"
    result = caller.do(["--trace"], ["/usr/bin/python3", "-c", script])
    assert result.returncode == 0, str(result)
    assert result.stderr.count("not-there") >= 50
