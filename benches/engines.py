"""Each engine beside its bare peer, in one run: `python3 -m benches --engines`. Whatever is missing here is a dash, with the reason.

A peer is what an engine could be had as without Skerry: the same kind of wall, put up by its own program. Guests with a kernel of
their own have bare ones as peers, whose init is `bare_init.c`; the time is until the machine is off.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import report
from .rows import PYTHON
from .subjects import Failed, Subject, end_session, memory_kib

HERE = Path(__file__).resolve().parent
IMAGE_SOURCES = HERE.parent / "tests" / "engines" / "unikernel"
IMAGE_FLAGS = [
    "-std=gnu11",
    "-O1",
    "-ffreestanding",
    "-fno-pic",
    "-no-pie",
    "-nostdlib",
    "-static",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
    "-Wl,--build-id=none",
]
#: As in crates/machine/build.rs.
REGISTERS_FLAGS = ["--edition=2021", "--crate-type=cdylib", "--crate-name=skerry_registers", "-Cpanic=abort", "-Copt-level=2"]
REGISTERS_FLAGS += ["-Cstrip=symbols", "-Clink-arg=-nostdlib", "-Clink-arg=-nostartfiles"]

#: What is run, by the column's name.
TIMES = ("/bin/true", "python3 -c pass", "compile")
MEMORY = "memory, idle"
SURFACE = ("reachable", "made", "calls", "functions")
COLUMNS = (*TIMES, MEMORY, *SURFACE)
UNITS = {**dict.fromkeys(TIMES, "ms"), MEMORY: "MiB"}
UP = "echo up; exec sleep 1000"
#: What takes longer is measured once.
LONG_MS = 4000
#: Seconds, and samples of the kernel's stacks, for each wall: the table is to be had in some minutes.
LOOK_SECONDS, LOOK_SAMPLES = 5.0, 10_000


@dataclass
class Wall:
    """A row: how each thing is run. What is not in `commands` cannot be, for the reason in `cannot`."""

    name: str
    commands: dict[str, list[str]]
    #: Starts one that says "up" and waits.
    idle: list[str] | None = None
    cannot: dict[str, str] = field(default_factory=dict)
    #: As an engine of ours: its name, and the options of a sandbox; None: a peer.
    engine: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    #: A machine with `bare_init.c` as its init.
    is_bare: bool = False
    values: dict[str, list[float]] = field(default_factory=dict)
    surface: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def median(self, column: str) -> float | None:
        """Of a column that has a number."""
        if column in SURFACE:
            value = self.surface.get(column)
            return None if value is None else float(value)
        values = self.values.get(column)
        return statistics.median(values) if values else None


def walls(directory: Path, skerry: Sequence[str], peers: Sequence[Subject]) -> list[Wall]:
    """All rows, each engine's peers behind it. `peers` replace those that are found here, by name."""
    given = {peer.name: list(peer.prefix) for peer in peers}
    base = [*skerry[:-1]] if skerry[-1:] == ["--"] or skerry[-1:] == ("--",) else [*skerry]
    programs = _programs()

    def engine(name: str, label: str = "", **options: str) -> Wall:
        words = [*base, "--engine", name]
        for key, value in options.items():
            words += [f"--{key}", value]
        return _prefixed(label or name, [*words, "--"], programs, engine=name, options=options)

    def peer(name: str, prefix: list[str], program: str) -> Wall:
        if name in given:
            prefix = given.pop(name)
        elif shutil.which(program) is None:
            return Wall(name, {}, cannot=dict.fromkeys(COLUMNS, f"{program} is not installed"))
        return _prefixed(name, prefix, programs)

    runsc = ["runsc", "--network=none", "--ignore-cgroups", "--overlay2=root:memory", "--platform=systrap", "do"]
    bubblewrap = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run"]
    found = [
        _prefixed("the host itself", [], programs),
        engine("sentry"),
        engine("sentry", "sentry, strict", profile="strict"),
        peer("runsc", runsc, "runsc"),
        engine("namespace"),
        peer("crun", [str(HERE / "peers" / "crun.sh")], "crun"),
        engine("rules"),
        peer("bubblewrap", bubblewrap, "bwrap"),
        engine("uml"),
        _bare_uml(directory, programs),
        engine("microvm", "microvm"),
        engine("microvm", "microvm, no snapshot", snapshot="never"),
        _bare_qemu(directory),
        *_unikernels(directory, base, given.pop("spt", None)),
    ]
    return [*found, *(_prefixed(name, prefix, programs) for name, prefix in given.items())]


