"""The drivers of monitors that do not run here, each against a server that checks what it is told by the monitor's published
description: `firecracker.json` and `cloud_hypervisor.json` have the facts of it (paths, fields, types, statuses).
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import skerry
from skerry import vmm

HERE = Path(__file__).parent
MACHINE = vmm.Machine(
    kernel="/k/vmlinux",
    initramfs="/k/initramfs",
    memory=(256 << 20) + 1,
    cpus=2,
    command_line="quiet",
    images=("/i/root.erofs",),
)
SHARED = vmm.Machine(kernel="/k/vmlinux", initramfs="/k/initramfs", memory=256 << 20, shares_root=True)


def complaint(schema: dict, value: object, where: str = "") -> str:
    """What is wrong with a value by its description, or nothing."""
    if "fields" in schema:
        if not isinstance(value, dict):
            return f"{where}: no object"
        for name in schema["required"]:
            if name not in value:
                return f"{where}: {name} is missing"
        for name, field in value.items():
            if name not in schema["fields"]:
                return f"{where}: there is no field {name}"
            if found := complaint(schema["fields"][name], field, f"{where}.{name}"):
                return found
        return ""
    kinds = {"string": str, "integer": int, "boolean": bool, "array": list}
    kind = kinds[schema["type"]]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{where}: {value!r} is no {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where}: {value!r} is none of {schema['enum']}"
    if ("minimum" in schema and value < schema["minimum"]) or ("maximum" in schema and value > schema["maximum"]):
        return f"{where}: {value!r} is out of range"
    if kind is list:
        return next(filter(None, (complaint(schema["items"], item, f"{where}[]") for item in value)), "")
    return ""


class Server:
    """A monitor's control socket: answers as the description says, 400 with a complaint for what does not fit."""

    def __init__(self, description: Path, path: Path) -> None:
        self.requests = json.loads(description.read_text())["requests"]
        self.seen: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                while line := stream.readline():
                    method, path, _ = line.decode().split()
                    headers = dict(header.decode().lower().strip().split(": ", 1) for header in iter(stream.readline, b"\r\n"))
                    body = stream.read(int(headers.get("content-length", 0)))
                    status, text = self._answer(method, path, body)
                    reply = text.encode()
                    stream.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(reply)}\r\n\r\n".encode() + reply)
                    stream.flush()

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        for name, request in self.requests.items():
            known, template = name.split()
            if method == known and re.fullmatch(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(template)), path):
                self.seen.append(f"{method} {path}")
                if request["body"] is None:
                    return (400, "a body where none belongs") if body else (request["status"], "")
                try:
                    wrong = complaint(request["body"], json.loads(body))
                except ValueError:
                    wrong = "no JSON"
                return (400, wrong) if wrong else (request["status"], "")
        return 404, f"there is no {method} {path}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture(params=["firecracker", "cloud-hypervisor"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Server, Path]]:
    found = Server(HERE / f"{request.param.replace('-', '_')}.json", tmp_path / "control")
    yield request.param, found, tmp_path / "control"
    found.close()


def say(path: Path, requests: list[vmm.Request]) -> list[tuple[int, str]]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    answers = []
    for request in requests:
        body = None if request.body is None else json.dumps(request.body)
        connection.request(request.method, request.path, body)
        answer = connection.getresponse()
        answers.append((answer.status, answer.read().decode()))
    connection.close()
    return answers


def test_each_request_fits_the_description(server: tuple[str, Server, Path]) -> None:
    name, monitor, path = server
    driver = vmm.monitor(name)
    plan = driver.plan(MACHINE)
    assert plan.protocol == "http" and vmm.CONTROL in " ".join(plan.argv)
    more: list[vmm.Request] = []
    if name == "firecracker":
        more = [*driver.save("/s/state", "/s/memory"), *driver.restore("/s/state", "/s/memory"), driver.balloon(64)]
        last = "PUT /actions"
    else:
        shared = driver.plan(SHARED)
        assert shared.requests[0].body["memory"]["shared"] and vmm.SHARE in str(shared.requests[0].body["fs"])
        more = [*shared.requests, *driver.save("/s"), *driver.restore("/s"), driver.resize(cpus=2, memory=1 << 30, balloon=0)]
        last = "PUT /api/v1/vm.boot"
    for status, text in say(path, [*plan.requests, *more]):
        assert 200 <= status < 300, text
    assert monitor.seen[len(plan.requests) - 1] == last


