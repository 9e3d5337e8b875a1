"""Values as people write them: sizes, durations, users. Each error says what is accepted."""

from __future__ import annotations

from .errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LARGEST = 1 << 62
_LARGEST_ID = (1 << 32) - 2  # the last one means "unchanged" to Linux


def _split(text: str) -> tuple[float | None, str]:
    """The number at the head and the unit behind it, in lower case."""
    text = text.strip().lower()
    end = 0
    while end < len(text) and (text[end] in "0123456789."):
        end += 1
    try:
        return float(text[:end]), text[end:].strip()
    except ValueError:
        return None, ""


def size(value: Any, option: str) -> int:
    """Bytes: a number, or text such as "512m", "1.5g", "64KiB" (powers of 1024)."""
    if isinstance(value, int) and not isinstance(value, bool):
        amount = value
    elif isinstance(value, str):
        number, unit = _split(value)
        if len(unit) > 1 and unit[0] in "kmgt" and unit[1:] in ("b", "ib"):
            unit = unit[0]
        if number is None or number > _LARGEST or unit not in _SIZE_UNITS:
            raise UsageError(f"{value!r} is not a size; write bytes or a number with k, m, g or t, as in 512m", option=option)
        # In whole numbers as far as they go: a float holds no more than 53 bits.
        amount = int(value) if value.strip().isdecimal() else int(number * _SIZE_UNITS[unit])
    else:
        raise UsageError(f"{value!r} is not a size; give a number of bytes or text such as '512m'", option=option)
    if not 0 < amount <= _LARGEST:
        raise UsageError(f"{value!r} must be more than 0 and at most 2 to the 62nd", option=option)
    return amount


def duration(value: Any, option: str) -> float:
    """Seconds: a number, or text such as "10", "1.5s", "500ms", "2m", "1h"."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        number, unit = _split(value)
        if number is None or unit not in _DURATION_UNITS:
            raise UsageError(
                f"{value!r} is not a duration; write seconds or a number with ms, s, m, h or d, as in 90s", option=option
            )
        seconds = number * _DURATION_UNITS[unit]
    elif hasattr(value, "total_seconds"):
        seconds = float(value.total_seconds())
    else:
        raise UsageError(f"{value!r} is not a duration; give seconds or text such as '90s'", option=option)
    if not 0 < seconds < 1e9:
        raise UsageError(f"{value!r} must be more than 0 and less than 30 years", option=option)
    return seconds


def cpus(value: Any, option: str) -> float:
    """A number of CPUs, which may be a fraction."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0.01 <= number <= 65536:
        raise UsageError(f"{value!r} is not a number of CPUs; write one from 0.01 up, as in 1.5", option=option)
    return number


def count(value: Any, option: str) -> int:
    """A whole number from 1 up."""
    try:
        number = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else 0
    except ValueError:
        number = 0
    if not 1 <= number <= 1 << 22:
        raise UsageError(f"{value!r} is not a whole number from 1 to {1 << 22}", option=option)
    return number


def level(value: Any, option: str) -> int:
    """An isolation level."""
    number = int(value) if isinstance(value, (int, str)) and str(value) in ("1", "2", "3", "4") else 0
    if not number:
        raise UsageError(f"{value!r} is not an isolation level; write 1, 2, 3 or 4", option=option)
    return number


def user(value: Any, option: str) -> tuple[int, int] | str:
    """ "caller", or (uid, gid) from a number, "UID", "UID:GID" or a pair. A gid that is not given equals the uid."""
    if value == "caller":
        return "caller"
    parts: list[Any]
    if isinstance(value, str):
        parts = value.split(":")
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    else:
        parts = [value]
    try:
        numbers = [int(part) for part in parts if not isinstance(part, (bool, float))]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != len(parts) or len(parts) not in (1, 2) or not all(0 <= n <= _LARGEST_ID for n in numbers):
        raise UsageError(f"{value!r} is not a user; write UID, UID:GID (numbers) or 'caller'", option=option)
    return numbers[0], numbers[-1]


def hostname(value: Any, option: str) -> str:
    """A host name that Linux takes: 1 to 64 printable ASCII characters without blanks."""
    if isinstance(value, str) and 1 <= len(value) <= 64 and value.isascii() and value.isprintable() and " " not in value:
        return value
    raise UsageError(f"{value!r} is not a host name; write 1 to 64 letters, digits, dots and dashes", option=option)


def choice(value: Any, choices: tuple[str, ...], option: str) -> str:
    """One of `choices`."""
    if isinstance(value, str) and value in choices:
        return value
    raise UsageError(f"{value!r} is none of {', '.join(choices)}", option=option)
