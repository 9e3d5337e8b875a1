"""Fixtures and options that all tests share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

import harness


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("skerry")
    group.addoption("--native-only", action="store_true", help="run behaviour tests on Linux itself, none in a sandbox")
    group.addoption(
        "--without", metavar="NAMES", help="run every sandbox without these parts or features of the host (comma-separated)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if without := config.getoption("--without"):
        os.environ["SKERRY_TEST_WITHOUT"] = harness.PLAIN_ENVIRONMENT["SKERRY_TEST_WITHOUT"] = without
    # Started in the background by a shell, we (and so all that we start) would ignore these.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "slow: takes more than some ten seconds")
    config.addinivalue_line("markers", "sandbox: runs programs in a sandbox; left out by --native-only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--native-only"):
        skip = pytest.mark.skip(reason="--native-only")
        for item in items:
            if item.get_closest_marker("sandbox"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def native_only(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--native-only")


@pytest.fixture(scope="session")
def ourselves() -> harness.Caller:
    """Whoever runs the tests, with the skerry that is installed beside this Python."""
    return harness.ourselves()


@pytest.fixture(scope="session")
def nobody(native_only: bool):
    """The user `nobody`, with a skerry that is installed in a folder that `nobody` can read."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    if reason := harness.missing("setpriv"):
        pytest.skip(reason)
    if native_only:
        yield harness.nobody(None)
        return
    if chosen := os.environ.get("SKERRY_FOR_NOBODY"):
        yield harness.nobody(Path(chosen))
        return
    folder = Path(tempfile.mkdtemp(prefix="skerry-nobody-"))
    folder.chmod(0o755)
    try:
        yield harness.nobody(install_for_everybody(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install_for_everybody(folder: Path) -> Path:
    """Installs this checkout with the system's own Python, which ordinary users can reach, and returns the command."""

    def step(*words: str | Path) -> None:
        done = subprocess.run([str(word) for word in words], cwd=harness.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"

    system_python = "/usr/bin/python3"
    if not Path(system_python).exists():
        pytest.skip(f"there is no {system_python} that nobody could run")
    step(system_python, "-m", "venv", folder / "venv")
    python = folder / "venv/bin/python"
    step(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", harness.ROOT)
    command = folder / "venv/bin/skerry"
    step("chmod", "-R", "a+rX", folder)
    return command


@pytest.fixture(scope="session", params=["root", "nobody"])
def caller(request: pytest.FixtureRequest) -> harness.Caller:
    """A test that takes this runs twice: started by whoever runs the tests (root, in CI), and by `nobody`."""
    return request.getfixturevalue("ourselves" if request.param == "root" else "nobody")