def test_the_server_refuses_what_does_not_fit(server: tuple[str, Server, Path]) -> None:
    name, _, path = server
    wrong = {
        "firecracker": [
            vmm.Request("PUT", "/machine-config", {"vcpu_count": 33, "mem_size_mib": 1}),
            vmm.Request("PUT", "/machine-config", {"vcpu_count": 1}),
            vmm.Request("PUT", "/vsock", {"guest_cid": 3, "uds_path": "x", "y": 1}),
            vmm.Request("PUT", "/actions", {"action_type": "Start"}),
            vmm.Request("POST", "/actions", {}),
        ],
        "cloud-hypervisor": [
            vmm.Request("PUT", "/api/v1/vm.create", {"payload": {"kernel": 1}}),
            vmm.Request("PUT", "/api/v1/vm.create", {}),
            vmm.Request("PUT", "/api/v1/vm.boot", {}),
            vmm.Request("PUT", "/vm.boot"),
        ],
    }[name]
    for status, _ in say(path, wrong):
        assert status in (400, 404)


def test_what_a_monitor_cannot_do_is_refused_by_name() -> None:
    for name in ("firecracker", "xen"):
        with pytest.raises(skerry.Unenforceable, match="virtio-fs"):
            vmm.monitor(name).plan(SHARED)
    many = vmm.Machine(kernel="k", initramfs="i", memory=1 << 30, cpus=33)
    with pytest.raises(skerry.Unenforceable, match="32"):
        vmm.monitor("firecracker").plan(many)
    with pytest.raises(skerry.UsageError, match="none of qemu"):
        vmm.monitor("bochs")
    assert [name for name in vmm.MONITORS if vmm.monitor(name).run_on_hardware] == ["qemu", "qemu-microvm"]


#: The keys of xl.cfg(5) that are used, each with the form of its value.
XL = {
    "name": r'"[\w.-]+"', "type": r'"(pv|pvh|hvm)"', "kernel": r'"/.+"', "ramdisk": r'"/.+"', "cmdline": r'"[^"]*"',
    "memory": r"\d+", "vcpus": r"\d+", "disk": r"\[.*\]", "channel": r"\[.*\]",
    "on_poweroff": r'"(destroy|restart|rename-restart|preserve)"', "on_reboot": r'"(destroy|restart|rename-restart|preserve)"',
    "on_crash": r'"(destroy|restart|rename-restart|preserve|coredump-destroy|coredump-restart|soft-reset)"',
}  # fmt: skip
#: Those of xl-disk-configuration(5), and of a channel.
XL_DISK = {"format": r"raw|qcow|qcow2|vhd|qed", "vdev": r"(xvd|hd|sd)[a-z]\d*", "access": r"r|ro|w|rw", "target": r"/.+"}
XL_CHANNEL = {"connection": r"socket|pty", "name": r"[\w.-]+", "path": r".+"}


def test_the_configuration_for_xen_fits_its_manual() -> None:
    plan = vmm.monitor("xen").plan(MACHINE)
    assert plan.argv[:2] == ["xl", "create"] and plan.argv[-1] in plan.files and not plan.requests
    lines = dict(line.split(" = ", 1) for line in plan.files[plan.argv[-1]].splitlines())
    for key, value in lines.items():
        assert re.fullmatch(XL[key], value), (key, value)
    for key, known in (("disk", XL_DISK), ("channel", XL_CHANNEL)):
        for entry in json.loads(lines[key]):
            for part in entry.split(", "):
                name, value = part.split("=", 1)
                assert re.fullmatch(known[name], value), (key, part)
    assert lines["memory"] == "257" and lines["vcpus"] == "2"
    with pytest.raises(skerry.Unenforceable, match="cannot be written"):
        vmm.monitor("xen").plan(vmm.Machine(kernel="/k", initramfs="/i", memory=1 << 28, command_line='a="b"'))


def test_a_card_of_qemus_is_plugged_in_later_so_that_one_snapshot_serves_guests_with_and_without() -> None:
    def plan(name: str, has_card: bool) -> vmm.Plan:
        machine = vmm.Machine(kernel="/kernel", initramfs="/first", memory=1 << 30, shares_root=True, has_card=has_card)
        return vmm.monitor(name).plan(machine)

    with_card, without = plan("qemu", True), plan("qemu", False)
    assert with_card.argv == without.argv
    added = [request.method for request in with_card.requests[len(without.requests) :]]
    assert added == ["netdev_add", "device_add"]
    # Of the small machine nothing can be plugged in.
    words = plan("qemu-microvm", True).argv
    assert words[words.index("-netdev") + 1] == "socket,id=frames,fd=3" and "-netdev" not in plan("qemu-microvm", False).argv
    assert [name for name in vmm.MONITORS if vmm.monitor(name).has_cards] == ["qemu", "qemu-microvm"]
