"""What a policy says holds: in every engine that takes the clause, and those that do not refuse it by name."""

from __future__ import annotations

import json
import pathlib

import pytest

import harness
import skerry

ENGINES = ["sentry", "namespace"]

#: Says of each thing that is tried whether it worked, as one line.
PROBE = """
import os, sys
def tell(name, act):
    try:
        act()
        print(name, 'ok')
    except OSError as error:
        print(name, error.strerror)
top = sys.argv[1]
tell('read', lambda: open(top + '/shown/file').read())
tell('write', lambda: open(top + '/shown/file', 'w'))
tell('private', lambda: open(top + '/private/new', 'w'))
tell('through', lambda: open(top + '/through/new', 'w'))
tell('hidden', lambda: open(top + '/shown/hidden/file').read())
tell('elsewhere', lambda: open(top + '/other/file').read())
tell('root', lambda: open('/new', 'w'))
tell('tmp', lambda: open('/tmp/new', 'w'))
tell('link', lambda: open(top + '/link').read())
"""


def tree(tmp_path: pathlib.Path) -> str:
    tmp_path.chmod(0o755)
    for above in tmp_path.parents:
        if above.stat().st_uid == tmp_path.stat().st_uid and str(above) not in ("/", "/tmp"):
            above.chmod(0o755)
    for name in ("shown/hidden", "private", "through", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "shown/file").write_text("x")
    (tmp_path / "through").chmod(0o777)
    (tmp_path / "private").chmod(0o777)
    (tmp_path / "link").symlink_to("shown/file")
    return str(tmp_path)


def policy_for(top: str, **more: object) -> skerry.Policy:
    files = {
        "default": "hidden",
        "read_only": ["/usr", "/etc/ld.so.cache", f"{top}/shown", f"{top}/link"],
        "private": [f"{top}/private"],
        "read_write": [f"{top}/through"],
        "hidden": [f"{top}/shown/hidden"],
        "temporary": ["/tmp"] if not top.startswith("/tmp") else [],
    }
    return skerry.Policy({"files": files, **more})


@pytest.mark.parametrize("engine", [*ENGINES, "uml"])
def test_of_files_there_is_what_the_lists_say(engine: str, tmp_path: pathlib.Path) -> None:
    harness.usable_engine(engine)
    top = tree(tmp_path)
    with skerry.Sandbox(engine=engine, policy=policy_for(top)) as sandbox:
        result = sandbox.run(["/usr/bin/python3", "-c", PROBE, top], text=True)
    found = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert found | {"tmp": ""} == {
        "read": "ok", "write": "Read-only file system", "private": "ok", "through": "ok", "link": "ok", "tmp": "",
        "hidden": found["hidden"], "elsewhere": "No such file or directory", "root": "Read-only file system",
    }, result.stderr  # fmt: skip
    assert found["hidden"] in ("No such file or directory", "Permission denied")
    assert (tmp_path / "through/new").exists() and not (tmp_path / "private/new").exists()


