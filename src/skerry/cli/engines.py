"""`skerry engines`: the walls that a sandbox can be made of, side by side; `--measure` runs each."""

from __future__ import annotations

from .. import errors
from ..engines.base import ENGINES, engine
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = [
    Option("--measure", "measure", None, "start each engine, and say how long that takes and what it holds in memory"),
    Option("-h --help", "help", None, "print this text"),
]

#: Starts of which the middle one counts.
_STARTS = 5


def run(arguments: Sequence[str]) -> int:
    """Prints the table."""
    values, _ = parse(_OPTIONS, arguments, operands=False)
    if values.get("help"):
        print(help_text("skerry engines", "Lists the walls that a sandbox can be made of.", _OPTIONS))
        return 0
    measure = bool(values.get("measure"))
    print(f"{'engine':<11}{'state':<15}{'level':<7}{'start':<9}{'memory':<9}wall" if measure else _row(*_HEAD))
    for name, level, wall, built in ENGINES:
        state = ("default" if name == "sentry" else "built") if built else "not built yet"
        if not measure:
            print(_row(name, state, str(level), wall))
        elif built:
            runs = engine(name).capabilities.runs
            start, memory = _measured(name) if runs == "programs" else ("-", "-")
            print(f"{name:<11}{state:<15}{level:<7}{start:<9}{memory:<9}{wall}", flush=True)
        if built:
            for option, why in engine(name).capabilities.refuses.items():
                print(f"{'':<11}cannot enforce {option}: {why}")
    return 0


_HEAD = ("engine", "state", "level", "wall")


def _row(name: str, state: str, level: str, wall: str) -> str:
    return f"{name:<11}{state:<15}{level:<7}{wall}"


def _measured(name: str) -> tuple[str, str]:
    """From nothing to the end of /bin/true and of its sandbox; what the engine's processes hold while a program sleeps."""
    import time

    from ..sandbox import Sandbox

    try:
        times = []
        for _ in range(_STARTS):
            start = time.perf_counter()
            with Sandbox(engine=name) as sandbox:
                sandbox.run(["/bin/true"], cwd="/")
            times.append(time.perf_counter() - start)
        with Sandbox(engine=name) as sandbox:
            sleeper = sandbox.spawn(["sleep", "60"], cwd="/")
            assert sandbox._guest is not None
            held = _resident_below(sandbox._guest.pid)
            sleeper.kill()
    except errors.SkerryError as error:
        from . import complain

        complain(f"engines: {name}: {error}")
        return "-", "-"
    return f"{sorted(times)[_STARTS // 2] * 1000:.0f} ms", f"{held / (1 << 20):.1f} MiB"


def _resident_below(top: int) -> int:
    """Bytes that a process and its descendants hold, shared ones by their part."""
    import os

    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as file:
                    parents[int(entry)] = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
    total = 0
    for process in parents:
        above: int | None = process
        while above not in (None, 0, top):
            above = parents.get(above or 0)
        if above == top:
            try:
                with open(f"/proc/{process}/smaps_rollup", encoding="ascii", errors="replace") as file:
                    total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
            except (OSError, ValueError, IndexError):
                continue
    return total
