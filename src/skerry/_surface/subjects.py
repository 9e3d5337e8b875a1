"""What is looked at: engines of ours, and peers given as the words before a command. Each is started, looked at, and ended."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time

from .. import errors
from ..policy._calls import NUMBERS
from . import bpf, filters, sampling, tracing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..sandbox import Sandbox

#: A program that runs by itself for ever: in whichever process it does, that is the application's.
_LOOP = "while :; do :; done"

#: Seconds for a sandbox to come up; for one run of the command.
_PATIENCE = 20.0
_LONGEST_RUN = 600.0

#: What ours are called.
_IMAGE_LOADER = "skerry-tender"


class Process:
    """One process of a sandbox, and what it can reach: the mildest answer for each call, by name. `threads` are the filters of
    each; None: they are not known.
    """

    def __init__(self, name: str, threads: list[list[list[tuple[int, int, int, int]]]] | None) -> None:
        self.name = name
        self.filters = None if threads is None else min(map(len, threads), default=0)
        self.answers: dict[str, str] = {}
        for programs in threads or ():
            found = bpf.reach(programs, NUMBERS.values())
            for call, number in NUMBERS.items():
                self.answers[call] = max(self.answers.get(call, "kill"), found[number], key=bpf.ORDER.index)
        self.compatibility = max(
            (
                sum(answer in bpf.REACHED for answer in bpf.reach(programs, range(512), bpf.I386).values())
                for programs in threads or ()
                if programs
            ),
            default=0,
        )

    @property
    def reached(self) -> list[str]:
        """The calls that it can make."""
        return [call for call, answer in self.answers.items() if answer in bpf.REACHED]

    @property
    def asked(self) -> list[str]:
        """The calls about which somebody is asked."""
        return [call for call, answer in self.answers.items() if answer in bpf.ASKED]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        actions = {action: [call for call, answer in self.answers.items() if answer == action] for action in bpf.ORDER}
        return {
            "process": self.name,
            "filters": self.filters,
            "reachable": len(self.reached),
            "asked": len(self.asked),
            "actions": {action: len(calls) for action, calls in actions.items()},
            "calls": {action: calls for action, calls in actions.items() if calls and action in bpf.REACHED + bpf.ASKED},
            "reachable_32_bit": self.compatibility,
        }


class Findings:
    """Of one subject. None is what could not be found out; `notes` say why."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.application: Process | None = None
        self.others: list[Process] = []
        self.calls: tracing.Calls | None = None
        self.functions: tracing.Functions | None = None
        self.seconds: float | None = None
        self.notes: list[str] = []

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = {number: call for call, number in NUMBERS.items()}
        made = None
        if self.calls is not None:
            counts = sorted(self.calls.counts.items(), key=lambda entry: -entry[1])
            made = {
                "distinct": len(counts),
                "total": sum(count for _, count in counts),
                "lost": self.calls.lost,
                "counts": {names.get(number, str(number)): count for number, count in counts},
            }
        functions = None
        if self.functions is not None:
            functions = {
                "distinct": len(self.functions.names),
                "how": self.functions.how,
                "samples": self.functions.samples,
                "complete": self.functions.complete,
                "rounds": self.functions.rounds,
                "names": sorted(self.functions.names),
            }
        return {
            "name": self.name,
            "application": None if self.application is None else self.application.as_dict(),
            "others": [process.as_dict() for process in self.others],
            "made": made,
            "functions": functions,
            "seconds": self.seconds,
            "notes": self.notes,
        }


