"""`skerry doctor` tells apart what is there from what is not."""

from __future__ import annotations

import errno
import json
import os

import pytest

from skerry.cli import doctor, main


def test_every_check_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert [finding["check"] for finding in findings] == [name for name, _ in doctor.CHECKS]
    assert all(finding["state"] in (doctor.GOOD, doctor.NOTE, doctor.BAD) and finding["found"] for finding in findings)
    assert findings[-1]["found"].startswith("a sandbox: works; layers in force: seccomp")
    assert main(["doctor"]) == 0
    assert "Skerry works here" in capsys.readouterr().out


def test_a_listener_above_is_seen() -> None:
    assert doctor._in_child(lambda: doctor._make_listener() or doctor._make_listener()) in (errno.EBUSY, errno.EPERM)


def test_an_old_kernel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for release, state in (("5.8.0-generic", doctor.BAD), ("5.10.1", doctor.NOTE), ("6.12-rc1", doctor.GOOD)):
        monkeypatch.setattr(os, "uname", lambda release=release: os.uname_result(("Linux", "", release, "", "x86_64")))
        assert doctor.check_kernel()[0] == state


def test_a_missing_sentry_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SKERRY_SENTRY", "/nosuch")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "MISSING skerry-sentry: not found" in out
    assert "Skerry cannot work here" in out


def test_checks_leave_no_children() -> None:
    for _, check in doctor.CHECKS[:-1]:
        check()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
