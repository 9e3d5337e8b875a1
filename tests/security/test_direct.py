"""Direct descriptors, looked at from outside and by a hostile program: nothing but regular files with the guest's rights."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="session")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("security") / "direct"
    source = Path(__file__).with_name("direct.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-o", str(program), str(source)], check=True)
    program.parent.chmod(0o755)
    return program


@contextmanager
def hostile(
    caller: harness.Caller, direct: Path, *options: str
) -> Iterator[tuple[Path, list[str], dict[str, list[tuple[str, int]]]]]:
    """The folder, what the program says that it could do, and what the host shows of its processes' descriptors."""
    with caller.workspace() as work:
        program = work / "direct"
        program.write_bytes(direct.read_bytes())
        program.chmod(0o755)
        for name in ("readable", "writable"):
            (work / name).write_text("what is in it")
            os.chown(work / name, *caller.owner)
        words = [*caller.command, "do", *options, "--", str(program), str(work)]
        process = subprocess.Popen(
            words, cwd=work, env=caller.environment(work), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            lines: list[str] = []
            for line in process.stdout:
                if line == "done\n":
                    break
                lines.append(line.rstrip())
            else:
                raise AssertionError(f"it ended with {process.wait()}")
            held = {}
            for pid in harness.descendants(process.pid):
                if int(harness.status_of(pid).get("Seccomp_filters", 0)) >= 2:
                    held[pid] = list(descriptors(pid))
            yield work, lines, held
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(30)


def descriptors(pid: int) -> Iterator[tuple[str, int]]:
    """What each is, and its access mode; the assertion is the invariant."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        assert stat.S_ISREG(entry.stat().st_mode), f"{pid} holds {target}"
        assert not target.startswith(("/memfd:skerry", "/memfd:channel", "/proc", "/sys", "/dev")), f"{pid} holds {target}"
        flags = next(
            line for line in Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().splitlines() if line.startswith("flags:")
        )
        flags = int(flags.split()[1], 8)
        assert not flags & os.O_PATH, f"{pid} holds {target} with O_PATH"
        yield target, flags & os.O_ACCMODE


def test_only_regular_files_with_the_guests_access(caller: harness.Caller, direct: Path) -> None:
    # Written through, so that the host shows the names.
    with hostile(caller, direct, "--rw", tempfile.gettempdir()) as (work, lines, held):
        found = sorted(entry for each in held.values() for entry in each)
        names = sorted((Path(target).name, access) for target, access in found if target.startswith(str(work)))
        assert names == [
            ("readable", os.O_RDONLY),
            ("writable", os.O_WRONLY),
            ("writable", os.O_WRONLY),
            ("writable", os.O_RDWR),
        ], found
        others = {target: access for target, access in found if not target.startswith(str(work))}
        assert {Path(target).name for target, access in others.items() if access != os.O_RDONLY} <= {"memfd:file (deleted)"}, (
            others
        )
        assert len(lines) == len(found), (lines, found)
        for line in lines:
            fields = line.split()
            seek, read, write = int(fields[2]), int(fields[4]), int(fields[6])
            assert seek >= 0, line
            assert read in (-9, 6, 8), line
            assert write in (-9, 0), line
            assert (read, write) != (-9, -9), line
        assert (work / "readable").read_text() == "what is in it"


def test_overlay_and_memory_files_likewise(caller: harness.Caller, direct: Path) -> None:
    with hostile(caller, direct) as (work, lines, held):
        found = [entry for each in held.values() for entry in each]
        assert found, "nothing was direct"
        # Of the host only what is read: what is written is in memory.
        assert all(access == os.O_RDONLY for target, access in found if not target.startswith("/memfd:file")), found
        assert len(lines) == len(found), (lines, found)
        assert (work / "writable").read_text() == "what is in it"


@pytest.mark.parametrize("options", [("--profile", "strict"), ("--trace",)], ids=["strict", "trace"])
def test_none_where_all_goes_through_the_sentry(caller: harness.Caller, direct: Path, options: tuple[str, ...]) -> None:
    # (Under the strict profile its calls trap and are answered by the sentry, as any call: what they say means nothing.)
    with hostile(caller, direct, *options) as (_, _, held):
        assert held
        assert all(not each for each in held.values()), held


def test_strict_programs_map_no_file_of_the_host(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        report = work / "report.json"
        script = "import mmap; f = open('/etc/passwd'); m = mmap.mmap(f.fileno(), 0, prot=1); print(m[:4]); input()"
        words = [*caller.command, "do", "--profile", "strict", "--json", str(report), "--", "/usr/bin/python3", "-c", script]
        process = subprocess.Popen(
            words, cwd=work, env=caller.environment(work), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout.readline() == "b'root'\n"
            applications = [
                pid for pid in harness.descendants(process.pid) if int(harness.status_of(pid).get("Seccomp_filters", 0)) >= 2
            ]
            assert applications
            for pid in applications:
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                    name = line.split(None, 5)[5] if len(line.split(None, 5)) > 5 else ""
                    assert not name.startswith("/") or name.startswith("/memfd:"), (pid, line)
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(30)
        assert harness.read_json(report)["profile"] == "strict"


def test_strict_programs_see_names_and_their_own_writes(caller: harness.Caller) -> None:
    script = (
        "import mmap, os\n"
        "f = open('f', 'w+b'); f.write(b'a' * 5000); f.flush()\n"
        "m = mmap.mmap(f.fileno(), 0); m[1:3] = b'bc'; os.lseek(f.fileno(), 0, 0); print(os.read(f.fileno(), 4))\n"
        "print(any('libc.so' in line for line in open('/proc/self/maps')), any(os.readlink('/proc/self/exe') in line for line in open('/proc/self/maps')))\n"
    )
    with caller.workspace() as work:
        done = caller.do(["--profile", "strict"], ["/usr/bin/python3", "-c", script], cwd=work)
    assert done.stdout == "b'abca'\nTrue True\n", done


def test_a_trace_shows_every_read(caller: harness.Caller) -> None:
    script = "import os; f = os.open('/etc/passwd', 0); [os.pread(f, 3, 1) for _ in range(300)]"
    done = caller.do(["--trace"], ["/usr/bin/python3", "-c", script])
    assert done.stderr.count("pread64") >= 300, done


def test_the_memory_limit_counts_files_that_are_written_directly(caller: harness.Caller) -> None:
    """By agreement the stub asks before a file grows; at the limit it is ENOSPC, exactly, and what is removed is given back."""
    script = (
        "import os, errno\n"
        "f = os.open('f', os.O_RDWR | os.O_CREAT); total = 0; block = b'x' * 4096\n"
        "for _ in range(3):\n"
        "    try:\n"
        "        while True: total += os.write(f, block)\n"
        "    except OSError as error: assert error.errno == errno.ENOSPC, error\n"
        "    assert os.fstat(f).st_size == total\n"
        "print(total >> 20)\n"
        "for i in range(300): assert os.pwrite(f, b'y' * 4096, i * 4096) == 4096\n"
        "try: os.pwrite(f, block, 1 << 30); print('no limit')\n"
        "except OSError as error: assert error.errno == errno.ENOSPC\n"
        "os.unlink('f'); os.close(f)\n"
        "g = os.open('g', os.O_RDWR | os.O_CREAT); again = 0\n"
        "try:\n"
        "    while True: again += os.write(g, block)\n"
        "except OSError: pass\n"
        "print(abs(again - total) < 1 << 20)\n"
    )
    with caller.workspace() as work:
        done = caller.do(["--memory", "200m"], ["/usr/bin/python3", "-c", script], cwd=work)
    assert done.returncode == 0, done
    size, same = done.stdout.split()
    assert 90 <= int(size) <= 100 and same == "True", done
