"""Programs on a terminal: a pseudo terminal driven byte by byte, and a whole screen kept by tmux."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """A program on a pseudo terminal of its own, as its session's leader."""

    def __init__(
        self,
        args: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        cwd: Path | str = "/",
        rows: int = 24,
        columns: int = 80,
    ) -> None:
        words = [str(word) for word in args]
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
                os.execvpe(words[0], words, dict(environment))
            finally:
                os._exit(127)
        self.unread = ""
        self.log = ""
        self._status: int | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is None:
            for number in (signal.SIGHUP, signal.SIGKILL):
                os.kill(self.pid, number)
                if self._reap(1.0):
                    break
        os.close(self.master)

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _receive(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], max(0.0, seconds))[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        text = data.decode(errors="replace")
        self.unread += text
        self.log += text
        return bool(data)

    def expect(self, pattern: str, timeout: float = 20) -> re.Match[str]:
        """Reads until the pattern is found in what nobody has taken yet, and takes everything up to its end."""
        end = time.monotonic() + timeout
        while True:
            if match := re.search(pattern, self.unread, re.DOTALL):
                self.unread = self.unread[match.end() :]
                return match
            left = end - time.monotonic()
            if left <= 0 or not self._receive(left):
                raise AssertionError(f"no {pattern!r}; all that came:\n{self.log[-3000:]!r}\nuntaken: {self.unread[-500:]!r}")

    def wait(self, timeout: float = 20) -> int:
        """The exit status, as a shell counts; reads what still comes."""
        end = time.monotonic() + timeout
        while not self._reap(0):
            if time.monotonic() > end:
                raise AssertionError(f"it does not end; all that came:\n{self.log[-3000:]!r}")
            if not self._receive(0.05):
                time.sleep(0.05)
        assert self._status is not None
        return self._status

    def _reap(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._status = 128 - code if code < 0 else code
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(0.02)
        return True

    def settings(self) -> list:
        return termios.tcgetattr(self.master)


class Screen:
    """A program in a tmux of its own, which keeps what a person would see."""

    def __init__(
        self, args: Sequence[str | Path], *, environment: Mapping[str, str], cwd: Path, rows: int = 24, columns: int = 80
    ):
        self.socket = str(cwd / f"tmux-{os.getpid()}-{id(self):x}")
        self.environment = dict(environment) | {"TERM": "xterm"}
        size = ["-x", str(columns), "-y", str(rows)]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "-c", str(cwd), *(str(word) for word in args))

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-S", self.socket, *words], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"tmux {words}: {done.stderr}"
        return done.stdout

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], env=self.environment, capture_output=True)

    def send(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, rows: int, columns: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    def expect(self, pattern: str, timeout: float = 20) -> str:
        """The screen, once the pattern is on it."""
        end = time.monotonic() + timeout
        while True:
            text = self.text()
            if re.search(pattern, text, re.MULTILINE):
                return text
            if time.monotonic() > end:
                raise AssertionError(f"no {pattern!r} on the screen:\n{text}")
            time.sleep(0.1)

    def settled(self, seconds: float = 0.6) -> str:
        """The screen, once it has not changed for a while."""
        last, since = self.text(), time.monotonic()
        end = since + 20
        while time.monotonic() - since < seconds and time.monotonic() < end:
            time.sleep(0.1)
            now = self.text()
            if now != last:
                last, since = now, time.monotonic()
        return last