class Subject:
    """Something that a command is run in."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.command = list(command)
        #: Tasks that are there already and work for it: a daemon's.
        self.helpers: list[str] = []
        self._ours: set[int] = set()

    def look(self, top: str | None, *, functions: bool) -> Findings:
        """Everything that can be found out here."""
        found = Findings(self.name)
        start = time.monotonic()
        self.run()  # what is made once has been made
        found.seconds = time.monotonic() - start
        if os.geteuid() == 0:
            self.look_at_filters(found)
        else:
            found.notes.append("only root can read filters back")
        if top is None:
            found.notes.append("calls are counted by root, with tracefs at /sys/kernel/tracing")
            return found
        tasks = tracing.tasks_of(self.helpers)
        found.calls = tracing.calls(top, self.run, tasks, self.ours)
        if found.calls.lost:
            found.notes.append(f"{found.calls.lost} calls were lost: the command makes too many at once")
        if functions:
            self._look_at_functions(found, top, tasks)
        return found

    def _look_at_functions(self, found: Findings, top: str, tasks: Sequence[int]) -> None:
        if not (why := tracing.why_no_functions(top)):
            found.functions = tracing.functions(top, self.run, tasks, self.ours)
            if not found.functions.complete:
                found.notes.append(f"some functions may be missing after {found.functions.rounds} rounds")
        elif more := sampling.why_not():
            found.notes += [why, more]
        else:
            found.functions = sampling.functions(self.run, tasks, self.ours)
            counted = f"{found.functions.samples} samples in {found.functions.rounds} runs"
            found.notes.append(f"functions are those of {counted}, of more that ran: {why}")

    def ours(self) -> set[int]:
        """Tasks of this process: whoever looks is not looked at."""
        return self._ours

    def _remember_ours(self) -> None:
        self._ours |= {int(task) for task in os.listdir("/proc/self/task")}

    def run(self) -> None:
        """The command, from the start of its sandbox to its end."""
        raise NotImplementedError

    def look_at_filters(self, found: Findings) -> None:
        """Of its processes."""
        raise NotImplementedError

    def _describe(self, found: Findings, application: int | None, others: Sequence[int]) -> None:
        if application is None:
            found.notes.append("the application's process was not found")
        for pid in others if application is None else [application, *(pid for pid in others if pid != application)]:
            name, threads = _name(pid), None
            mode = filters.mode(pid)
            if mode < 0 or (pid != application and filters.waits_for_an_answer(pid)):
                continue  # gone; or one like the application, which nobody can stop now
            try:
                threads = filters.of_process(pid) if mode == 2 else [[]]
            except OSError as error:
                found.notes.append(f"the filters of {name} cannot be read: {error.strerror}")
            process = Process(name, threads)
            if pid == application:
                found.application = process
            elif all((other.name, other.reached) != (process.name, process.reached) for other in found.others):
                found.others.append(process)


class Engine(Subject):
    """One of ours, also as NAME:PROFILE."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        super().__init__(name, command)
        from ..engines.base import engine

        self.engine, _, self.profile = name.partition(":")
        self.images = engine(self.engine).capabilities.runs == "unikernels"

    def run(self) -> None:
        """See `Subject`."""
        with self._sandbox() as sandbox:
            self._remember_ours()
            result = sandbox.run(self.command, max_output=0, timeout=_LONGEST_RUN)
            self._remember_ours()
        if result.returncode in (125, 126, 127):
            raise errors.UsageError(f"{shlex.join(self.command)} does not run in {self.name}: {_last(result.stderr)}")

    def look_at_filters(self, found: Findings) -> None:
        """See `Subject`."""
        with self._sandbox() as sandbox:
            assert sandbox._guest is not None
            top = sandbox._guest.pid
            if self.images:
                self._look_at_image(sandbox, top, found)
                return
            process = sandbox.spawn(["/bin/sh", "-c", _LOOP], stdin=-3, stdout=-3, stderr=-3, cwd="/")
            try:
                self._describe(found, _busiest(top), [top, *_descendants(top)])
            finally:
                process.kill()

    def _look_at_image(self, sandbox: Sandbox, top: int, found: Findings) -> None:
        """Before its first word is out: nobody reads, and there is no room."""
        reading, writing = os.pipe()
        try:
            os.set_blocking(writing, False)
            try:
                while True:
                    os.write(writing, bytes(4096))
            except BlockingIOError:
                os.set_blocking(writing, True)
            process = sandbox.spawn(self.command, stdin=-3, stdout=writing, stderr=-3)
            deadline = time.monotonic() + _PATIENCE
            application = None
            while application is None and time.monotonic() < deadline:
                time.sleep(0.01)
                loaded = [pid for pid in _descendants(top) if _name(pid) == _IMAGE_LOADER and _filters(pid) > 1]
                application = loaded[0] if loaded else None
            self._describe(found, application, [top, *_descendants(top)])
            if process.poll() is None:
                process.kill()
        finally:
            os.close(reading)
            os.close(writing)

    def _sandbox(self) -> Sandbox:
        from ..sandbox import Sandbox

        return Sandbox(engine=self.engine, profile=self.profile or "default")


