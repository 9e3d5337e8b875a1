"""What is measured: the host itself, Skerry, and peers that are given as command prefixes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):
    """A command that was to be measured did not work; the message says how."""


@dataclass(frozen=True)
class Subject:
    """One column: `prefix` goes before the command that is measured, and is empty for the host itself."""

    name: str
    prefix: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Subject:
        """From `name='command prefix'`, as --peer takes it. Raises ValueError."""
        name, separator, prefix = text.partition("=")
        words = tuple(shlex.split(prefix))
        if not (name and separator and words):
            raise ValueError(f"{text!r} is not of the form NAME='COMMAND PREFIX'")
        return cls(name, words)

    def command(self, words: Sequence[str]) -> list[str]:
        return [*self.prefix, *words]

    def run(self, words: Sequence[str], *, cwd: Path, timeout: float = 300) -> str:
        """Runs a command to its end; its standard output. Raises Failed where it does not end well."""
        process = subprocess.Popen(
            self.command(words),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {timeout:.0f} s") from None
        finally:
            # What a failed command leaves behind would disturb what is measured next.
            end_session(process)
        if process.returncode != 0:
            told = (err.strip() or out.strip()).splitlines()
            raise Failed(f"exit status {process.returncode}: {told[-1][:200] if told else 'no output'}")
        return out

    def start(self, words: Sequence[str], *, cwd: Path) -> subprocess.Popen[bytes]:
        """Starts a command that goes on until `end_session`."""
        return subprocess.Popen(
            self.command(words), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )


def end_session(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Ends a process and its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    process.wait()
    if process.stdout and not process.stdout.closed:
        process.stdout.close()
    if process.stderr and not process.stderr.closed:
        process.stderr.close()


def memory_kib(pid: int) -> int:
    """Proportional memory (PSS) of a process and all below it, in KiB."""
    return sum(_pss_kib(one) for one in tree(pid))


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # It has ended meanwhile.
            children.setdefault(parent, []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