@pytest.mark.parametrize("without", ["", "direct", "caches"])
def test_call_rules_answer_kill_and_tell(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    monkeypatch.setenv("SKERRY_TEST_WITHOUT", without)
    events: list[dict[str, object]] = []
    rules = {"errno": ["mkdir", "getppid", "pwrite64"], "error": "EXDEV", "kill": ["chroot"], "log": ["uname"]}
    program = """
import os
for act in (lambda: os.mkdir('/tmp/x'), lambda: os.pwrite(os.open('/tmp/y', os.O_CREAT | os.O_RDWR), b'x', 0)):
    try: act()
    except OSError as error: print(error.strerror)
print(os.getppid(), os.uname().sysname, flush=True)
os.chroot('/')
print('not here')
"""
    with skerry.Sandbox(policy=skerry.Policy(system_calls=rules), events=events.append) as sandbox:  # type: ignore[arg-type]
        result = sandbox.run(["/usr/bin/python3", "-c", program], text=True)
    assert result.stdout == "Invalid cross-device link\nInvalid cross-device link\n-18 Linux\n", result
    assert result.signal == 31
    told = {(event["name"], json.dumps(event["action"])) for event in events if event["event"] == "call"}
    assert told == {
        ("mkdir", '{"errno": 18}'), ("pwrite64", '{"errno": 18}'), ("getppid", '{"errno": 18}'), ("uname", '"log"'),
        ("chroot", '"kill"'),
    }  # fmt: skip


def test_a_default_spares_what_every_program_needs() -> None:
    calls = {
        "default": "errno",
        "allow": ["read", "write", "execve", "open", "openat", "close", "fstat", "newfstatat", "brk", "pread64", "access"],
    }
    with skerry.Sandbox(policy=skerry.Policy(system_calls=calls)) as sandbox:
        result = sandbox.run(["/bin/sh", "-c", "echo here; kill -9 $$; echo still"], text=True)
    assert result.stdout == "here\nstill\n", result


def test_ports_and_programs() -> None:
    policy = skerry.Policy(
        network={"bind": ["tcp:8080", "udp:0"], "connect": ["tcp:8080"]}, files={"execute": ["/usr/bin", "/usr/lib", "/lib64"]}
    )
    program = """
import socket, subprocess, shutil
def tell(name, act):
    try: act(); print(name, 'ok')
    except OSError as error: print(name, error.strerror)
listener = socket.socket()
tell('bind 8080', lambda: listener.bind(('127.0.0.1', 8080)))
listener.listen()
tell('bind 8081', lambda: socket.socket().bind(('127.0.0.1', 8081)))
tell('connect 8080', lambda: socket.socket().connect(('127.0.0.1', 8080)))
tell('connect 8081', lambda: socket.socket().connect(('127.0.0.1', 8081)))
udp = socket.socket(type=socket.SOCK_DGRAM)
tell('udp', lambda: udp.bind(('127.0.0.1', 0)))
tell('send', lambda: udp.sendto(b'x', ('127.0.0.1', 53)))
tell('sendmsg', lambda: udp.sendmsg([b'x'], [], 0, ('127.0.0.1', 8080)))
shutil.copy('/usr/bin/true', '/tmp/true')
tell('copy', lambda: subprocess.run(['/tmp/true']))
tell('true', lambda: subprocess.run(['/usr/bin/true']))
tell('unix', lambda: socket.socket(socket.AF_UNIX).bind('\\0name'))
"""
    with skerry.Sandbox(policy=policy, tmpfs="/tmp", cwd="/") as sandbox:
        result = sandbox.run(["/usr/bin/python3", "-c", program], text=True)
    denied = "Permission denied"
    assert dict(line.rsplit(" ", 1) if line.endswith("ok") else line.split(" Perm") for line in result.stdout.splitlines()) == {
        "bind 8080": "ok", "bind 8081": "ission denied", "connect 8080": "ok", "connect 8081": "ission denied", "udp": "ok",
        "send": "ission denied", "sendmsg": "ission denied", "copy": "ission denied", "true": "ok", "unix": "ok",
    }, (denied, result)  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_what_no_engine_can_hold_is_refused_by_name(engine: str) -> None:
    policy = skerry.Policy(network={"domains": ["example.org"]})
    with pytest.raises(skerry.Unenforceable, match=rf"network.domains.*{engine}"):
        skerry.Sandbox(engine=engine, policy=policy).start()


def test_a_rule_on_a_call_that_programs_make_by_themselves_is_refused_by_name() -> None:
    with pytest.raises(skerry.LayerUnavailable, match="sched_yield"):
        skerry.Sandbox(policy=skerry.Policy(system_calls={"kill": ["sched_yield"]})).start()


@pytest.mark.parametrize("name", ["pure", "build", "python", "service"])
def test_ready_made_policies_run_programs(caller: harness.Caller, name: str) -> None:
    words = ["/usr/bin/python3", "-c", "import json, os; print(json.dumps([1]), os.path.exists('/etc/shadow'))"]
    shadow = name in ("build", "service")  # there it is an empty file
    with caller.workspace() as directory:
        done = caller.do(["--policy", name], words, cwd=directory)
    assert done.returncode == 0 and done.stdout == f"[1] {shadow}\n", done


def test_options_hold_beside_a_policy(caller: harness.Caller) -> None:
    options = ["--policy", "pure", "--network", "loopback", "--ro", "/etc/passwd", "-e", "A=b", "--hide", "/usr/lib/python3"]
    words = [
        "/usr/bin/python3",
        "-c",
        "import os; print(os.path.exists('/etc/passwd'), os.environ['A'], os.listdir('/usr/lib/python3'))",
    ]
    done = caller.do(options, words, cwd="/")
    assert done.returncode == 0 and done.stdout == "True b []\n", done


def test_limits_environment_and_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    monkeypatch.setenv("KEEP_ME", "1")
    (tmp_path / "key").write_text("key\n")
    policy = skerry.Policy(
        resources={"processes": 20, "disk": "1m", "wall_time": "30s"},
        environment={"inherit": "none", "keep": ["KEEP_*"], "set": {"B": "c"}},
        secrets={"TOKEN": {"env": "MY_TOKEN"}, "KEY": {"file": str(tmp_path / "key"), "path": "/run/key"}},
    )
    events: list[object] = []
    script = "echo $TOKEN $KEEP_ME $B $HOME; cat /run/key; head -c 2m /dev/zero > /tmp/big; ulimit -u"
    with skerry.Sandbox(policy=policy, events=events.append) as sandbox:
        result = sandbox.run(["/bin/sh", "-c", script], text=True)
    assert result.stdout.splitlines()[:2] == ["hunter2 1 c", "key"], result
    assert "No space left" in result.stderr
    assert "hunter2" not in json.dumps(events)


MOUNTS = """
cd /
count() { ls "$1" 2>/dev/null | wc -l; }
umount /etc/ssh; umount -l /etc/ssh; umount /proc; umount -l /sys
mkdir /tmp/a
mount --bind /etc /tmp/a && echo bound; count /tmp/a/ssh
mount --rbind /etc /tmp/a && echo all; count /tmp/a/ssh; umount /tmp/a/ssh; count /tmp/a/ssh
mount --move /etc/ssh /tmp/a/ssh; mount -o remount,rw / && echo writable
mount -o remount,rw,bind /etc/ssh && echo writable
mount -t tmpfs none /tmp/a && umount /tmp/a && echo own
count /etc/ssh
"""


@pytest.mark.parametrize(
    "options",
    [
        {"policy": skerry.Policy(files={"default": "read_only", "hidden": ["/etc/ssh"], "temporary": ["/tmp"]})},
        {"hide": "/etc/ssh"},
    ],
)
def test_what_is_hidden_is_not_laid_bare_by_root_inside(options: dict[str, object]) -> None:
    if not pathlib.Path("/etc/ssh").is_dir():
        pytest.skip("there is no /etc/ssh here")
    with skerry.Sandbox(**options) as sandbox:  # type: ignore[arg-type]
        result = sandbox.run(["/bin/sh", "-c", MOUNTS], text=True)
    expected = "0\nall\n0\n0\nown\n0\n"
    assert result.stdout.replace("writable\n", "", 0 if "policy" in options else 1) == expected, result
