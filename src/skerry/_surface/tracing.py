"""The host's tracefs: the system calls, and the functions of the kernel, of some processes and of all that come from them.

Each look is an instance of its own (/sys/kernel/tracing/instances/skerry-surface-PID), which is taken away at the end; what a
killed one has left, the next takes away. No process is stopped, and none can tell that it is looked at.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_PREFIX = "skerry-surface-"

#: For each CPU. What does not fit is said; the functions are looked for again without those that are known.
_CALLS_BUFFER_KIB, _FUNCTIONS_BUFFER_KIB = 16 << 10, 4 << 10

#: Rounds of the same command in which functions are looked for.
ROUNDS = 8

_CALL = re.compile(r"-(\d+)\s+\[\d+\].*?: sys_enter: NR (-?\d+) ")
#: Task, CPU, the letters for interrupts and others, time, function.
_FUNCTION = re.compile(r"-(\d+)\s+\[\d+\] (\S+)\s+[\d.]+: (\S+)(?: \[\S+\])? <-")
#: In the third letter: in an interrupt, or what follows on one. Whose it is nobody knows.
_INTERRUPTED = frozenset("hHsSzZ")


def place() -> str | None:
    """The folder, where it is mounted and we may use it; it is not mounted by us."""
    for path in _PLACES:
        if os.access(f"{path}/instances", os.W_OK):
            return path
    return None


def why_no_functions(top: str) -> str:
    """Why the function tracer cannot be used, or nothing. It is used only where it can be kept to the tasks of a sandbox."""
    if "function" not in _read(f"{top}/available_tracers").split():
        return "this kernel has no function tracer"
    for name in ("set_ftrace_pid", "set_ftrace_notrace"):
        try:
            with open(f"{top}/{name}", encoding="ascii"):
                pass
        except OSError as error:
            return f"the function tracer cannot be kept to a sandbox here: {name}: {error.strerror}"
    return ""


class Calls:
    """System calls by number, and how many events were lost."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.lost = 0


def calls(top: str, run: Callable[[], None], more: Collection[int], ours: Callable[[], Collection[int]]) -> Calls:
    """What the tasks made that `run` started, and `more` ones with what came from them; `ours` are left out."""
    with _instance(top, _CALLS_BUFFER_KIB) as folder:
        _write(f"{folder}/options/event-fork", "1")
        _write(f"{folder}/set_event_pid", " ".join(map(str, (_own_task(), *more))))
        _write(f"{folder}/events/raw_syscalls/sys_enter/enable", "1")
        found = Calls()
        try:
            run()
        finally:
            _write(f"{folder}/events/raw_syscalls/sys_enter/enable", "0")
        left_out = {str(task) for task in ours()}
        for match in _lines(folder, _CALL):
            if match[1] not in left_out:
                number = int(match[2])
                found.counts[number] = found.counts.get(number, 0) + 1
        found.lost = _lost(folder)
        return found


class Functions:
    """Names of functions, and how they were found; `complete` where none can have been missed in the last run."""

    def __init__(self) -> None:
        self.how = "traced"
        self.samples = 0
        self.names: set[str] = set()
        self.complete = False
        self.rounds = 0


def functions(top: str, run: Callable[[], None], more: Collection[int], ours: Callable[[], Collection[int]]) -> Functions:
    """The command is run again and again, each time without the functions that are known, until nothing is lost."""
    order: dict[str, list[str]] = {}
    for number, line in enumerate(_read(f"{top}/available_filter_functions").splitlines(), 1):
        order.setdefault(line.split()[0], []).append(str(number))
    found = Functions()
    with _instance(top, _FUNCTIONS_BUFFER_KIB) as folder:
        _write(f"{folder}/options/function-fork", "1")
        while found.rounds < ROUNDS and not found.complete:
            found.rounds += 1
            _write(f"{folder}/trace", "")
            _write(f"{folder}/set_ftrace_pid", " ".join(map(str, (_own_task(), *more))))
            _write(f"{folder}/current_tracer", "function")
            try:
                run()
            finally:
                _write(f"{folder}/tracing_on", "0")
            left_out = {str(task) for task in ours()}
            new = set()
            for match in _lines(folder, _FUNCTION):
                if match[1] not in left_out and len(match[2]) > 2 and match[2][2] not in _INTERRUPTED:
                    new.add(match[3])
            found.complete = _lost(folder) == 0
            _write(f"{folder}/current_tracer", "nop")
            _write(f"{folder}/tracing_on", "1")
            new -= found.names
            found.names |= new
            indices = [index for name in new for index in order.get(name, ())]
            for start in range(0, len(indices), 500):
                _write(f"{folder}/set_ftrace_notrace", " ".join(indices[start : start + 500]), append=True)
    return found


def tasks_of(names: Iterable[str]) -> list[int]:
    """All threads of the processes that go by these names, or have these numbers."""
    wanted = set(names)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (entry in wanted or _read(f"/proc/{entry}/comm").strip() in wanted):
            try:
                found += [int(task) for task in os.listdir(f"/proc/{entry}/task")]
            except OSError:
                continue
    return found


def _own_task() -> int:
    import threading

    return threading.get_native_id()


@contextmanager
def _instance(top: str, buffer_kib: int) -> Iterator[str]:
    _sweep(top)
    folder = f"{top}/instances/{_PREFIX}{os.getpid()}"
    os.mkdir(folder)
    try:
        _write(f"{folder}/buffer_size_kb", str(buffer_kib))
        yield folder
    finally:
        for name, text in (("tracing_on", "0"), ("current_tracer", "nop")):
            try:
                _write(f"{folder}/{name}", text)
            except OSError:
                pass  # the end of the instance is the end of these
        os.rmdir(folder)


def _sweep(top: str) -> None:
    for name in os.listdir(f"{top}/instances"):
        number = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and (number == str(os.getpid()) or not os.path.exists(f"/proc/{number}")):
            try:
                os.rmdir(f"{top}/instances/{name}")
            except OSError:
                pass  # somebody else does it


def _lines(folder: str, shape: re.Pattern[str]) -> Iterator[re.Match[str]]:
    with open(f"{folder}/trace", encoding="ascii", errors="replace") as file:
        for line in file:
            if match := shape.search(line):
                yield match


def _lost(folder: str) -> int:
    """Events that found no room, of all CPUs."""
    lost = 0
    for cpu in os.listdir(f"{folder}/per_cpu"):
        for line in _read(f"{folder}/per_cpu/{cpu}/stats").splitlines():
            name, _, value = line.partition(":")
            if name in ("overrun", "commit overrun", "dropped events"):
                lost += int(value)
    return lost


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str, *, append: bool = False) -> None:
    with open(path, "a" if append else "w", encoding="ascii") as file:
        file.write(text)
