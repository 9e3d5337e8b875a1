"""Values as people write them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from skerry import UsageError, _values


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("1", 1), (4096, 4096), ("512m", 512 << 20), ("1.5g", 3 << 29), ("64KiB", 65536), ("64 kb", 65536), ("2T", 2 << 40),
     ("7b", 7), (str((1 << 62) - 1), (1 << 62) - 1)],
)  # fmt: skip
def test_sizes(text: Any, bytes_: int) -> None:
    assert _values.size(text, "memory") == bytes_


@pytest.mark.parametrize(
    "text", ["", "m", "12x", "0", "-5m", "1e9", "1.2.3m", 0, -1, None, True, 1.5, "9" * 400, "9" * 400 + "k", "5bb"]
)
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(UsageError, match="memory") as caught:
        _values.size(text, "memory")
    assert caught.value.option == "memory"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("1.5s", 1.5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1d", 86400), (3, 3), (0.25, 0.25),
     (datetime.timedelta(minutes=1), 60)],
)  # fmt: skip
def test_durations(text: Any, seconds: float) -> None:
    assert _values.duration(text, "timeout") == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "-1", "1w", "nan", "inf", float("nan"), 0, None, True, [], "1e3"])
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(UsageError):
        _values.duration(text, "timeout")


@pytest.mark.parametrize(
    ("text", "user"),
    [("caller", "caller"), ("1000", (1000, 1000)), ("1000:4", (1000, 4)), (0, (0, 0)), ((1, 2), (1, 2)), ([3], (3, 3))],
)
def test_users(text: Any, user: Any) -> None:
    assert _values.user(text, "user") == user


@pytest.mark.parametrize("text", ["", "root", "1:2:3", "-1", ":", "1:", 1.5, True, (1, 2, 3), None, str(1 << 32)])
def test_who_is_no_user(text: Any) -> None:
    with pytest.raises(UsageError):
        _values.user(text, "user")


def test_the_rest() -> None:
    assert _values.cpus("1.5", "cpus") == 1.5
    assert _values.count("4096", "pids") == 4096
    assert _values.hostname("a-b.c", "hostname") == "a-b.c"
    for bad in (0, "x", "nan", "inf", None, []):
        with pytest.raises(UsageError):
            _values.cpus(bad, "cpus")
    for bad in (0, "1.5", True, "-3", 1 << 40, None, 2.0):
        with pytest.raises(UsageError):
            _values.count(bad, "pids")
    for bad in ("", "a b", "x" * 65, "ä", "a\n", None):
        with pytest.raises(UsageError):
            _values.hostname(bad, "hostname")