def _library(name: str) -> Any:
    """Of Skerry's own modules: of the one that is installed, or of this tree's."""
    if importlib.util.find_spec("skerry") is None:
        sys.path.append(str(HERE.parent / "src"))
    return importlib.import_module(name)


def _programs() -> dict[str, list[str]]:
    compiler = f"gcc -O2 -S -o - {HERE / 'system_calls.c'} > /dev/null"
    return {"/bin/true": ["/bin/true"], "python3 -c pass": [PYTHON, "-c", "pass"], "compile": ["sh", "-c", compiler]}


def _prefixed(name: str, prefix: list[str], programs: dict[str, list[str]], **more: Any) -> Wall:
    commands = {column: [*prefix, *words] for column, words in programs.items()}
    return Wall(name, commands, [*prefix, "sh", "-c", UP], **more)


def _init(directory: Path) -> str:
    program = directory / "bare-init"
    if not program.exists():
        subprocess.run(["cc", "-O1", "-static", "-o", program, HERE / "bare_init.c"], check=True)
    return str(program)


def _bare_uml(directory: Path, programs: dict[str, list[str]]) -> Wall:
    kernel = shutil.which("linux.uml") or shutil.which("linux")
    if kernel is None:
        return Wall("bare uml", {}, cannot=dict.fromkeys(COLUMNS, "linux.uml is not installed"))
    registers = directory / "registers.so"
    if shutil.which("rustc") is None:
        needed = "rustc, which crates/registers is built with: such a kernel has no room for the registers of newer processors"
        return Wall("bare uml", {}, cannot=dict.fromkeys(COLUMNS, needed))
    if not registers.exists():
        subprocess.run(["rustc", *REGISTERS_FLAGS, HERE.parent / "crates/registers/src/lib.rs", "-o", registers], check=True)
    # Words with blanks do not get through a command line of the kernel's.
    script = directory / "compile.sh"
    script.write_text(programs["compile"][2])
    words = [
        "env", f"LD_PRELOAD={registers}", "setarch", "x86_64", "-R", kernel, "mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "con=null", "con0=null,fd:1",
        "ssl=null", "panic=-1", f"uml_dir={directory}/", f"init={_init(directory)}", "--",
    ]  # fmt: skip
    programs = {**programs, "compile": ["/bin/sh", str(script)]}
    wall = Wall("bare uml", {column: [*words, *more] for column, more in programs.items()}, [*words, "idle"], is_bare=True)
    wall.cannot["reachable"] = "it is under no filter"
    return wall


def _bare_qemu(directory: Path) -> Wall:
    name = "bare qemu (tcg)"
    try:
        initramfs, vmm = _library("skerry.vmm.initramfs"), _library("skerry.vmm.kernel")
        kernel = vmm.find()
    except Exception as error:
        return Wall(name, {}, cannot=dict.fromkeys(COLUMNS, str(error).splitlines()[0]))
    if shutil.which("qemu-system-x86_64") is None:
        return Wall(name, {}, cannot=dict.fromkeys(COLUMNS, "qemu-system-x86_64 is not installed"))
    archive = directory / "initramfs"
    archive.write_bytes(initramfs.cpio([("init", Path(_init(directory)).read_bytes(), 0o100755), ("dev", b"", 0o040755)]))
    words = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35", "-accel", "tcg",
        "-cpu", "max", "-m", "256M", "-kernel", kernel.path, "-initrd", str(archive), "-chardev", "stdio,id=console,signal=off",
        "-serial", "chardev:console", "-append",
    ]  # fmt: skip
    line = "console=ttyS0 quiet loglevel=0 panic=-1"
    wall = Wall(name, {"/bin/true": [*words, line]}, [*words, f"{line} -- idle"], is_bare=True)
    wall.cannot = dict.fromkeys(("python3 -c pass", "compile"), "it has no files of the host's")
    wall.cannot["reachable"] = "it is under no filter"
    return wall


