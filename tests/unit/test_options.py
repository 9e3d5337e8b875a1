"""Options become the boot message."""

from __future__ import annotations

import base64
import os
import pathlib
from typing import Any

import pytest

from skerry import UsageError
from skerry._options import Options


def targets(**options: Any) -> list[tuple[str, str]]:
    """Where what is mounted, in order; the files with the sandbox's own name have a test of theirs."""
    mounts = Options(**options).boot_message()["mounts"]
    return [(mount["target"], mount["type"]) for mount in mounts if mount["type"] != "file"]


def test_the_host_shows_through_and_its_system_directories_do_not() -> None:
    assert targets() == [
        ("/", "overlay"), ("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs"), ("/run", "tmpfs"), ("/dev/shm", "tmpfs"),
    ]  # fmt: skip


def test_the_defaults() -> None:
    boot = Options().boot_message()
    assert boot["identity"] == "caller_is_root"
    assert boot["network"] == "loopback"
    assert boot["limits"]["pids"] == 4096
    assert boot["limits"]["memory"] is None
    assert boot["limits"]["memory_files"] > 0
    assert Options(memory="1m").boot_message()["limits"]["memory_files"] == 1 << 20
    assert Options(user="caller").boot_message()["identity"] == "host"


def test_a_deeper_mount_lies_over_the_one_above_it(tmp_path: pathlib.Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    found = targets(read_only=[inner], read_write=[tmp_path / "a"], hide=[tmp_path], tmpfs=[inner / "c"])
    assert found[-4:] == [
        (str(tmp_path), "hide"), (str(tmp_path / "a"), "host_read_write"), (str(inner), "host_read_only"), (str(inner / "c"), "tmpfs"),
    ]  # fmt: skip
    assert targets(read_only="/etc", hide="/etc")[-2:-1] + targets(read_write="/usr")[-2:-1]


def test_the_own_name_is_in_the_files_that_have_names(tmp_path: pathlib.Path) -> None:
    def files(**options: Any) -> dict[str, bytes]:
        mounts = Options(**options).boot_message()["mounts"]
        return {mount["target"]: base64.b64decode(mount["content"]) for mount in mounts if mount["type"] == "file"}

    if not pathlib.Path("/etc/hosts").is_file() or not pathlib.Path("/etc/hostname").is_file():
        pytest.skip("the host has no such files")
    found = files(hostname="rock")
    assert found["/etc/hosts"].startswith(pathlib.Path("/etc/hosts").read_bytes())
    assert found["/etc/hosts"].endswith(b"\n127.0.1.1\trock\n") and found["/etc/hostname"] == b"rock\n"
    assert "/etc/hosts" not in files(hostname="localhost"), "it is there already"
    for mine in ({"read_write": "/etc"}, {"tmpfs": "/etc"}, {"hide": "/etc/hosts"}, {"read_only": [(tmp_path, "/etc/hosts")]}):
        assert "/etc/hosts" not in files(**mine), mine


def test_paths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    mounts = Options(read_write="link", read_only=[("real", "/in/../side")]).boot_message()["mounts"]
    assert {"target": "/side", "type": "host_read_only", "source": str(tmp_path / "real")} in mounts
    assert {"target": str(tmp_path / "real"), "type": "host_read_write", "source": str(tmp_path / "real")} in mounts
    assert Options().cwd == str(tmp_path)
    assert Options(cwd="real").cwd == str(tmp_path / "real")
    assert Options(overlay_dir="upper").boot_message()["mounts"][0]["upper"] == str(tmp_path / "upper")
    assert (tmp_path / "upper").is_dir()


@pytest.mark.parametrize(
    ("option", "value"),
    [("read_write", "/nosuch"), ("read_only", ""), ("read_only", [("/etc", "relative")]), ("hide", "/"), ("hide", "/nosuch"),
     ("tmpfs", "/"), ("tmpfs", "relative"), ("tmpfs", 5), ("overlay_dir", "/nosuch/deep"), ("overlay_dir", "/etc/passwd"),
     ("env", {"A=B": "x"}), ("env", {"": "x"}), ("env", {"A": "x\0y"}), ("env", {"A": 5}), ("inherit_env", "some"),
     ("network", "host"), ("require", "walls"), ("require", 7), ("memory", "lots"), ("timeout", -1), ("pids", 0),
     ("user", "root"), ("hostname", "a b"), ("cpus", 0), ("cwd", 5), ("read_write", "a\0b")],
)  # fmt: skip
def test_a_wrong_value_names_its_option(option: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Options(**{option: value})
    assert caught.value.option == option
    assert isinstance(caught.value, ValueError)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HOME": "/h",
        "AWS_SECRET": "s",
        "SSH_AUTH_SOCK": "s",
        "PWD": "/x",
    }.items():
        monkeypatch.setenv(name, value)
    assert Options().environment == {"PATH": "/bin", "LC_ALL": "C", "HOME": "/h", "PWD": "/x"}
    assert "AWS_SECRET" in Options(inherit_env="all").environment
    assert list(Options(inherit_env="none").environment) == ["PATH"]
    options = Options(env={"A": "1", "HOME": None}, cwd="/usr")
    assert options.environment == {"PATH": "/bin", "LC_ALL": "C", "PWD": "/usr", "A": "1"}
    assert sorted(options.command_environment({"A": "2", "PWD": None})) == ["A=2", "LC_ALL=C", "PATH=/bin"]


def test_who_runs_a_command() -> None:
    assert Options().identity() == (0, 0, [])
    assert Options(user=5).identity() == (5, 5, [])
    assert Options(user=5).identity((6, 7)) == (6, 7, [])
    assert Options(user="caller").identity() == (os.getuid(), os.getgid(), os.getgroups())
