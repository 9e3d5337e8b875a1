"""A hostile program makes its channel up: whoever did nothing wrong notices nothing, and nothing panics."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.sandbox

#: How long one run takes, in seconds, and where it begins; what threads do to each other is never the same again.
SECONDS = os.environ.get("SKERRY_FUZZ_SECONDS", "3")
SEED = os.environ.get("SKERRY_FUZZ_SEED", "1")


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := harness.missing("gcc"):
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("security") / "channel"
    source = Path(__file__).with_name("channel.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-o", str(program), str(source), "-pthread"], check=True)
    return program


@pytest.mark.parametrize("without", ["", "load,pace"], ids=["default", "spinning"])
def test_made_up_channels_harm_nobody_else(
    caller: harness.Caller, channel: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    if without:
        monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    with caller.workspace() as work:
        program = work / "channel"
        program.write_bytes(channel.read_bytes())
        program.chmod(0o755)
        result = caller.sandbox([program, SECONDS, SEED], cwd=work)
    assert (result.returncode, result.stderr) == (0, ""), result
    assert "children" in result.stdout
