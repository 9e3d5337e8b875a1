"""Profiles of security modules, as text: what they grant, what they escape, what they refuse."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from skerry.control import messages
from skerry.engines import labels
from skerry.errors import Unenforceable

RULES = messages.rules(
    files=[
        messages.file_rule("/usr", messages.READ_RIGHTS),
        messages.file_rule("/home/me/my work*", messages.READ_RIGHTS + messages.WRITE_RIGHTS),
        messages.file_rule("/dev/null", ["read_file", "write_file"]),
    ],
    ports={"connect_tcp": [443]},
    capabilities=["CAP_CHOWN"],
)


def test_apparmor() -> None:
    text = labels.apparmor_profile(RULES, "skerry-build")
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "profile skerry-build flags=(attach_disconnected,mediate_deleted) {" and lines[-1] == "}"
    assert "/usr{,/,/**} rix," in lines
    assert '"/home/me/my work\\*{,/,/**}" rwlix,' in lines
    assert "network inet stream," in lines and "network inet dgram," not in lines
    assert "capability chown," in lines and "signal (send, receive) peer=skerry-build," in lines
    bare = labels.apparmor_profile(messages.rules(files=[messages.file_rule("/", ["read_file"])]), "bare")
    assert "/{,**} r," in bare and "inet" not in bare and "capability" not in bare


def test_selinux() -> None:
    text = labels.selinux_module(RULES, "skerry-build")
    assert text.count("(") == text.count(")") and text.startswith("(type skerry_build_t)\n")
    assert "(allow skerry_build_t skerry_build_0_t (file (execute execute_no_trans getattr map open read)))" in text
    assert '(filecon "/home/me/my work\\*(/.*)?" any (system_u object_r skerry_build_1_t ((s0) (s0))))' in text
    assert "tcp_socket" in text and "udp_socket" not in text and "(capability (chown))" in text


@pytest.mark.parametrize("make", [labels.apparmor_profile, labels.selinux_module])
def test_what_cannot_be_written_is_refused(make) -> None:
    with pytest.raises(Unenforceable):
        make(RULES, "a } profile")
    with pytest.raises(Unenforceable):
        make(messages.rules(files=[messages.file_rule("/a\nb", ["read_file"])]), "name")


def test_apparmors_own_parser_takes_it() -> None:
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
    if parser is None:
        pytest.skip("not installed: apparmor_parser")
    text = labels.apparmor_profile(RULES, "skerry-build")
    done = subprocess.run(
        [parser, "--config-file=/dev/null", "--skip-kernel-load", "--skip-cache"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
