"""What a policy may say: checks with one clear error each, TOML both ways, the schema, tokens, what is compiled."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

import skerry
from skerry.policy import READY, _calls, _compile, _explain, _model

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_published_schema_is_current() -> None:
    done = subprocess.run([sys.executable, "-m", "skerry", "policy", "schema"], capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "docs/policy.schema.json").read_text(), "skerry policy schema > docs/policy.schema.json"


WRONG = [
    ("[files]\nreadonly = []", "files.readonly", "did you mean 'read_only'?"),
    ("[file]\nread_only = []", "file", "did you mean 'files'?"),
    ("colour = 1", "colour", "unknown key"),
    ("version = 2", "version", "write version = 1"),
    ("files = 3", "files", "is not a table"),
    ("[files]\nread_only = ['/usr', 'lib']", "files.read_only[1]", "begin it with /"),
    ("[files]\nread_only = ['/usr/../etc']", "files.read_only[0]", "write where that leads"),
    ("[files]\nread_only = '/usr'", "files.read_only", "write [...]"),
    ("[files]\ndefault = 'open'", "files.default", "hidden, read_only, private"),
    ("[network]\nmode = 'host'", "network.mode", "none, loopback, user"),
    ("[network]\nbind = ['80']", "network.bind[0]", "as in tcp:8080"),
    ("[network]\nconnect = ['tcp:90-80']", "network.connect[0]", "the lower one first"),
    ("[network]\naddresses = ['10.0.0.0/99']", "network.addresses[0]", "as in 10.0.0.0/8"),
    ("[network]\ndomains = ['a b']", "network.domains[0]", "is no domain"),
    ("[system_calls]\nkill = ['ptrce']", "system_calls.kill[0]", "did you mean 'ptrace'?"),
    ("[system_calls]\nerror = 'EWHAT'", "system_calls.error", "as in EPERM"),
    ("[resources]\nmemory = 'lots'", "resources.memory", "as in 512m"),
    ("[resources]\nwall_time = '1 week'", "resources.wall_time", "as in 90s"),
    ("[resources]\nprocesses = 0", "resources.processes", "a whole number"),
    ("[environment]\nset = { 'A=B' = 'x' }", "environment.set", "name of a variable"),
    ("[secrets]\nTOKEN = 'hunter2'", "secrets.TOKEN", "never its value"),
    ("[secrets]\nTOKEN = { env = 'A', file = '/b' }", "secrets.TOKEN", "one of env and file"),
    ("x = [", "", "is no TOML"),
]


@pytest.mark.parametrize(("text", "key", "hint"), WRONG, ids=[key or "toml" for _, key, _ in WRONG])
def test_a_mistake_is_one_error_with_file_key_and_what_to_do(text: str, key: str, hint: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(skerry.PolicyError) as caught:
        skerry.Policy.load(file)
    assert (caught.value.file, caught.value.key) == (str(file), key)
    assert hint in str(caught.value)


def test_a_policy_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(skerry.PolicyError, match="ready-made are build, pure, python, service"):
        skerry.Policy.load("biuld")
    with pytest.raises(skerry.PolicyError, match="cannot be read"):
        skerry.Policy.load("/no/such.toml")
    with pytest.raises(skerry.UsageError, match="policy"):
        skerry.Sandbox(policy=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", READY)
def test_ready_made_policies_are_written_and_read_again_as_they_are(name: str) -> None:
    policy = skerry.Policy.load(name)
    again = skerry.Policy.from_text(policy.to_toml())
    assert again.as_dict() == policy.as_dict()
    assert policy[""]["description"] and policy.name == name


def test_text_of_any_kind_survives_toml() -> None:
    policy = skerry.Policy(environment={"set": {"A b": 'x"\\\n\x01ü€'}}, files={"read_only": ["/a b/'c'"] * 20})
    assert skerry.Policy.from_text(policy.to_toml({"files.read_only": "why\nindeed"})).as_dict() == policy.as_dict()


def test_words_with_an_at_sign_become_places(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    policy = skerry.Policy(files={"default": "hidden", "read_only": ["@program", "@cwd/data"], "hidden": ["@home/.ssh"]})
    made = policy.for_command([str(script)], cwd=str(tmp_path))["files"]
    assert made["read_only"][:2] == [str(script), "/bin/sh"] and f"{tmp_path}/data" in made["read_only"]
    assert any("ld-linux" in path for path in made["read_only"])
    assert not any("@" in path for paths in made.values() if isinstance(paths, list) for path in paths)
    with pytest.raises(skerry.PolicyError, match=r"files.read_only\[0\]"):
        _compile.files(policy)


def test_what_the_mount_above_says_already_is_not_mounted_again(tmp_path: pathlib.Path) -> None:
    for name in ("a", "a/b", "a/b/c"):
        (tmp_path / name).mkdir()
    top = str(tmp_path)
    policy = skerry.Policy(
        files={
            "default": "hidden",
            "read_only": [top, f"{top}/a", f"{top}/a/b/c"],
            "private": [f"{top}/a/b"],
            "hidden": [f"{top}/x"],
        }
    )
    root, mounts, _ = _compile.files(policy)
    assert root["type"] == "skeleton"
    assert [path for path, _ in mounts] == [top, f"{top}/a/b", f"{top}/a/b/c"]


def test_links_on_the_way_are_made_in_a_skeleton(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    _, mounts, links = _compile.files(skerry.Policy(files={"default": "hidden", "read_only": [f"{tmp_path}/link/file"]}))
    assert [path for path, _ in mounts] == [f"{tmp_path}/real/file"]
    assert dict(links)[f"{tmp_path}/link"]["to"] == "real"


def test_rules_are_compiled_the_strictest_first() -> None:
    policy = skerry.Policy(
        system_calls={
            "default": "errno",
            "error": "EACCES",
            "allow": ["@process", "read"],
            "kill": ["ptrace"],
            "log": ["open"],
        },
        network={"connect": ["tcp:80-82", "udp:53"]},
    )
    rules = _compile.rules(policy)
    assert rules is not None and rules["calls"]["default"] == {"errno": 13}
    assert [rule["action"] for rule in rules["calls"]["rules"]] == ["kill", "log", "allow"]
    assert "mmap" in rules["calls"]["rules"][2]["calls"]
    assert rules["ports"] == {"connect_tcp": [80, 81, 82], "bind_tcp": [], "connect_udp": [53], "bind_udp": []}
    assert _compile.rules(skerry.Policy(files={"default": "hidden"}, system_calls={"allow": ["read"]})) is None


def test_call_names_are_those_of_the_guest_kernel() -> None:
    table = (ROOT / "crates/kernel/src/syscall/table.rs").read_text()
    rows = [
        line.split()[:2]
        for line in table.splitlines()
        if line.startswith("    ") and line.split()[:1][:1] and line.split()[0].isdecimal()
    ]
    assert len(rows) > 300
    for number, name in rows:
        assert _calls.NUMBERS.get(name) == int(number), name


def test_a_secret_is_a_name_and_never_a_value(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "key").write_text("file-value\n")
    policy = skerry.Policy(secrets={"TOKEN": {"env": "MINE"}, "KEY": {"file": str(tmp_path / "key"), "path": "/secret/key"}})
    with pytest.raises(skerry.PolicyError, match="no MINE"):
        _compile.environment(policy)
    monkeypatch.setenv("MINE", "env-value")
    assert _compile.environment(policy) == {"TOKEN": "env-value"}
    assert [path for path, _ in _compile.secret_files(policy)] == ["/secret/key"]
    assert "value" not in policy.to_toml() + json.dumps(policy.as_dict()) + repr(policy)


def test_the_schema_knows_each_clause() -> None:
    properties = _model.schema()["properties"]
    for section, clauses in _model.SECTIONS.items():
        known = properties if section == "" else properties[section]["properties"]
        assert set(clauses) <= set(known)


def test_what_leaves_the_sandbox_is_the_gateways_to_hold() -> None:
    policy = skerry.Policy(network={"mode": "user", "addresses": [], "connect": ["tcp:443"], "bind": ["tcp:1"]})
    assert _compile.gateway(policy) == {"addresses": [], "connect": ["tcp:443"], "domains": None}
    assert _compile.gateway(None) == {"addresses": None, "connect": None, "domains": None}
    assert _compile.rules(policy, "user") is None
    inside = _compile.rules(policy, "loopback")
    assert inside is not None and inside["ports"]["connect_tcp"] == [443]
    outside = ["network.addresses", "network.mode", "network.connect", "network.bind"]
    assert sorted(_compile.clauses(policy, "user")) == sorted([*outside, "network.bind with user"])
    assert sorted(_compile.clauses(policy, "loopback")) == sorted([*outside, "network.addresses without user"])


def test_denials_of_a_gateway_are_explained() -> None:
    told = [
        ("tcp", "192.0.2.1", 25, "network.addresses", None, 'add "192.0.2.1" to network.addresses'),
        ("udp", "192.0.2.1", 53, "network.connect", None, 'add "udp:53" to network.connect'),
        ("dns", "example.org", 53, "network.domains", None, 'add "example.org" to network.domains'),
        ("tcp", "169.254.169.254", 80, "network.mode", "metadata", 'name it (network.addresses = ["169.254.169.254"])'),
    ]
    events = [
        {"event": "network_denied", "protocol": protocol, "address": address, "port": port, "clause": clause, "reason": reason}
        for protocol, address, port, clause, reason, _ in told
    ]
    found = _explain.Explainer({"engine": "microvm"}).explain(events)
    assert [(finding.clause, finding.layer) for finding in found] == [(row[3], "the gateway") for row in told]
    assert all(finding.allow.endswith(row[5]) for finding, row in zip(found, told, strict=True)), found
    assert found[2].what == "the name example.org was not resolved" and "(metadata)" in found[3].what
