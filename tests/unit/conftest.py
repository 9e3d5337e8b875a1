"""Every unit test gets the fake sentry; with SKERRY_UNIT_SENTRY set, the one that it names.

With a real sentry the tests fail that need the fake's ways (FAKE_SENTRY, OUT-OF-MEMORY) or plain host processes."""

import os
import pathlib
import stat
import sys

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture(autouse=True)
def fake_sentry(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets Skerry find the fake sentry."""
    if real := os.environ.get("SKERRY_UNIT_SENTRY"):
        monkeypatch.setenv("SKERRY_SENTRY", real)
        return real
    script = tmp_path_factory.mktemp("fake") / "skerry-sentry"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S {HERE / "fake_sentry.py"} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SKERRY_SENTRY", str(script))
    return str(script)


@pytest.fixture
def command_environment() -> dict[str, str]:
    """The environment for a `skerry` command as a process of its own."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}