def _unikernels(directory: Path, base: list[str], solo5: list[str] | None) -> list[Wall]:
    image = directory / "image"
    cannot = dict.fromkeys((*TIMES[1:], MEMORY), "it runs images, no programs")
    source = [f"-Wl,-T,{IMAGE_SOURCES}/image.ld", str(IMAGE_SOURCES / "tasks.c")]
    built = subprocess.run(["gcc", *IMAGE_FLAGS, *source, "-o", str(image)], stderr=subprocess.DEVNULL, check=False)
    if built.returncode != 0:
        cannot = dict.fromkeys(COLUMNS, "its image could not be built (tests/engines/unikernel)")
        return [Wall("unikernel", {}, cannot=cannot)]
    words = [str(image), "hello"]
    ours = Wall(
        "unikernel (a hello)",
        {"/bin/true": [*base, "--engine", "unikernel", "--", *words]},
        cannot=cannot,
        engine="unikernel",
        options={"image": " ".join(words)},
    )
    if solo5 is None:
        given = "give --peer spt='solo5-spt'"
        return [ours, Wall("solo5-spt", {}, cannot=dict.fromkeys(COLUMNS, given))]
    return [ours, Wall("solo5-spt", {"/bin/true": [*solo5, *words]}, cannot=dict(cannot))]


# --- measuring ---


def measure(found: Sequence[Wall], rounds: int, directory: Path) -> None:
    """Everything, into the walls: the times in rounds, one after another; then memory; then what the host's kernel had to do."""
    for number in range(rounds):
        for wall in found:
            for column in TIMES:
                if any(value > LONG_MS for value in wall.values.get(column, ())):
                    continue
                _say(f"round {number + 1}/{rounds}: {wall.name}: {column}")
                _measure(wall, column, lambda wall=wall, column=column: _time(wall, column, directory))
    for wall in found:
        _say(f"memory: {wall.name}")
        _measure(wall, MEMORY, lambda wall=wall: _idle_mib(wall, directory))
    for wall in found:
        _say(f"the host's kernel: {wall.name}")
        _look(wall)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _measure(wall: Wall, column: str, one: Any) -> None:
    reason = wall.cannot.get(column) or wall.why.get(column)
    if reason is None:
        try:
            wall.values.setdefault(column, []).append(one())
            return
        except (Failed, OSError) as error:
            reason = str(error)
            wall.values.pop(column, None)
    wall.why[column] = reason


def _time(wall: Wall, column: str, directory: Path) -> float:
    words = wall.commands[column]
    start = time.monotonic_ns()
    if wall.is_bare:
        if "ran" not in _run_bare(words).split():
            raise Failed("its init did not run the command")
    else:
        Subject(wall.name, ()).run(words, cwd=directory, timeout=60)
    return (time.monotonic_ns() - start) / 1e6


