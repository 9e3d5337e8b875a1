"""What is refused, how it is said, and with which status: 2 usage, 125 our own failure, 126 not executable, 127 not found."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

#: A 32-bit ELF header: EI_CLASS is ELFCLASS32, e_machine is EM_386.
ELF32 = b"\x7fELF\x01\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (3).to_bytes(2, "little") + bytes(32)
#: A 64-bit ELF header whose program headers lie far outside the file.
BAD_ELF = (
    b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + (62).to_bytes(2, "little") + (1).to_bytes(4, "little")
    + (0x400000).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little") + bytes(8) + bytes(4)
    + (64).to_bytes(2, "little") + (56).to_bytes(2, "little") + (65535).to_bytes(2, "little") + bytes(6)
)  # fmt: skip


def executable(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)


def refused(done: harness.Completed, status: int, *words: str) -> None:
    assert done.returncode == status, done
    assert done.stdout == "", done
    assert "Traceback" not in done.stderr, done
    assert done.stderr.startswith("skerry"), done
    for word in words:
        assert word in done.stderr, done


def test_missing_command(caller: harness.Caller) -> None:
    refused(caller.sandbox(["no-such-command"]), 127, "no-such-command")
    refused(caller.sandbox(["/no/such/command"]), 127, "/no/such/command")


def test_command_in_the_working_folder(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        executable(work / "here", b"#!/bin/sh\necho found $0\n")
        done = caller.sandbox(["./here"], cwd=work)
        assert (done.returncode, done.stdout) == (0, "found ./here\n"), done
        refused(caller.sandbox(["here"], cwd=work), 127, "here")
        refused(caller.sandbox(["./not-here"], cwd=work), 127, "not-here")


def test_directory(caller: harness.Caller) -> None:
    refused(caller.sandbox(["/etc"]), 126, "/etc")


def test_no_x(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        (work / "plain").write_text("#!/bin/sh\n")
        refused(caller.sandbox(["./plain"], cwd=work), 126, "plain")


@pytest.mark.parametrize(
    ("name", "content"),
    [("bad-elf", BAD_ELF), ("elf32", ELF32), ("short-elf", b"\x7fELF"), ("text", b"hello\n"), ("empty", b"")],
)
def test_wrong_format(caller: harness.Caller, name: str, content: bytes) -> None:
    with caller.workspace() as work:
        executable(work / name, content)
        refused(caller.sandbox([f"./{name}"], cwd=work), 126, name)


def test_interpreter_is_missing(caller: harness.Caller) -> None:
    with caller.workspace() as work:
        executable(work / "script", b"#!/no/interpreter\n")
        refused(caller.sandbox(["./script"], cwd=work), 127, "script")


def test_unreadable_file(nobody: harness.Caller) -> None:
    with nobody.workspace() as work:
        executable(work / "secret", b"#!/bin/sh\necho no\n")
        (work / "secret").chmod(0o700)
        os.chown(work / "secret", 0, 0)
        refused(nobody.sandbox(["./secret"], cwd=work), 126, "secret")


@pytest.mark.parametrize(
    ("words", "mention"),
    [
        (["do"], "command"),
        (["do", "--"], "command"),
        (["do", "--no-such-option", "--", "true"], "--no-such-option"),
        (["do", "--memory", "much", "--", "true"], "--memory"),
        (["do", "--memory", "-5", "--", "true"], "--memory"),
        (["do", "--memory", "0", "--", "true"], "--memory"),
        (["do", "--cpus", "0", "--", "true"], "--cpus"),
        (["do", "--cpus", "nan", "--", "true"], "--cpus"),
        (["do", "--pids", "-1", "--", "true"], "--pids"),
        (["do", "--pids", "1.5", "--", "true"], "--pids"),
        (["do", "--timeout", "soon", "--", "true"], "--timeout"),
        (["do", "--timeout", "-1", "--", "true"], "--timeout"),
        (["do", "--network", "everything", "--", "true"], "--network"),
        (["do", "--engine", "steam", "--", "true"], "--engine"),
        (["do", "--user", "x:y:z", "--", "true"], "--user"),
        (["do", "--hostname", "", "--", "true"], "--hostname"),
        (["do", "--hostname", "a" * 65, "--", "true"], "--hostname"),
        (["do", "--rw", "/no/such/path", "--", "true"], "--rw"),
        (["do", "--ro", "/no/such/path", "--", "true"], "--ro"),
        (["do", "--cwd", "relative", "--", "true"], "--cwd"),
        (["do", "--env", "=x", "--", "true"], "--env"),
        (["do", "--json", "/no/such/folder/result", "--", "true"], "--json"),
        (["do", "--events", "/no/such/folder/events", "--", "true"], "--events"),
        (["do", "--memory"], "--memory"),
        (["no-such-subcommand"], "no-such-subcommand"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_usage_errors(ourselves: harness.Caller, words: list[str], mention: str) -> None:
    done = harness.run([*ourselves.command, *words], environment=ourselves.environment(None))
    refused(done, 2, mention)


def test_help_and_version(ourselves: harness.Caller) -> None:
    for words in (["--help"], ["do", "--help"], ["--version"]):
        done = harness.run([*ourselves.command, *words], environment=ourselves.environment(None))
        assert done.returncode == 0 and done.stdout, done


def test_full_disk_for_the_overlay(ourselves: harness.Caller) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    with ourselves.workspace() as work:
        disk = work / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"mount: {mounted.stderr.strip()}")
        try:
            script = "dd if=/dev/zero of=big bs=64k count=64 2>&1 | grep -c 'No space'; echo still alive"
            done = ourselves.do(["--overlay-dir", str(disk)], ["sh", "-c", script], cwd=work)
            assert (done.returncode, done.stdout) == (0, "1\nstill alive\n"), done
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=False)


def test_in_memory_files_have_a_cap(ourselves: harness.Caller) -> None:
    script = "dd if=/dev/zero of=/tmp/big bs=1M count=400 2>&1 | grep -c 'No space'; rm /tmp/big; dd if=/dev/zero of=/tmp/small bs=1M count=8 2>/dev/null && echo room again"
    done = ourselves.do(["--memory", "128m"], ["sh", "-c", script])
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == ["1", "room again"], done
