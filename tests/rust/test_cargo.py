"""The Rust side's own tests, so that one command runs everything."""

from __future__ import annotations

import re
import subprocess

import pytest

import harness


@pytest.mark.slow
def test_cargo_workspace() -> None:
    if reason := harness.missing("cargo"):
        pytest.skip(reason)
    done = subprocess.run(
        ["cargo", "test", "--workspace", "--locked", "--quiet"], cwd=harness.ROOT, capture_output=True, text=True, check=False
    )
    print(done.stdout[-20000:])
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-10000:]
    counts = [int(count) for count in re.findall(r"test result: ok\. (\d+) passed", done.stdout)]
    assert sum(counts) > 0, "cargo ran no test"
    print(f"{sum(counts)} Rust tests passed")