def _run_bare(words: Sequence[str]) -> str:
    """What is on its console; it ends with whatever status it likes."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise Failed("no end after 60 s") from None
    return done.stdout.decode("utf-8", "replace")


def _idle_mib(wall: Wall, directory: Path) -> float:
    """Of all processes that belong to one that is up and waits (PSS)."""
    if wall.idle is None:
        raise Failed("it does not wait")
    process = Subject(wall.name, ()).start(wall.idle, cwd=directory)
    try:
        for line in process.stdout or ():
            if line.strip().endswith(b"up"):
                time.sleep(1)
                return memory_kib(process.pid) / 1024
        raise Failed("it did not start")
    finally:
        end_session(process)


def _look(wall: Wall) -> None:
    """By the library of `skerry surface`."""
    columns = [column for column in SURFACE if column not in wall.cannot]
    wall.why.update({column: wall.cannot[column] for column in SURFACE if column in wall.cannot})
    if not wall.commands or not columns:
        return
    try:
        subject = _subject(wall)
        tracing = _library("skerry._surface.tracing")
        found = subject.look(tracing.place(), functions=True)
    except Exception as error:  # of this one: the others can be looked at all the same
        wall.why.update(dict.fromkeys(columns, (str(error) or type(error).__name__).splitlines()[0]))
        return
    application = found.application
    if application is not None and application.filters is None:
        # A machine's processes that somebody traces have the filters of the one that traces them.
        application = next((one for one in found.others if one.name == application.name and one.filters), application)
    if application is not None and application.filters is not None:
        wall.surface["reachable"] = len(application.reached)
    if found.calls is not None:
        wall.surface["made"], wall.surface["calls"] = len(found.calls.counts), sum(found.calls.counts.values())
    if found.functions is not None:
        wall.surface["functions"] = len(found.functions.names)
        wall.surface["how"] = found.functions.how
        wall.surface["samples"] = found.functions.samples
    notes = "; ".join(found.notes) or "not known"
    wall.why.update({column: notes for column in columns if wall.surface.get(column) is None})


def _subject(wall: Wall) -> Any:
    """As `skerry surface` has it."""
    subjects = _library("skerry._surface.subjects")
    sampling = _library("skerry._surface.sampling")
    sampling.SECONDS, sampling.SAMPLES = LOOK_SECONDS, LOOK_SAMPLES
    words = wall.commands["/bin/true"]
    if wall.engine is not None:
        options = dict(wall.options)
        image = options.pop("image", None)
        profile = options.get("profile")
        subject = subjects.Engine(
            wall.engine + (f":{profile}" if profile else ""), shlex.split(image) if image else ["/bin/true"]
        )
        subject.more = {key: value for key, value in options.items() if key != "profile"}
        return subject
    if wall.is_bare:

        class Bare(subjects.Peer):  # type: ignore[name-defined,misc]
            """Nothing of it is looked at but its run."""

            def run(self) -> None:
                self._remember_ours()
                _run_bare(words)

            def look_at_filters(self, found: Any) -> None:
                pass

        return Bare(wall.name, "env", ["true"])
    return subjects.Peer(wall.name, shlex.join(words[:-1]) or "env", words[-1:])


# --- the table ---


def as_text(found: Sequence[Wall], facts: dict[str, str], rounds: int) -> str:
    """Markdown."""
    table = [["", *COLUMNS]]
    table += [[wall.name, *(_cell(wall, column) for column in COLUMNS)] for wall in found]
    lines = [
        *report.markdown(table, facts),
        "",
        f"Times: medians of {rounds}, from the start of the command to its end. compile: `gcc -O2 -S` of `benches/system_calls.c`.",
        "Memory: PSS of all processes that belong to one that waits. Of `/bin/true`: the host's system calls that the application",
        "(of a machine: its monitor) can reach, different ones that all of the sandbox made, and how many; functions of the",
        "host's kernel that ran for it (~: seen in samples, at least so many).",
    ]
    reasons: dict[str, list[str]] = {}
    for wall in found:
        for column, why in wall.why.items():
            reasons.setdefault(f"{wall.name}: {why}", []).append(column)
    if reasons:
        lines += ["", "Without a value:", *(f"- {reason} ({', '.join(columns)})" for reason, columns in reasons.items())]
    return "\n".join(lines) + "\n"


def _cell(wall: Wall, column: str) -> str:
    value = wall.median(column)
    if value is None:
        return "-"
    if column in SURFACE:
        return f"{value:,.0f}" + ("~" if column == "functions" and wall.surface.get("how") == "sampled" else "")
    if column == MEMORY:
        return f"{value:.3g} MiB"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"


def as_json(found: Sequence[Wall], facts: dict[str, str], rounds: int) -> dict[str, Any]:
    """All values."""
    return {
        "facts": facts,
        "rounds": rounds,
        "columns": {column: UNITS.get(column, "count") for column in COLUMNS},
        "walls": [
            {
                "name": wall.name,
                "engine": wall.engine,
                "values": wall.values,
                "surface": wall.surface,
                "median": {column: wall.median(column) for column in COLUMNS},
                "reasons": wall.why,
            }
            for wall in found
        ],
    }
