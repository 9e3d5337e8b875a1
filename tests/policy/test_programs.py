"""Real programs: learnt, run again under what was learnt, in every engine that can hold it, with the same output; and what the
policy denies is denied, and explained by the clause's name.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import harness
import skerry
from skerry.policy import _probe
from skerry.policy._calls import NUMBERS

pytestmark = pytest.mark.sandbox

# Sleeps once in any case, so that a policy that was learnt has it.
WAIT = "sleep 0.05; i=0; until {ready}; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.05; done"

#: By name: the programs that it takes, and a line for sh. In the engine `rules` the loopback is the host's.
PROGRAMS = {
    "python": ("python3", "/usr/bin/python3 script.py"),
    "git": ("git", "rm -rf clone; git clone -q --no-hardlinks repo clone && cat clone/file && git -C clone log --format=%s"),
    "gcc": ("gcc", "rm -f a.out; gcc main.c -o a.out && ./a.out"),
    "node": ("node", "node script.js"),
    "redis": (
        "redis-server redis-cli",
        "redis-server --port 6399 --save '' --dir . --logfile /dev/null --daemonize no & "
        + WAIT.format(ready="redis-cli -p 6399 ping 2>/dev/null | grep -q PONG")
        + "; redis-cli -p 6399 set a 41; redis-cli -p 6399 incr a; redis-cli -p 6399 shutdown nosave; wait",
    ),
    "nginx": (
        "nginx curl",
        'nginx -c "$PWD/nginx.conf" -e /dev/null & p=$!; '
        + WAIT.format(ready="curl -sf http://127.0.0.1:8099/")
        + "; kill $p; wait $p",
    ),
    "sqlite": ("sqlite3", "rm -f t.db; sqlite3 t.db 'create table t(a); insert into t values(1),(2); select sum(a) from t'"),
    "tar": ("tar", "tar cf t.tar main.c script.js && tar tf t.tar"),
    "curl": (
        "curl python3",
        "/usr/bin/python3 -m http.server -b 127.0.0.1 8077 >/dev/null 2>&1 & p=$!; "
        + WAIT.format(ready="curl -sf http://127.0.0.1:8077/main.c")
        + "; kill $p; wait $p; true",
    ),
    "java": ("java javac", "java -Xint -XX:+UseSerialGC -XX:-UsePerfData Hello"),
}

FILES = {
    "main.c": '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n',
    "script.py": (
        "import json, re, tempfile\n"
        "with tempfile.NamedTemporaryFile('w+') as file:\n"
        "    file.write('x'); file.flush()\n"
        "    print(json.dumps({'a': re.sub('b', 'c', 'abc')}), open(file.name).read(), len(open('main.c').read()))\n"
    ),
    "script.js": "console.log([3, 1, 2].sort().join(), require('fs').readFileSync('main.c').length)\n",
    "Hello.java": 'public class Hello { public static void main(String[] a) { System.out.println("hello"); } }\n',
    "nginx.conf": (
        "daemon off; master_process off; error_log /dev/null; pid nginx.pid; events {}\n"
        "http { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fast; uwsgi_temp_path uw;\n"
        'scgi_temp_path scgi; server { listen 127.0.0.1:8099; location / { return 200 "served\\n"; } } }\n'
    ),
}


def skerry_command(*words: str, cwd: pathlib.Path, state: pathlib.Path) -> subprocess.CompletedProcess[str]:
    command = harness.ourselves().command
    environment = {**harness.PLAIN_ENVIRONMENT, "HOME": str(cwd), "XDG_STATE_HOME": str(state)}
    for name in ("SKERRY_SENTRY", "PYTHONPATH", "SKERRY_TEST_WITHOUT"):
        if name in os.environ:
            environment[name] = os.environ[name]
    return subprocess.run(
        [*command, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def usable(*names: str) -> list[str]:
    """Those of the engines that this host grants."""
    return [name for name in names if name == "sentry" or not harness.unusable(name)]


@pytest.fixture
def work(tmp_path: pathlib.Path) -> pathlib.Path:
    work = tmp_path / "work"
    work.mkdir()
    for name, text in FILES.items():
        (work / name).write_text(text.replace("nginx.pid", f"{work}/nginx.pid"))
    return work


def prepare(name: str, work: pathlib.Path) -> None:
    if name == "git":
        for words in ("init -q repo", "-C repo add file", "-C repo -c user.email=a@b -c user.name=a commit -q -m message"):
            if words.startswith("-C repo add"):
                (work / "repo/file").write_text("content\n")
            subprocess.run(["git", *words.split()], cwd=work, check=True, capture_output=True)
    if name == "java":
        subprocess.run(["javac", "Hello.java"], cwd=work, check=True, capture_output=True)
    if name == "nginx":
        text = (work / "nginx.conf").read_text()
        for word in ("body", "proxy", "fast", "uw", "scgi"):
            text = text.replace(f"_path {word};", f"_path {work}/{word};")
        (work / "nginx.conf").write_text(text)


#: What is tried under each learnt policy: calls for a probe, and the clauses that may be named for it.
FORBIDDEN = {
    "file": ([("openat", -100, b"/etc/hostname\0", 0, 0)], {"files.default"}),
    "call": ([("sethostname", 0, 0)], {"system_calls.default"}),
    "address": (
        [("socket", 2, 1, 0), ("connect", _probe.RESULT, b"\x02\x00\x00\x09\x7f\x00\x00\x01" + bytes(8), 16)],
        {"network.connect", "network.mode", "system_calls.default"},
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_again_under_what_was_learnt(name: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    needed, line = PROGRAMS[name]
    for program in needed.split():
        if shutil.which(program, path=harness.PLAIN_ENVIRONMENT["PATH"]) is None:
            pytest.skip(f"there is no {program} here")
    prepare(name, work)
    policy = tmp_path / "learnt.toml"
    command = ["/bin/sh", "-c", line]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return skerry_command(*words, cwd=work, state=tmp_path / "state")

    learnt = run("learn", "--rw", str(work), "--out", str(policy), "--", *command)
    assert learnt.returncode == 0 and learnt.stdout, learnt
    assert "surface: " in learnt.stderr
    said = skerry.Policy.load(policy)
    assert said["files"]["default"] == "hidden" and said["system_calls"]["default"] == "errno"
    for engine in usable("sentry", "namespace", "rules"):
        again = run("do", "--engine", engine, "--policy", str(policy), "--", *command)
        assert (again.returncode, again.stdout) == (0, learnt.stdout), (engine, again)

    # One forbidden file, call and address; what is tried needs no other permission.
    loose = said.as_dict()
    loose["files"].pop("execute")
    loose["files"].setdefault("read_only", []).append(str(work))
    (tmp_path / "loose.toml").write_text(skerry.Policy(loose).to_toml())
    for what, (calls, clauses) in FORBIDDEN.items():
        probe = work / f"probe-{what}"
        probe.write_bytes(_probe.program([(NUMBERS[str(number)], *arguments) for number, *arguments in calls]))
        probe.chmod(0o755)
        for engine in usable("sentry", "namespace", "rules"):
            options = ("--engine", engine, "--explain", "--policy", str(tmp_path / "loose.toml"))
            done = run("do", *options, "--", str(probe))
            assert done.returncode not in (0, 125, 126, 127), (what, engine, done)
            explained = run("explain", "--json")
            found = {entry["clause"] for entry in json.loads(explained.stdout)}
            assert found & clauses, (what, engine, explained)


def test_learning_twice_keeps_both_and_generalisations_can_be_refused(work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return skerry_command(*words, cwd=work, state=tmp_path / "state")

    policy = str(tmp_path / "both.toml")
    assert run("learn", "--out", policy, "--", "/bin/cat", "main.c").returncode == 0
    done = run("learn", "--out", policy, "--merge", policy, "--", "/bin/uname", "-n")
    assert done.returncode == 0, done
    for command in (["/bin/cat", "main.c"], ["/bin/uname", "-n"]):
        assert run("do", "--policy", policy, "--", *command).returncode == 0
    exact = run("learn", "--out", "-", "--no-generalise", "all", "--limits", "--", "/bin/cat", "main.c")
    assert "no-generalise" not in exact.stderr
    said = skerry.Policy.from_text(exact.stdout.partition("}\n")[2])
    assert f"{work}/main.c" in said["files"]["read_only"] and str(work) not in said["files"]["read_only"]
    assert "preadv2" not in said["system_calls"]["allow"] and said["resources"]["memory"] == "64m"
    (tmp_path / "outside.toml").write_text('[network]\nmode = "user"\n')
    done = run("learn", "--out", "-", "--merge", str(tmp_path / "outside.toml"), "--", "true")
    assert done.returncode == 2 and "network.mode: cannot be learnt" in done.stderr
    assert run("learn", "--no-generalise", "everything", "--", "true").returncode == 2
    assert run("learn").returncode == 2


VERIFIED = """
version = 1
[files]
default = "hidden"
read_only = ["/usr/bin", "/usr/lib", "/etc/passwd"]
temporary = ["/tmp"]
execute = ["/usr/bin"]
[network]
mode = "{mode}"
{ports}
[system_calls]
errno = ["getppid", "mkdir"]
kill = ["chroot"]
[resources]
wall_time = "20s"
"""

PORTS = 'connect = ["tcp:8080"]\nbind = ["tcp:8080"]'


def verified(*words: str, cwd: pathlib.Path, **environment: str) -> tuple[int, list[dict[str, object]]]:
    """The status of `skerry verify`, and the table."""
    done = subprocess.run(
        [sys.executable, "-m", "skerry", "verify", "--json", *words], capture_output=True, text=True, cwd=cwd,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.stdout, done
    return done.returncode, json.loads(done.stdout)["controls"]


@pytest.mark.parametrize("engine", ["sentry", "namespace", "rules"])
def test_verify_passes_and_fails_when_a_control_is_taken_out(engine: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    harness.usable_engine(engine)
    policy = tmp_path / "p.toml"
    policy.write_text(VERIFIED.format(mode="loopback", ports=PORTS))
    words = ("--engine", engine, str(policy))
    status, table = verified(*words, cwd=work)
    assert status == 0, [row for row in table if row["held"] is False]
    assert {row["clause"] for row in table if row["held"]} >= {
        "files.default", "files.read_only", "files.execute", "system_calls.errno", "system_calls.kill", "network.mode",
        "network.connect", "network.bind", "resources.wall_time",
    }  # fmt: skip
    out = {"files.execute", "system_calls.kill", "network.connect", "network.bind"}
    # Without ports there is no network in rules.
    clauses = out if engine != "rules" else {"files.execute", "system_calls.kill"}
    status, table = verified(*words, cwd=work, SKERRY_TEST_WITHOUT_CLAUSE=",".join(clauses))
    assert status == 1 and clauses <= {row["clause"] for row in table if row["held"] is False}, table


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("namespace:seccomp", {"system_calls.errno", "system_calls.kill"}),
        ("namespace:landlock", {"files.execute", "network.connect", "network.bind"}),
        ("rules:seccomp", {"system_calls.errno", "system_calls.kill"}),
        ("rules:landlock", {"files.default", "files.read_only", "files.execute"}),
    ],
)
def test_verify_fails_when_a_part_of_an_engine_is_taken_out(
    part: str, broken: set[str], work: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    engine = harness.usable_engine(part.partition(":")[0])
    policy = tmp_path / "p.toml"
    policy.write_text(VERIFIED.format(mode="loopback", ports=PORTS))
    status, table = verified("--engine", engine, str(policy), cwd=work, SKERRY_TEST_WEAKEN=part)
    assert status == 1 and broken <= {row["clause"] for row in table if row["held"] is False}, table


LIMITED = """
version = 1
[files]
default = "read_only"
temporary = ["/tmp"]
[resources]
memory = "64m"
cpus = 1
processes = 30
wall_time = "20s"
"""


@pytest.mark.parametrize("engine", ["sentry", "namespace", "rules"])
def test_verify_tries_limits(engine: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    harness.usable_engine(engine)
    policy = tmp_path / "p.toml"
    disk = "" if engine == "rules" else 'disk = "4m"\n'
    policy.write_text(LIMITED + disk)
    status, table = verified("--engine", engine, str(policy), cwd=work)
    if status == 1 and [row["clause"] for row in table] == ["-"] and "no cgroup" in str(table):
        pytest.skip(str(table[0]["found"]))
    limits = {row["clause"]: row["held"] for row in table if str(row["clause"]).startswith("resources.")}
    assert status == 0 and set(limits.values()) <= {True, None}, table
    assert all(limits[f"resources.{key}"] for key in ("memory", "processes", "wall_time", *(["disk"] if disk else []))), table
    if disk:
        return
    policy.write_text(LIMITED + 'disk = "4m"\n')
    status, table = verified("--engine", engine, str(policy), cwd=work)
    assert status == 1 and "resources.disk" in str(table[0]["found"]), table


@pytest.mark.parametrize("name", ["pure", "build", "python", "service"])
def test_verify_passes_for_ready_made_policies_in_every_engine(name: str, work: pathlib.Path) -> None:
    tried = usable("sentry", "namespace", "rules")
    status, table = verified(*(word for engine in tried for word in ("--engine", engine)), name, cwd=work)
    assert not [row for row in table if row["held"] is False]
    engines = {row["engine"] for row in table if row["held"]}
    refused = {str(row["engine"]): str(row["found"]) for row in table if row["clause"] == "-"}
    assert status == (1 if refused else 0)
    for engine in tried:
        # Without a cgroup nobody counts processes for this sandbox alone.
        assert engine in engines or (name == "service" and "no cgroup" in refused[engine]), (engine, refused)


@pytest.mark.parametrize("engine", ["sentry", "namespace", "rules"])
def test_explain_says_why_and_what_would_allow_it(engine: str, work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (work / "p.toml").write_text(
        'version = 1\n[files]\ndefault = "hidden"\nread_only = ["@libraries", "/usr/bin", "@cwd"]\nexecute = ["/usr"]\n'
        '[network]\nmode = "none"\n[system_calls]\nkill = ["chroot"]\nerrno = ["mkdir"]\n[resources]\nprocesses = 8\n'
    )
    (work / "tool").write_text("#!/bin/sh\n")
    (work / "tool").chmod(0o755)
    script = """