class Peer(Subject):
    """Any program that takes a command behind its own words."""

    def __init__(self, name: str, prefix: str, command: Sequence[str]) -> None:
        super().__init__(name, command)
        self.prefix = shlex.split(prefix)

    def run(self) -> None:
        """See `Subject`."""
        process = self._start(self.command)
        self._remember_ours()
        try:
            _, said = process.communicate(timeout=_LONGEST_RUN)
        except subprocess.TimeoutExpired:
            self._end(process)
            raise errors.UsageError(f"--peer {self.name}: not done after {_LONGEST_RUN:.0f} s") from None
        if process.returncode in (125, 126, 127):
            raise errors.UsageError(f"--peer {self.name}: status {process.returncode}: {_last(said)}")

    def look_at_filters(self, found: Findings) -> None:
        """See `Subject`."""
        marker = f"skerry-surface-{os.getpid()}"
        words = ["sh", "-c", _LOOP, marker]
        process = self._start(words)
        application = None
        try:
            deadline = time.monotonic() + _PATIENCE
            own = os.fsencode(marker)
            while application is None and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.05)
                marked = [pid for pid in _processes() if _words(pid)[-1:] == [own] and len(_words(pid)) == 4]
                application = next((pid for pid in marked if filters.mode(pid) >= 0), None)
                if application is None and time.monotonic() > deadline - _PATIENCE + 3:
                    application = _busiest(process.pid)
            time.sleep(0.2)  # what it puts on comes before the command, and that is what was looked for
            self._describe(found, application, [process.pid, *_descendants(process.pid)])
        finally:
            if application is not None:
                _kill(application)
            self._end(process)

    def _start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self.prefix, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise errors.UsageError(f"--peer {self.name}: {self.prefix[0]}: {error.strerror}") from None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            for pid in [*_descendants(process.pid), process.pid]:
                _kill(pid)
            process.communicate()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _last(text: Any) -> str:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text or "")
    return shown.strip().splitlines()[-1] if shown.strip() else "it said nothing"


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _words(pid: int) -> list[bytes]:
    return _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]


def _name(pid: int) -> str:
    words = _words(pid)
    return os.path.basename(os.fsdecode(words[0].split()[0])) if words and words[0] else _comm(pid)


def _comm(pid: int) -> str:
    return _read(f"/proc/{pid}/comm").decode("utf-8", "replace").strip() or str(pid)


def _filters(pid: int) -> int:
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Seccomp_filters:"):
            return int(line.split()[1])
    return 0


def _stat(pid: int) -> list[bytes]:
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _descendants(top: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid in _processes():
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    found, waiting = [], [top]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def _busiest(top: int) -> int | None:
    """Of the processes below the one that computes most, twice in a row: not one that has only started."""
    deadline = time.monotonic() + _PATIENCE
    last = None
    while time.monotonic() < deadline:
        before = {pid: _ticks(pid) for pid in [top, *_descendants(top)]}
        time.sleep(0.3)
        grown = {pid: _ticks(pid) - ticks for pid, ticks in before.items()}
        best = max(grown, key=lambda pid: grown[pid], default=None)
        if best is not None and grown[best] >= 3:
            if best == last:
                return best
            last = best
    return None


def _ticks(pid: int) -> int:
    """Of its own code: a hundred in a second."""
    fields = _stat(pid)
    return int(fields[11]) if len(fields) > 11 else 0
