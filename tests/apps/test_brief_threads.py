"""Threads begin and end without the sentry's being asked (ADR 63): it is not, but where somebody is to see each call; and limits hold."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness

MADE = 60


@pytest.fixture(scope="session")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build("brief", tmp_path_factory.mktemp("brief"))


def run(caller: harness.Caller, brief: Path, options: list[str], word: str) -> harness.Completed:
    with caller.workspace() as work:
        done = caller.do(options, [harness.place(brief, work), word], cwd=work)
    assert done.returncode == 0, str(done)
    return done


@pytest.mark.sandbox
@pytest.mark.parametrize("without", ["", "spinning", "load,pace"], ids=["default", "ringing", "spinning"])
def test_the_sentry_is_seldom_asked(caller: harness.Caller, brief: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    monkeypatch.setitem(harness.PLAIN_ENVIRONMENT, "SKERRY_TEST_WITHOUT", without)
    # Of a thousand; without: two each.
    assert int(run(caller, brief, [], "calls").stdout) < 500


@pytest.mark.sandbox
def test_a_trace_has_each_of_them(caller: harness.Caller, brief: Path) -> None:
    lines = run(caller, brief, ["--trace"], "each").stderr.splitlines()
    assert sum(" clone" in line for line in lines) == MADE, lines[:20]
    assert sum(" exit(" in line for line in lines) == MADE, lines[:20]


@pytest.mark.sandbox
@pytest.mark.parametrize("limit", [20, 41, 200])
def test_no_more_of_them_than_the_limit(caller: harness.Caller, brief: Path, limit: int) -> None:
    # With pid 1 and the first thread.
    assert int(run(caller, brief, ["--pids", str(limit)], "most").stdout) == limit - 1