import os, socket, subprocess
def tried(act):
    try: act()
    except OSError: pass
tried(lambda: open('/etc/hostname'))
tried(lambda: open('new', 'w'))
tried(lambda: os.mkdir('/tmp/x'))
tried(lambda: subprocess.run(['./tool']))
tried(lambda: socket.socket().connect(('127.0.0.1', 9)))
tried(lambda: open('/no/such/file'))
children = []
try:
    for _ in range(20):
        children.append(subprocess.Popen(['/usr/bin/sleep', '9']))
except OSError: pass
[child.kill() for child in children]
os.chroot('/')
"""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return skerry_command(*words, cwd=work, state=tmp_path / "state")

    harness.usable_engine(engine)
    options = ("--engine", engine, "--policy", "p.toml", "--events", "events")
    done = run("do", *options, "--", "/usr/bin/python3", "-c", script)
    assert done.returncode == 128 + (31 if engine == "sentry" else 9), done
    for source in ((), ("--policy", "p.toml", "events")) if engine == "sentry" else ((),):
        found = {
            entry["clause"]: entry
            for entry in json.loads(run("explain", "--json", *source).stdout)
            if entry["cause"] == "policy"
        }
        text = "\n".join(f"{entry['what']} -> {entry['allow']}" for entry in found.values())
        assert set(found) >= {
            "files.default", "files.read_only", "files.execute", "network.mode", "system_calls.kill", "system_calls.errno",
            "resources.processes",
        }, text  # fmt: skip
        assert f'add "{work}/tool" to files.execute' in text
        assert "/no/such/file" not in text
    shown = run("explain").stdout
    assert 'add "/etc/hostname" to files.read_only' in shown and ", for chroot()" in shown
    record = tmp_path / "state/skerry/last-run.jsonl"
    assert record.stat().st_mode & 0o777 == 0o600 and record.parent.stat().st_mode & 0o777 == 0o700


def test_explain_without_a_policy(work: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return skerry_command(*words, cwd=work, state=tmp_path / "state")

    assert run("explain").returncode == 2
    run("do", "--", "/bin/sh", "-c", "kill -SEGV $$")
    assert "SIGSEGV" in run("explain").stdout and "program" in run("explain").stdout
    run("do", "--", "/usr/bin/python3", "-c", "import socket; socket.socket().connect_ex(('192.0.2.1', 80))")
    found = json.loads(run("explain", "--json").stdout)
    assert [entry["cause"] for entry in found] == ["engine"] and "192.0.2.1:80" in found[0]["what"], found
    run("do", "--timeout", "0.2", "--", "/bin/sleep", "9")
    assert "--timeout" in run("explain").stdout
    run("do", "--", "/bin/true")
    assert "Nothing was denied" in run("explain").stdout
    (work / "bad").write_text("{}\nnot json\n{}\n")
    assert "line 2" in run("explain", "bad").stderr
