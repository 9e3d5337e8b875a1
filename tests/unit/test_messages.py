"""The mirror of crates/control: every golden frame is written, or read and written again, unchanged."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

from skerry._records import Record
from skerry.control import frame, messages
from skerry.errors import ProtocolError

FRAMES = {path.stem: json.loads(path.read_text()) for path in (pathlib.Path(__file__).parents[1] / "control").glob("*.json")}
NOT_TEXT = b"\xffx"

REQUESTS: dict[str, tuple[str, Any]] = {
    "request-boot": (
        "boot",
        messages.boot(
            mounts=[
                messages.mount_overlay("/", "/"),
                messages.mount_plain("/proc", "proc"),
                messages.mount_plain("/sys", "sysfs"),
                messages.mount_plain("/dev", "devtmpfs"),
                messages.mount_tmpfs("/run", mode=0o755),
                messages.mount_file("/etc/hostname", b"skerry\n"),
                messages.mount_host("/data", "/srv/data", writable=False),
                messages.mount_host("/home/me/work", "/home/me/work", writable=True),
                messages.mount_overlay("/var/lib", "/var/lib", "/home/me/upper"),
                messages.mount_plain(b"/" + NOT_TEXT, "hide"),
            ],
            hostname="skerry",
            network="loopback",
            identity="caller_is_root",
            memory=512 << 20,
            cpus=1.5,
            pids=4096,
            profile="strict",
            require=messages.LAYERS,
            without=["process_vm"],
        ),
    ),
    "request-boot-rules": (
        "boot",
        messages.boot(
            mounts=[messages.mount_overlay("/", "/")],
            hostname="skerry",
            network="none",
            identity="host",
            rules=messages.rules(
                files=[
                    messages.file_rule("/", messages.READ_RIGHTS),
                    messages.file_rule(b"/" + NOT_TEXT, messages.FILE_RIGHTS),
                ],
                ports={"connect_tcp": [443], "bind_udp": [53]},
                scopes=messages.SCOPES,
                calls=messages.call_rules(
                    {"errno": 1},
                    [
                        messages.call_rule(["ptrace", "462"], "kill"),
                        messages.call_rule(["kill"], "log", [messages.argument(1, "not_equal", 0)]),
                        messages.call_rule(["chmod"], "notify"),
                        messages.call_rule(["mmap"], "allow", [messages.argument(1, "less", 1 << 40, mask=(1 << 63) - 1)]),
                    ],
                ),
                capabilities=["CAP_CHOWN"],
                resources={"nofile": 1024, "core": 0},
                temporary=messages.READ_RIGHTS,
                apparmor="skerry-build",
                selinux="system_u:system_r:skerry_t:s0",
            ),
        ),
    ),
    "request-boot-policy": (
        "boot",
        messages.boot(
            mounts=[messages.mount_plain("/", "skeleton"), messages.mount_symlink("/lib", "usr/lib")],
            hostname="skerry",
            network="none",
            identity="host",
            observe="failures",
        ),
    ),
    "request-boot-machine": (
        "boot",
        {
            **messages.boot(
                mounts=[messages.mount_overlay("/", "/0")], hostname="skerry", network="none", identity="caller_is_root"
            ),
            "machine": messages.machine(
                helpers=[messages.host_program(["/usr/bin/server", "--socket=/tmp/files"], makes="/tmp/files")],
                monitor=messages.host_program(["/usr/bin/linux.uml", "mem=64M", NOT_TEXT], ["HOME=/tmp"]),
                mounts=[messages.mount_plain("/", "skeleton"), messages.mount_host("/machine/0", "/", writable=False)],
                memory_files=64 << 20,
                line_holds=2048,
                patience_ms=60_000,
                keeps_registers=True,
                calls=messages.call_rules({"errno": 1}, [messages.call_rule(["read"], "allow")]),
                writes_back=True,
            ),
        },
    ),
    "request-boot-conversation": (
        "boot",
        {
            **messages.boot(
                mounts=[messages.mount_overlay("/", "/0")], hostname="skerry", network="none", identity="caller_is_root"
            ),
            "about": {"monitor": "qemu"},
            "machine": messages.machine(
                helpers=[messages.host_program(["/usr/bin/server"], (), "/run/s", ["CAP_CHOWN"], opens_for_others=True)],
                monitor=messages.host_program(["/usr/bin/qemu"], fixed_addresses=True),
                mounts=[messages.mount_plain("/", "skeleton"), messages.mount_device("/dev/kvm")],
                memory_files=64 << 20,
                patience_ms=60_000,
                copies=[("/files/memory", "/dev/shm/memory")],
                conversation=messages.conversation(
                    "/run/control.sock",
                    before=[messages.step({"execute": "getfd"}, read="/files/state")],
                    after=[messages.step({"execute": "query-migrate"}, write="/files/state", until="completed")],
                    resumed=True,
                    keeps=("/dev/shm/memory", "/files/memory"),
                ),
            ),
        },
    ),
    "request-boot-gateway": (
        "boot",
        {
            **messages.boot(
                mounts=[messages.mount_overlay("/", "/0")], hostname="skerry", network="user", identity="caller_is_root"
            ),
            "machine": messages.machine(
                monitor=messages.host_program(["/usr/bin/qemu"]),
                mounts=[messages.mount_plain("/", "skeleton")],
                memory_files=64 << 20,
                patience_ms=60_000,
                gateway=messages.gateway("/usr/bin/gateway", {"addresses": ["10.0.0.0/8"], "domains": None}),
            ),
        },
    ),
    "request-spawn-descriptors": (
        "spawn",
        messages.spawn(
            arguments=["sh", "-c", NOT_TEXT],
            environment=["PATH=/usr/bin:/bin", "LANG=C.UTF-8"],
            directory="/home/me",
            uid=0,
            gid=0,
            groups=[],
            stdio=messages.stdio_descriptors(None, 0, 0),
        ),
    ),
    "request-spawn-terminal": (
        "spawn",
        messages.spawn(
            arguments=["bash"],
            environment=["TERM=xterm"],
            directory="/",
            uid=1000,
            gid=1000,
            groups=[4, 27],
            stdio=messages.stdio_terminal(0, 1, 2, 80, 24),
        ),
    ),
    "request-signal": ("signal", messages.signal(2, 15, "group")),
    "request-resize": ("resize", messages.resize(2, 132, 50)),
    "request-update": (
        "update",
        messages.update(
            memory=1 << 30,
            cpus=1.5,
            machine=messages.growth([messages.step({"execute": "device_add"})], cpus=2, memory=1 << 30),
        ),
    ),
    "request-processes": ("processes", None),
    "request-usage": ("usage", None),
    "request-info": ("info", None),
    "request-shutdown": ("shutdown", None),
    "request-file-read": ("file", messages.file_read("/etc/hosts", 0, messages.FILE_CHUNK)),
    "request-file-write": ("file", messages.file_write("/tmp/a", 3, b"\0\1\xff", truncate=False, mode=0o644)),
    "request-file-list": ("file", messages.file_list("/etc")),
    "request-file-stat": ("file", messages.file_stat(NOT_TEXT, follow=True)),
    "request-file-remove": ("file", messages.file_remove("/tmp/a", recursive=True)),
    "request-file-make-directory": ("file", messages.file_make_directory("/tmp/a/b", parents=True, mode=0o755)),
    "request-file-rename": ("file", messages.file_rename("/tmp/a", "/tmp/b")),
}

READERS: dict[str, Any] = {
    "reply-booted": messages.read_booted,
    "reply-spawned": messages.read_spawned,
    "reply-processes": messages.read_processes,
    "reply-usage": messages.read_usage,
    "reply-file-data": messages.read_file_data,
    "reply-file-entries": messages.read_file_entries,
    "reply-file-stat": messages.read_file_stat,
    "reply-empty": lambda value: value,
}


def named(prefix: str) -> list[str]:
    return sorted(name for name in FRAMES if name.startswith(prefix))


def test_each_frame_is_known() -> None:
    assert named("request-") == sorted(REQUESTS)
    assert named("reply-") == sorted([*READERS, "reply-error", "reply-error-errno"])


@pytest.mark.parametrize("name", named("request-"))
def test_requests_are_written_as_the_frames_are(name: str) -> None:
    method, params = REQUESTS[name]
    message = messages.request(7, method, params, FRAMES[name].get("descriptors", 0))
    assert message == FRAMES[name]
    assert frame.take(bytearray(frame.encode(message))) == FRAMES[name]


def again(value: Any) -> Any:
    """A record as the frame has it."""
    if isinstance(value, Record):
        value = {name: again(getattr(value, name)) for name in value.__slots__}
        if "args" in value:
            value["arguments"] = value.pop("args")
    elif isinstance(value, list):
        value = [again(item) for item in value]
    elif isinstance(value, dict):
        value = {name: again(item) for name, item in value.items()}
    elif isinstance(value, str):
        value = messages.write_bytes(value)
    return value


@pytest.mark.parametrize("name", [name for name in named("reply-") if "error" not in name])
def test_replies_are_read_whole(name: str) -> None:
    payload = FRAMES[name]["ok"]
    found = READERS[name](payload)
    if name == "reply-file-data":
        assert found == (b"\0\1\xff", True)
    elif len(payload) == 1:
        assert again(found) == next(iter(payload.values()))
    else:
        assert again(found) == payload


@pytest.mark.parametrize("name", named("reply-error"))
def test_failures_are_read_whole(name: str) -> None:
    failure = messages.read_failure(FRAMES[name]["error"]).as_dict()
    assert {key: value for key, value in failure.items() if value is not None} == FRAMES[name]["error"]
    assert failure["kind"] in messages.FAILURE_KINDS


@pytest.mark.parametrize("name", named("event-exited"))
def test_exits_are_read_whole(name: str) -> None:
    exited = messages.read_exited(FRAMES[name])
    assert {"event": "exited", **exited.as_dict()} == FRAMES[name]
    assert exited.returncode == (137 if name.endswith("signal") else 0)


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if name not in ("reply-empty",)])
def test_a_field_that_is_missing_or_of_another_kind_is_an_error(name: str) -> None:
    payload = FRAMES[name]["ok"]
    for key in payload:
        for wrong in (
            {**payload, key: True if payload[key] is not True else "x"},
            {k: v for k, v in payload.items() if k != key},
        ):
            with pytest.raises(ProtocolError):
                READERS[name](wrong)
    for wrong in (None, 1, "x", []):
        with pytest.raises(ProtocolError):
            READERS[name](wrong)


@pytest.mark.parametrize("raw", [b"", b"a", b"\xff\x00\xfe", b"\x80", "ä".encode()])
def test_bytes_that_are_not_text_survive(raw: bytes) -> None:
    assert os.fsencode(messages.read_bytes(messages.write_bytes(raw))) == raw


def test_a_frame_survives_being_cut_anywhere() -> None:
    data = frame.encode({"id": 1, "text": "ä"})
    for cut in range(len(data)):
        buffer = bytearray(data[:cut])
        assert frame.take(buffer) is None
        buffer += data[cut:]
        assert frame.take(buffer) == {"id": 1, "text": "ä"}
        assert not buffer


@pytest.mark.parametrize("data", [b"\xff" * 4, b"\2\0\0\0{]", b"\2\0\0\0[]", b"\1\0\0\0\xff", b"\x10\x27\0\0" + b"[" * 10000])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        frame.take(bytearray(data))
