"""`python3 -m benches`: measures, and writes the table."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import engines, report, rows
from .facts import facts
from .subjects import Failed, Subject

HERE = Path(__file__).resolve().parent


def main() -> int:
    """The command line."""
    options = _options()
    if options.floors:
        with tempfile.TemporaryDirectory(prefix="skerry-bench-") as name:
            subprocess.run([_compile(Path(name), "floors")], check=True)
        return 0
    if options.engines:
        return _engines(options)
    subjects = [Subject("native", ()), Subject("skerry", tuple(shlex.split(options.skerry))), *options.peer]
    chosen = [row for row in rows.rows() if not options.rows or re.search(options.rows, row.name)]
    if options.list:
        print("\n".join(row.name for row in chosen))
        return 0
    if not chosen:
        print(f"benches: no row matches {options.rows!r}; --list shows them all", file=sys.stderr)
        return 2
    known = facts()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as name:
        # Ordinary users, and servers that drop their privileges, work here too.
        Path(name).chmod(0o755)
        bench = _prepare(Path(name))
        lines = [_measure(bench, row, subjects, options.rounds) for row in chosen]
    names = [subject.name for subject in subjects]
    text = report.as_text(lines, names, known)
    print(text, end="")
    if options.text:
        options.text.write_text(text)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(lines, names, known), indent=1) + "\n")
    if options.svg:
        options.svg.write_text(report.as_svg(lines, names))
    return 0


def _engines(options: argparse.Namespace) -> int:
    known = facts()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as name:
        Path(name).chmod(0o755)
        found = engines.walls(Path(name), shlex.split(options.skerry), options.peer)
        found = [wall for wall in found if not options.rows or re.search(options.rows, wall.name)]
        engines.measure(found, options.rounds, Path(name))
    text = engines.as_text(found, known, options.rounds)
    print(text, end="")
    if options.text:
        options.text.write_text(text)
    if options.json:
        options.json.write_text(json.dumps(engines.as_json(found, known, options.rounds), indent=1) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m benches", description=__doc__)
    parser.add_argument("--skerry", default="skerry do --", metavar="PREFIX", help="how Skerry runs a command (%(default)s)")
    parser.add_argument(
        "--peer", action="append", default=[], type=_peer, metavar="NAME='PREFIX'", help="another column; may be repeated"
    )
    parser.add_argument("--rows", metavar="REGEX", help="only rows whose names match")
    parser.add_argument(
        "--engines", action="store_true", help="each engine beside its bare peer instead, a row each (in minutes; best as root)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each row is measured for each column, in turn (%(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="show the rows' names")
    parser.add_argument("--floors", action="store_true", help="show what this host lets a guest kernel have at best (floors.c)")
    for kind in ("text", "json", "svg"):
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write the table as {kind.upper()}")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    return options


def _peer(text: str) -> Subject:
    try:
        return Subject.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _prepare(directory: Path) -> rows.Bench:
    return rows.Bench(directory, _compile(directory, "system_calls"))


def _compile(directory: Path, name: str) -> Path:
    if shutil.which("cc") is None:
        raise SystemExit("benches: a C compiler (cc) is needed")
    program = directory / name
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, HERE / f"{name}.c"], check=True)
    return program


def _measure(bench: rows.Bench, row: rows.Row, subjects: list[Subject], rounds: int) -> report.Line:
    line = report.Line(row.name, row.unit, row.goal, row.limit)
    if reason := row.missing():
        line.reasons["all"] = reason
        return line
    if row.prepare:
        row.prepare(bench.directory)
    for number in range(rounds):
        for subject in subjects:
            if subject.name in line.reasons or not (row.native or subject.prefix):
                continue
            try:
                line.values.setdefault(subject.name, []).append(row.measure(bench, subject))
            except Failed as error:
                line.reasons[subject.name] = str(error)
                line.values.pop(subject.name, None)
        if sys.stderr.isatty():
            print(f"\r{row.name}: {number + 1}/{rounds}\033[K", end="\n" if number + 1 == rounds else "", file=sys.stderr)
    return line


if __name__ == "__main__":
    sys.exit(main())
