"""The seccomp filters that a process is under, read back from the host (ptrace(2), as root)."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time

_SEIZE, _INTERRUPT, _DETACH, _GET_FILTER = 0x4206, 0x4207, 17, 0x420C
_WALL = 0x40000000

#: How long a process may take to stop.
_PATIENCE = 10.0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def mode(pid: int) -> int:
    """0: no filter; 1: strict; 2: filters; -1: it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Seccomp:"):
                    return int(line.split()[1])
    except OSError:
        return -1
    return 0


def waits_for_an_answer(pid: int) -> bool:
    """Whether it has asked its supervisor, and waits in a way that nothing but its end interrupts."""
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii", errors="replace") as file:
            return "user_notification" in file.read()
    except OSError:
        return False


#: Threads of one process that are looked at.
_MOST_THREADS = 16


def of_process(pid: int) -> list[list[list[tuple[int, int, int, int]]]]:
    """Those of each of its threads: whoever has one of them has them all, as they share their memory."""
    threads = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))[:_MOST_THREADS]
    found = []
    for thread in threads:
        if thread == pid or not waits_for_an_answer(thread):
            programs = read(thread)
            if programs not in found:
                found.append(programs)
    return found


def read(pid: int) -> list[list[tuple[int, int, int, int]]]:
    """Of one thread, the newest first. OSError: not by root, of one that does not stop, or of one that is traced already."""
    _ptrace(_SEIZE, pid, None, None)
    try:
        _ptrace(_INTERRUPT, pid, None, None)
        _wait(pid)
        programs: list[list[tuple[int, int, int, int]]] = []
        while True:
            try:
                length = _ptrace(_GET_FILTER, pid, len(programs), None)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return programs
                raise
            buffer = ctypes.create_string_buffer(length * 8)
            _ptrace(_GET_FILTER, pid, len(programs), buffer)
            programs.append(list(struct.iter_unpack("<HBBI", buffer.raw)))
    finally:
        _libc.ptrace(_DETACH, pid, None, None)


def _ptrace(request: int, pid: int, address: int | None, data: object) -> int:
    value = int(_libc.ptrace(request, pid, address, data))
    if value < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return value


def _wait(pid: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG | _WALL)
        if found == pid:
            if not os.WIFSTOPPED(status):
                raise ProcessLookupError(errno.ESRCH, "it has ended")
            if os.WSTOPSIG(status) not in (signal.SIGTRAP, signal.SIGSTOP):
                continue
            return
        time.sleep(0.001)
    raise TimeoutError(errno.ETIMEDOUT, "it does not stop")
