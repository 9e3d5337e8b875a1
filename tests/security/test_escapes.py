"""Published ways out of containers (escapes.c): each gets out of a process that nothing holds, and out of no engine.

What counts is what the host shows: files that are changed, a victim that is signalled; and what the attempt itself believes
where only it can know (a connection, a device that it read).
"""

from __future__ import annotations

import os
import pty
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import harness
import skerry

pytestmark = pytest.mark.sandbox

ENGINES = ("sentry", "namespace", "rules", "uml")

#: What is written to files: in a tree of its own an attempt may well succeed, and change nothing.
TOLD_BY_THE_HOST = {"core_pattern", "dirty_pipe", "file_handle", "leaked_descriptors", "self_exe"}

#: Stands for the handle of a file on a file system that has none.
NO_HANDLE = ["1", "00"]

VICTIM = "import ctypes, time; text = ctypes.create_string_buffer(b'secret'); print(ctypes.addressof(text), flush=True); time.sleep(600)"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    built = tmp_path_factory.mktemp("escapes") / "escapes"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-o", str(built), str(Path(__file__).with_name("escapes.c"))], check=True)
    return built


class Host:
    """What there is to be reached from inside, and what became of it."""

    def __init__(self, caller: harness.Caller, program: Path, top: Path) -> None:
        self.caller = caller
        self.top = top
        self.program = top / "escapes"
        self.program.write_bytes(program.read_bytes())
        self.program.chmod(0o755)
        self.marked = self._directory("marked")
        self.file = self._file("file", "of the host")
        self.pages = self._file("pages", "read only, all of it\n" * 300)
        self.pages.chmod(0o444)
        # A program of the host's that runs, as a runtime does.
        self.runtime = top / "runtime"
        self.runtime.write_bytes(Path("/bin/sleep").read_bytes())
        self.runtime.chmod(0o755)
        os.chown(self.runtime, *caller.owner)
        self.running = subprocess.Popen([*caller.prefix, str(self.runtime), "600"], start_new_session=True)
        self.victim = subprocess.Popen(
            [*caller.prefix, "/usr/bin/python3", "-S", "-c", VICTIM], cwd=self.marked, stdout=subprocess.PIPE, text=True,
            env={"SKERRY_SECRET": "1"}, start_new_session=True,
        )  # fmt: skip
        self.address = self.victim.stdout.readline().strip()
        self.abstract = f"skerry-escape-{self.victim.pid}"
        self.listeners = [self._listen("\0" + self.abstract), self._listen(str(top / "socket"))]
        (top / "socket").chmod(0o777)
        self.disk = os.stat("/").st_dev
        self.pattern = Path("/proc/sys/kernel/core_pattern").read_text()
        handle = subprocess.run([self.program, "file_handle", "print", self.file], capture_output=True, text=True, check=True)
        self.handle = handle.stdout.splitlines()[0].split() if len(handle.stdout.splitlines()) > 1 else NO_HANDLE
        self.state = self._state()

    def _directory(self, name: str) -> Path:
        path = self.top / name
        path.mkdir()
        os.chown(path, *self.caller.owner)
        return path

    def _file(self, name: str, text: str) -> Path:
        path = self.top / name
        path.write_text(text)
        os.chown(path, *self.caller.owner)
        return path

    def _listen(self, address: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        return listener

    def _state(self) -> dict[str, object]:
        victim = self.victim.pid
        return {
            "memory_of_others": self.victim.poll(),
            "processes_of_others": (Path(f"/proc/{victim}/limits").read_text(), os.getpriority(os.PRIO_PROCESS, victim)),
            "self_exe": self.runtime.read_bytes(),
            "leaked_descriptors": sorted(os.listdir(self.marked)),
            "file_handle": self.file.read_text(),
            "dirty_pipe": self.pages.read_text(),
            "core_pattern": Path("/proc/sys/kernel/core_pattern").read_text(),
        }  # fmt: skip

    def attempts(self) -> list[list[str]]:
        victim = str(self.victim.pid)
        return [
            ["release_agent"],
            ["file_handle", *self.handle, str(self.top)],
            ["device_nodes", str(os.major(self.disk)), str(os.minor(self.disk))],
            ["core_pattern"],
            ["sysrq"],
            ["keyring", "find"],
            ["user_namespace"],
            ["dirty_pipe", str(self.pages)],
            ["memory_of_others", victim, self.address],
            ["root_of_others", victim, "/mark"],
            ["processes_of_others", victim],
            ["abstract_socket", self.abstract],
            ["socket_by_path", str(self.top / "socket")],
            ["leaked_descriptors"],
            ["self_exe", str(self.running.pid)],
            ["self_exe", "0"],
        ]

    def words(self, attempts: Sequence[Sequence[str]]) -> list[str]:
        words = [str(self.program)]
        for attempt in attempts:
            words += [*attempt, ","]
        return words

    def escaped(self, output: str) -> set[str]:
        """What got out, by its own account or by ours."""
        found = {line.split()[1] for line in output.splitlines() if line.startswith("ESCAPED ")} - TOLD_BY_THE_HOST
        now = self._state()
        return found | {name for name, before in self.state.items() if now[name] != before}

    def end(self) -> None:
        if Path("/proc/sys/kernel/core_pattern").read_text() != self.pattern:
            Path("/proc/sys/kernel/core_pattern").write_text(self.pattern)
        for listener in self.listeners:
            listener.close()
        for process in (self.victim, self.running):
            process.kill()
            process.wait()
        self.victim.stdout.close()


@pytest.fixture
def host(caller: harness.Caller, program: Path) -> Iterator[Host]:
    with caller.workspace() as work:
        found = Host(caller, program, work.parent)
        subprocess.run([*caller.prefix, found.program, "keyring", "add"], check=True)
        try:
            yield found
        finally:
            subprocess.run([*caller.prefix, found.program, "keyring", "drop"], check=True)
            found.end()


def run(
    host: Host,
    prefix: Sequence[str],
    attempts: Sequence[Sequence[str]],
    *,
    leaked: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """With a directory of the host's that is left open."""
    directory = os.open(host.marked, os.O_RDONLY)
    try:
        done = subprocess.run(
            [*host.caller.prefix, *prefix, *host.words(attempts)], cwd="/", env={**host.caller.environment(None), **(environment or {})}, timeout=60,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", start_new_session=True,
            pass_fds=[directory] if leaked else [],
        )  # fmt: skip
    finally:
        os.close(directory)
    tried = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("tried ")}
    assert tried == {attempt[0] for attempt in attempts}, done
    return done.stdout


def do(host: Host, engine: str) -> list[str]:
    assert host.caller.skerry is not None
    return [str(host.caller.skerry), "do", "--engine", engine, "--"]


def test_each_gets_out_where_nothing_holds_it(ourselves: harness.Caller, program: Path) -> None:
    """Else the rest would show nothing."""
    if os.geteuid() != 0:
        pytest.skip("most of them take root")
    with ourselves.workspace() as work:
        host = Host(ourselves, program, work.parent)
        try:
            subprocess.run([host.program, "keyring", "add"], check=True)
            attempts = [attempt for attempt in host.attempts() if attempt != ["self_exe", "0"]]
            attempts = [[*attempt, "--really"] if attempt[0] == "dirty_pipe" else attempt for attempt in attempts]
            out = host.escaped(run(host, [], attempts))
        finally:
            subprocess.run([host.program, "keyring", "drop"], check=True)
            host.end()
    capable = int(harness.status_of(os.getpid())["CapEff"], 16)
    needed = 1 << 2 | 1 << 21 | 1 << 27  # DAC_READ_SEARCH, SYS_ADMIN, MKNOD
    contained = {"release_agent", "device_nodes", "core_pattern", "sysrq", "user_namespace", "file_handle", "keyring"}
    cannot = contained if capable & needed != needed else set()
    cannot |= set() if Path("/proc/sysrq-trigger").exists() else {"sysrq"}  # not every kernel has it
    cannot |= {"file_handle"} if host.handle == NO_HANDLE else set()  # nor every file system
    assert {attempt[0] for attempt in attempts} - out - cannot == set()


#: For each attempt the parts of an engine that keep it in: without them it gets out. `dirty_pipe` and `self_exe 0` are not there:
#: nothing of ours holds the first on a kernel that is mended, and the second would overwrite the agent itself.
HELD_BY = {
    "release_agent": ("rules", "seccomp", "landlock", "capabilities"),
    "core_pattern": ("namespace", "masks", "user_namespace"),
    "sysrq": ("namespace", "masks", "user_namespace"),
    "user_namespace": ("namespace", "seccomp"),
    "keyring": ("rules", "seccomp", "keyring"),
    "file_handle": ("rules", "seccomp", "landlock", "capabilities"),
    "device_nodes": ("rules", "landlock", "capabilities"),
    "memory_of_others": ("rules", "landlock", "capabilities"),
    "root_of_others": ("rules", "landlock", "capabilities"),
    "processes_of_others": ("rules", "landlock", "seccomp"),
    "abstract_socket": ("rules", "seccomp", "landlock"),
    "socket_by_path": ("rules", "seccomp"),
    "leaked_descriptors": ("rules", "landlock", "descriptors"),
    "self_exe": ("rules", "landlock", "capabilities"),
}  # fmt: skip


def weak(held_by: Sequence[str]) -> dict[str, str]:
    engine, *parts = held_by
    return {"SKERRY_TEST_WEAKEN": ",".join(f"{engine}:{part}" for part in parts)}


def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("most of them take root")
    needed = 1 << 2 | 1 << 21 | 1 << 27  # DAC_READ_SEARCH, SYS_ADMIN, MKNOD
    if int(harness.status_of(os.getpid())["CapEff"], 16) & needed != needed:
        pytest.skip("we are held by a wall ourselves")


def test_each_gets_out_of_an_engine_that_was_weakened(ourselves: harness.Caller, program: Path) -> None:
    """So that what keeps it in is known, and these tests can fail."""
    as_root()
    for engine in ("namespace", "rules"):
        harness.usable_engine(engine)
    with ourselves.workspace() as work:
        host = Host(ourselves, program, work.parent)
        in_vain: set[str] = set() if Path("/proc/sysrq-trigger").exists() else {"sysrq"}
        in_vain |= {"file_handle"} if host.handle == NO_HANDLE else set()
        try:
            subprocess.run([host.program, "keyring", "add"], check=True)
            held = set()
            for attempt in host.attempts():
                if (held_by := HELD_BY.get(attempt[0])) and attempt != ["self_exe", "0"]:
                    output = run(host, do(host, held_by[0]), [attempt], environment=weak(held_by))
                    held |= set() if attempt[0] in host.escaped(output) else {attempt[0]}
        finally:
            subprocess.run([host.program, "keyring", "drop"], check=True)
            host.end()
    assert held - in_vain == set()


def test_so_do_those_that_go_by_the_command_line(
    ourselves: harness.Caller, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leaked directory as the working directory, a link in place of what is granted, typing into the caller's terminal."""
    as_root()
    harness.usable_engine("rules")
    with ourselves.workspace() as work:
        host = Host(ourselves, program, work.parent)
        try:
            directory = os.open(host.marked, os.O_RDONLY)
            words = [*ourselves.prefix, *do(host, "rules")[:-1], "--cwd", f"/proc/self/fd/{directory}", "--"]
            environment = {**ourselves.environment(None), **weak(("rules", "landlock", "descriptors"))}
            subprocess.run(
                [*words, host.program, "working_directory"], cwd="/", env=environment, timeout=60, pass_fds=[directory],
                stdin=subprocess.DEVNULL, capture_output=True,
            )  # fmt: skip
            os.close(directory)
            assert os.listdir(host.marked) == ["mark"]
            (host.marked / "mark").unlink()
            for name, value in weak(("rules", "links")).items():
                monkeypatch.setenv(name, value)
            assert exchanged(host, "rules") == ["mark"]
            monkeypatch.undo()
            if b"ESCAPED typing" in typed(ourselves, [str(program), "typing"]):
                words = [str(ourselves.skerry), "do", "--engine", "rules", "-T", "--", str(program), "typing"]
                shown = typed(ourselves, words, weak(("rules", "seccomp", "capabilities")))
                assert b"ESCAPED typing" in shown, shown
        finally:
            host.end()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return harness.usable_engine(request.param)


def test_none_gets_out_of_an_engine(engine: str, host: Host) -> None:
    assert host.escaped(run(host, do(host, engine), host.attempts())) == set()
    assert host.running.poll() is None


def test_a_leaked_directory_is_no_working_directory(engine: str, host: Host) -> None:
    """CVE-2024-21626, in each of the places where one could be left open."""
    directory = os.open(host.marked, os.O_RDONLY)
    try:
        natively = subprocess.run(
            [host.program, "working_directory"], cwd=f"/proc/self/fd/{directory}", capture_output=True, text=True, check=True
        )
        assert "ESCAPED" in natively.stdout and os.listdir(host.marked) == ["mark"]
        (host.marked / "mark").unlink()
        # A machine takes a second to start.
        numbers = range(3, 12) if engine != "uml" else range(3, 4)
        for number in (directory, *numbers):
            options = ["--cwd", f"/proc/self/fd/{number}"]
            subprocess.run(
                [*host.caller.prefix, *do(host, engine)[:-1], *options, "--", host.program, "working_directory"], cwd="/",
                env=host.caller.environment(None), capture_output=True, timeout=60, pass_fds=[directory],
            )  # fmt: skip
    finally:
        os.close(directory)
    assert os.listdir(host.marked) == []


def test_a_link_put_in_place_of_a_granted_directory_leads_nowhere(engine: str, host: Host) -> None:
    """CVE-2021-30465: between the look at a path and its mount somebody has exchanged it."""
    if host.caller.owner[0] != os.geteuid():
        pytest.skip("the SDK is started as ourselves")
    assert exchanged(host, engine) == []


def exchanged(host: Host, engine: str) -> list[str]:
    """What comes to be in a directory of the host's, where a link to it was put in place of one that was granted."""
    granted = host.top / "granted"
    granted.mkdir()
    sandbox = skerry.Sandbox(engine=engine, read_write=[granted], cwd="/")
    granted.rmdir()
    granted.symlink_to(host.marked)
    try:
        with sandbox:
            sandbox.run(["/bin/sh", "-c", f"echo x > {granted}/mark; echo x > {host.marked}/mark"])
    except skerry.SkerryError:
        pass
    return os.listdir(host.marked)


def typed(caller: harness.Caller, words: Sequence[str], environment: Mapping[str, str] | None = None) -> bytes:
    """What a terminal of its own shows of a command."""
    child, master = pty.fork()
    if child == 0:
        os.execvpe(words[0], list(words), {**caller.environment(None), **(environment or {})})
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:
        pass
    os.waitpid(child, 0)
    os.close(master)
    return shown


def test_typing_into_the_callers_terminal(program: Path, ourselves: harness.Caller) -> None:
    """TIOCSTI on an inherited terminal, which is the controlling one of whoever started us."""
    if os.geteuid() != 0:
        pytest.skip("on new kernels it takes root")

    words = [str(program), "typing"]
    if b"ESCAPED typing" not in typed(ourselves, words):
        pytest.skip("this host types nothing for us anyway")
    for engine in map(harness.usable_engine, ENGINES):
        # What is typed into the terminal of a machine's own is its own affair.
        for terminal in ("-T", "-t"):
            shown = typed(ourselves, [str(ourselves.skerry), "do", "--engine", engine, terminal, "--", *words])
            assert b"tried typing" in shown, (engine, shown)
            if terminal == "-T":
                assert b"ESCAPED" not in shown, (engine, shown)
