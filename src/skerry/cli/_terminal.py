"""The caller's terminal, in raw mode while a command on a terminal of its own runs, and restored after any death.

Ours by signal, error or end: `restore`. Ours by SIGKILL: a guard process, which holds the other end of a pipe and restores
the terminal when the pipe closes without a word.
"""

from __future__ import annotations

import os
import signal
import termios

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class RawTerminal:
    """Raw mode on `descriptor` from `start` to `restore`. Make it before any thread starts: the guard is a fork."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved = termios.tcgetattr(descriptor)
        self._guard = 0
        self._word = -1
        self._raw = False

    def start(self) -> None:
        self._start_guard()
        self._set_raw()

    def restore(self) -> None:
        """Puts back what was found; more than once is harmless."""
        if not self._raw:
            return
        self._raw = False
        # What is set while we are in the background would stop us, and wait for a shell that waits for us.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
        except termios.error:
            pass  # the terminal is gone
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if self._guard:
            try:
                os.write(self._word, b"k")
            except OSError:
                pass
            os.close(self._word)
            os.waitpid(self._guard, 0)
            self._guard = 0

    def _set_raw(self) -> None:
        raw = termios.tcgetattr(self._descriptor)
        raw[_IFLAG] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
            | termios.ICRNL | termios.IXON
        )  # fmt: skip
        raw[_OFLAG] &= ~termios.OPOST
        raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[_CC] = list(raw[_CC])
        raw[_CC][termios.VMIN] = 1
        raw[_CC][termios.VTIME] = 0
        self._raw = True
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, raw)

    def _start_guard(self) -> None:
        reading, self._word = os.pipe()
        self._guard = os.fork()
        if self._guard:
            os.close(reading)
            return
        try:
            self._keep_watch(reading)
        finally:
            os._exit(0)

    def _keep_watch(self, reading: int) -> None:
        os.setpgid(0, 0)  # what kills our group is not to kill the guard
        for number in ("HUP", "INT", "QUIT", "TERM", "TSTP", "TTIN", "TTOU", "PIPE", "USR1", "USR2"):
            signal.signal(getattr(signal, "SIG" + number), signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        keep = sorted({self._descriptor, reading})
        low = 0
        for descriptor in keep:
            if low < descriptor:  # closerange(0, 0) closes everything
                os.closerange(low, descriptor)
            low = descriptor + 1
        os.closerange(low, 1 << 16)
        if not os.read(reading, 1):
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)


def window_size(descriptor: int) -> tuple[int, int]:
    """Columns and rows; 80 by 24 where the terminal does not say."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return 80, 24
    return columns or 80, rows or 24
