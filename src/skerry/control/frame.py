"""Frames: a 4-byte little-endian length and that many bytes of JSON (the mirror of crates/control/src/frame.rs)."""

from __future__ import annotations

import json

from ..errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: The largest frame, in bytes, that either side accepts.
MAXIMUM_FRAME = 16 << 20

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode(message: Mapping[str, Any]) -> bytes:
    """One frame's bytes."""
    body = _encoder.encode(message).encode("utf-8")
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
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame is not a message of this protocol: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("a frame is not a message of this protocol: not an object")
    return message
