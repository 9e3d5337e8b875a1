"""Calls on a file that was just opened are answered in the process (ADR 26, 27): nobody can tell, whatever others do."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

import harness

PROGRAM = Path(__file__).parent / "programs" / "lent.c"
CHANGES = 9


@pytest.fixture(scope="session")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("lending") / "lent"
    include = PROGRAM.parents[2] / "conformance"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", f"-I{include}", "-o", str(program), str(PROGRAM), "-pthread"], check=True)
    return program


def fill(caller: harness.Caller, work: Path, lent: Path) -> Path:
    """The files that the program is to find."""
    digits = "0123456789"
    contents = {"small": digits, "empty": "", "lockable": digits, "replacement": "new"}
    contents |= {f"victim{number}": digits for number in range(CHANGES)}
    contents["large"] = "".join(chr(ord("a") + index % 26) for index in range(30_000))
    for directory, length in (("names", 1), ("other", 101)):
        (work / directory).mkdir()
        os.chown(work / directory, *caller.owner)
        contents |= {f"{directory}/n{number:02}": chr(ord("a") + number) * (length + number) for number in range(20)}
    for name, text in contents.items():
        (work / name).write_text(text)
        os.chown(work / name, *caller.owner)
    program = work / "lent"
    program.write_bytes(lent.read_bytes())
    program.chmod(0o755)
    return program


def test_native(caller: harness.Caller, lent: Path) -> None:
    with caller.workspace() as work:
        result = caller.native([fill(caller, work, lent)], cwd=work)
    assert result.returncode == 0, f"wrong about Linux:\n{result}"


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("without", "options"),
    [("expiry", ()), ("expiry,load,pace", ()), ("lending", ()), ("expiry", ("--rw", "."))],
    ids=["default", "spinning", "without", "rw"],
)
def test_sandbox(
    caller: harness.Caller, lent: Path, monkeypatch: pytest.MonkeyPatch, without: str, options: tuple[str, ...]
) -> None:
    # What is lent does not expire here: nothing that others do may be missed because of that.
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    with caller.workspace() as work:
        words = [option if option != "." else str(work) for option in options]
        result = caller.do(words, [fill(caller, work, lent)], cwd=work)
    assert result.returncode == 0, str(result)


@pytest.mark.sandbox
def test_what_the_host_changes_is_seen_by_who_hears_of_it(caller: harness.Caller) -> None:
    """Whoever tells a program that a file has changed tells it by something that the guest kernel gives it."""
    script = "import os\nfd = os.open('told', os.O_RDONLY)\n"
    script += "while input(): print(os.fstat(fd).st_size, os.pread(fd, 100, 0).decode(), flush=True)\n"
    with caller.workspace() as work:
        told = work / "told"
        told.write_text("0")
        told.chmod(0o644)
        with subprocess.Popen(
            [*caller.command, "do", "--", "/usr/bin/python3", "-c", script],
            cwd=work,
            env=caller.environment(work),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            watchdog = threading.Timer(60, process.kill)
            watchdog.start()
            try:
                for number in range(50):
                    text = "x" * number
                    told.write_text(text)
                    process.stdin.write("go\n")
                    process.stdin.flush()
                    assert process.stdout.readline().split() == [str(number), *([text] if text else [])]
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.wait() == 0
            finally:
                watchdog.cancel()
                process.kill()
