"""The benchmark's own arithmetic, and that one row can be measured."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import harness
from benches import engines, report
from benches.subjects import Failed, Subject


def lines() -> list[report.Line]:
    fast = report.Line(
        "fast", "ns", goal=2.0, limit=None, values={"native": [100, 90, 130], "skerry": [150, 250, 210], "peer": [1000]}
    )
    whole = report.Line(
        "whole", "ms", goal=None, limit=60, values={"native": [2.0], "skerry": [55.0]}, reasons={"peer": "exit status 1: no"}
    )
    return [fast, whole]


def test_ratios_are_of_medians() -> None:
    fast, whole = lines()
    assert fast.ratio("skerry") == pytest.approx(2.1)
    assert fast.reached("skerry") is False
    assert fast.ratio("peer") == 10
    assert fast.spread("native") == pytest.approx(0.4)
    assert whole.reached("skerry") is True
    assert whole.ratio("peer") is None


def test_the_table_shows_misses_and_reasons() -> None:
    text = report.as_text(lines(), ["native", "skerry", "peer"], {"kernel": "Linux 6"})
    assert "2.10x (210 ns +-24%) !" in text
    assert "10.00x (1000 ns)" in text
    assert "whole, peer: exit status 1: no" in text
    assert "- kernel: Linux 6" in text


def test_json_and_svg_can_be_read_back() -> None:
    data = json.loads(json.dumps(report.as_json(lines(), ["native", "skerry", "peer"], {})))
    assert data["rows"][0]["reached"] is False
    drawing = ElementTree.fromstring(report.as_svg(lines(), ["native", "skerry", "peer"]))
    assert drawing.tag.endswith("svg")


def test_a_peer_is_a_name_and_a_prefix() -> None:
    assert Subject.parse("gvisor=runsc --platform=systrap do").prefix == ("runsc", "--platform=systrap", "do")
    for wrong in ("gvisor", "=runsc", "gvisor="):
        with pytest.raises(ValueError, match="NAME="):
            Subject.parse(wrong)


def test_a_command_that_fails_is_no_value(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="exit status 3: told"):
        Subject("native", ()).run(["sh", "-c", "echo told >&2; exit 3"], cwd=tmp_path)


def test_a_row_is_measured(tmp_path: Path) -> None:
    """`env` stands for a sandbox: the command is the same."""
    if reason := harness.missing("cc"):
        pytest.skip(reason)
    out = tmp_path / "result.json"
    words = [sys.executable, "-m", "benches", "--skerry", "env --", "--rows", "^getppid$", "--rounds", "1", "--json", str(out)]
    done = subprocess.run(words, cwd=harness.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 0.1 < json.loads(out.read_text())["rows"][0]["ratio"]["skerry"] < 10


def test_walls_stand_beside_their_peers(tmp_path: Path) -> None:
    """Without measuring: each command ends in what is to be run, and each dash has its reason."""
    if reason := harness.missing("cc"):
        pytest.skip(reason)
    given = [Subject.parse("spt=my-spt"), Subject.parse("runsc=my-runsc do"), Subject.parse("other=nice")]
    found = {wall.name: wall for wall in engines.walls(tmp_path, ["skerry", "do", "--"], given)}
    assert found["sentry, strict"].commands["/bin/true"] == [
        "skerry", "do", "--engine", "sentry", "--profile", "strict", "--", "/bin/true",
    ]  # fmt: skip
    assert found["runsc"].commands["compile"][:3] == ["my-runsc", "do", "sh"]
    assert found["other"].commands["/bin/true"] == ["nice", "/bin/true"]
    assert found["microvm, no snapshot"].options == {"snapshot": "never"}
    for wall in found.values():
        for column in engines.TIMES:
            assert column in wall.commands or wall.cannot.get(column), (wall.name, column)


def test_the_engines_table_shows_values_and_reasons() -> None:
    one = engines.Wall("one", {"/bin/true": ["true"]}, values={"/bin/true": [3.0, 1.0, 2.0], engines.MEMORY: [3.25]})
    one.surface = {"reachable": 16, "made": 78, "calls": 1130, "functions": 1799, "how": "sampled"}
    two = engines.Wall("two", {}, values={"compile": [2500.0]}, why={"/bin/true": "not installed", "made": "not installed"})
    text = engines.as_text([one, two], {"kernel": "Linux 6"}, 3)
    assert "| one | 2 ms      | -               | -       | 3.25 MiB     | 16        | 78   | 1,130 | 1,799~    |" in text
    assert "2.50 s" in text and "- two: not installed (/bin/true, made)" in text
    told = json.loads(json.dumps(engines.as_json([one, two], {}, 3)))
    assert told["walls"][0]["median"]["/bin/true"] == 2 and told["columns"]["functions"] == "count"


def test_what_cannot_be_measured_does_not_stop_the_rest(tmp_path: Path) -> None:
    walls = [
        engines.Wall("env", {"/bin/true": ["env", "/bin/true"], "compile": ["sh", "-c", "exit 3"]}, ["sh", "-c", engines.UP]),
        engines.Wall("none", {}, cannot=dict.fromkeys(engines.COLUMNS, "not installed")),
    ]
    for wall in walls:
        for column in engines.TIMES:
            wall.cannot.setdefault(column, "left out") if column not in wall.commands else None
        wall.cannot.update(dict.fromkeys(engines.SURFACE, "left out"))
    engines.measure(walls, 2, tmp_path)
    assert len(walls[0].values["/bin/true"]) == 2 and walls[0].median(engines.MEMORY)
    assert "exit status 3" in walls[0].why["compile"] and not walls[1].values
