"""Frames: a 4-byte little-endian length and that many bytes of JSON (the mirror of crates/control/src/frame.rs)."""

from __future__ import annotations

from ..errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: The largest frame, in bytes, that either side accepts.
MAXIMUM_FRAME = 16 << 20


class _Scanned:
    """What the C half of `json` asks its scanner for."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int

    @staticmethod
    def parse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")


def _c_half() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    """The C half of `json` alone: the module around it compiles regular expressions, which takes longer than the start of an
    engine. ImportError, AttributeError: this interpreter has it otherwise.
    """
    import _json

    half: Any = _json
    write = half.make_encoder(None, None, half.encode_basestring, None, ":", ",", False, False, False)
    scan = half.make_scanner(_Scanned)

    def loads(text: str) -> Any:
        text = text.strip(" \t\n\r")
        try:
            value, end = scan(text, 0)
        except StopIteration as stop:
            raise ValueError(f"no JSON at character {stop.value}") from None
        if end != len(text):
            raise ValueError(f"more than JSON from character {end} on")
        return value

    return lambda value: "".join(write(value, 0)), loads


def _whole() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    import json

    return json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode, json.loads


try:
    dumps, loads = _c_half()
    if loads(dumps({"a": [1, 2.5, None, True, "\xe4"]})) != {"a": [1, 2.5, None, True, "\xe4"]}:
        dumps, loads = _whole()
except Exception:  # whatever another interpreter makes of it
    dumps, loads = _whole()


def encode(message: Mapping[str, Any]) -> bytes:
    """One frame's bytes."""
    body = dumps(message).encode("utf-8")
    if len(body) > MAXIMUM_FRAME:
        raise ProtocolError(f"a frame of {len(body)} bytes is over the limit of {MAXIMUM_FRAME}")
    return len(body).to_bytes(4, "little") + body


def take(buffer: bytearray) -> dict[str, Any] | None:
    """Takes the first whole frame off `buffer`; None while it is not complete."""
    if len(buffer) < 4:
        return None
    length = int.from_bytes(buffer[:4], "little")
    if length > MAXIMUM_FRAME:
        raise ProtocolError(f"a frame of {length} bytes is over the limit of {MAXIMUM_FRAME}")
    if len(buffer) < 4 + length:
        return None
    body = bytes(buffer[4 : 4 + length])
    del buffer[: 4 + length]
    try:
        message = loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame is not a message of this protocol: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("a frame is not a message of this protocol: not an object")
    return message
