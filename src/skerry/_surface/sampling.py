"""Functions of the kernel by samples of its stacks, where the function tracer cannot be kept to a sandbox: these ran at least.

perf_event_open(2) with the clock that every host has, of the tasks that this process starts and of all that come from them.
What interrupts do is left out, and so is what the sampling itself makes the kernel do.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import struct
import threading
import time
from contextlib import ExitStack

from .tracing import Functions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

#: So many samples with anything in them are enough, or so many runs, or so many seconds: the same for all subjects.
SAMPLES, RUNS, SECONDS = 20_000, 60, 12.0

#: Nanoseconds of a task's time between two samples; the host may thin them out.
_PERIOD = 19_997
_PERF_EVENT_OPEN = 298
_SOFTWARE, _CPU_CLOCK = 1, 0
_SAMPLE_TID, _SAMPLE_CALLCHAIN = 1 << 1, 1 << 5
_INHERIT, _EXCLUDE_USER, _EXCLUDE_USERS_CHAIN = 1 << 1, 1 << 4, 1 << 22
_RECORD_SAMPLE = 9
#: Of the attributes; of each CPU's buffer.
_SIZE, _PAGES = 112, 512
#: Addresses from here on say what kind the next ones are.
_MARKS = 2**64 - 4095
_MARK_USER = 2**64 - 512

#: Whatever runs below (that is: was called from) one of these is not the task's doing.
_ENTRIES = ("asm_sysvec_", "sysvec_", "asm_common_interrupt", "common_interrupt", "asm_exc_nmi", "perf_", "__perf_")

_libc = ctypes.CDLL(None, use_errno=True)


class Symbols:
    """Names of the kernel's functions by address."""

    def __init__(self, text: str) -> None:
        known = []
        for line in text.splitlines():
            address, kind, name, *_ = line.split()
            if kind in "tTwW" and int(address, 16):
                known.append((int(address, 16), name))
        known.sort()
        self._addresses = [address for address, _ in known]
        self._names = [name for _, name in known]

    def __bool__(self) -> bool:
        return bool(self._names)

    def name(self, address: int) -> str | None:
        """Of the function that the address is in."""
        place = bisect.bisect_right(self._addresses, address) - 1
        return self._names[place].removesuffix(".cold") if place >= 0 else None


def why_not() -> str:
    """Why there are no samples here, or nothing."""
    try:
        os.close(_open(threading.get_native_id(), 0))
    except OSError as error:
        return f"and perf_event_open gives no samples: {error.strerror}"
    return "" if _symbols() else "and /proc/kallsyms shows no addresses (kernel.kptr_restrict)"


def _symbols() -> Symbols:
    with open("/proc/kallsyms", encoding="ascii", errors="replace") as file:
        return Symbols(file.read())


def functions(
    run: Callable[[], None], more: Collection[int], ours: Callable[[], Collection[int]], *, samples: int = SAMPLES
) -> Functions:
    """The command is run again and again until there are enough samples."""
    found = Functions()
    found.how = "sampled"
    symbols = _symbols()
    with ExitStack() as stack:
        buffers = []
        for task in (threading.get_native_id(), *more):
            for cpu in sorted(os.sched_getaffinity(0)):
                descriptor = _open(task, cpu)
                stack.callback(os.close, descriptor)
                buffers.append(stack.enter_context(mmap.mmap(descriptor, (1 + _PAGES) * mmap.PAGESIZE)))
        start = time.monotonic()
        while found.samples < samples and found.rounds < RUNS and time.monotonic() - start < SECONDS:
            found.rounds += 1
            run()
            left_out = frozenset(ours())
            for buffer in buffers:
                for task, chain in _samples(_drain(buffer)):
                    if task not in left_out and (names := of_chain(chain, symbols)):
                        found.samples += 1
                        found.names |= names
    return found


def of_chain(chain: list[int], symbols: Symbols) -> set[str]:
    """The functions of one stack, the innermost first, that ran for the task."""
    names: set[str] = set()
    for address in chain:
        name = symbols.name(address)
        if name is None:
            continue
        if name.startswith(_ENTRIES):
            names.clear()
        else:
            names.add(name)
    return names


def _open(task: int, cpu: int) -> int:
    flags = _INHERIT | _EXCLUDE_USER | _EXCLUDE_USERS_CHAIN
    words = struct.pack("<IIQQQQQ", _SOFTWARE, _SIZE, _CPU_CLOCK, _PERIOD, _SAMPLE_TID | _SAMPLE_CALLCHAIN, 0, flags)
    attributes = ctypes.create_string_buffer(words, _SIZE)
    descriptor = int(_libc.syscall(ctypes.c_long(_PERF_EVENT_OPEN), attributes, task, cpu, -1, ctypes.c_ulong(8)))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


def _drain(buffer: mmap.mmap) -> bytes:
    """What has come since the last time."""
    head, tail = struct.unpack_from("<QQ", buffer, 1024)
    size = _PAGES * mmap.PAGESIZE
    start, end = mmap.PAGESIZE + tail % size, mmap.PAGESIZE + head % size
    if head - tail >= size or (head > tail and end <= start):
        data = buffer[start:] + buffer[mmap.PAGESIZE : end]
    else:
        data = buffer[start:end]
    struct.pack_into("<Q", buffer, 1032, head)
    return data


def _samples(data: bytes) -> Iterator[tuple[int, list[int]]]:
    """Task, and the addresses of its stack in the kernel."""
    at = 0
    while at + 8 <= len(data):
        kind, _, size = struct.unpack_from("<IHH", data, at)
        if size < 8:
            return
        if kind == _RECORD_SAMPLE and size >= 24 and at + size <= len(data):
            _, task, count = struct.unpack_from("<IIQ", data, at + 8)
            count = min(count, (size - 24) // 8)
            chain = struct.unpack_from(f"<{count}Q", data, at + 24)
            if _MARK_USER in chain:
                chain = chain[: chain.index(_MARK_USER)]
            yield task, [address for address in chain if address < _MARKS]
        at += size
