"""Probes: programs of a few instructions that make given system calls and say by their exit status how the last one ended.

They need nothing of what a policy may deny: no library, no interpreter, no output. Status 0: it worked; an errno: it failed
with that; ZERO: it gave 0 where that was asked about; SETUP: a call before the last one failed.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ZERO = 254
SETUP = 255

#: As an argument: what the first call gave (a descriptor).
RESULT = object()

_BASE = 0x400000
_HEADERS = 64 + 56
#: mov into rdi, rsi, rdx, r10, r8, r9.
_MOVES = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
_EXIT_GROUP = 231


def forks(count: int) -> bytes:
    """An ELF executable that makes `count` processes, which wait for ever; its status: why one could not be made, else 0."""
    code = b"\xbb" + struct.pack("<I", count)  # mov ebx
    code += b"\xb8\x39\x00\x00\x00\x0f\x05"  # again: fork
    code += b"\x48\x85\xc0\x74\x16\x78\x08"  # test rax, rax; jz child; js failed
    code += b"\xff\xcb\x75\xee\x31\xff\xeb\x05"  # dec ebx; jnz again; xor edi, edi; jmp leave
    code += b"\x48\xf7\xd8\x89\xc7"  # failed: neg rax; mov edi, eax
    code += b"\xb8" + struct.pack("<I", _EXIT_GROUP) + b"\x0f\x05"  # leave
    code += b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"  # child: pause, again and again
    return _executable(code)


def spin() -> bytes:
    """An ELF executable that computes for ever."""
    return _executable(b"\xeb\xfe")


def _executable(code: bytes, data: bytes = b"") -> bytes:
    size = _HEADERS + len(code) + len(data)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code + data


def program(calls: Sequence[Sequence[object]], *, zero: bool = False) -> bytes:
    """An ELF executable that makes `calls`: each a number and arguments, which are numbers, bytes (their address) or RESULT."""
    # Twice, as the addresses of the data depend on the length of the code.
    code, _ = _assemble(calls, 0, zero)
    code, data = _assemble(calls, _BASE + _HEADERS + len(code), zero)
    return _executable(code, data)


def _assemble(calls: Sequence[Sequence[object]], data_at: int, zero: bool) -> tuple[bytes, bytes]:
    code, data = b"", b""
    failures: list[int] = []
    for index, (number, *arguments) in enumerate(calls):
        for move, argument in zip(_MOVES, arguments, strict=False):
            if argument is RESULT:
                code += b"\x4c\x89" + {b"\x48\xbf": b"\xff", b"\x48\xbe": b"\xfe", b"\x48\xba": b"\xfa"}[move]  # mov ..., r15
                continue
            if isinstance(argument, bytes):
                value = data_at + len(data)
                data += argument + bytes(-len(argument) % 8)
            else:
                assert isinstance(argument, int)
                value = argument
            code += move + struct.pack("<Q", value & (1 << 64) - 1)
        assert isinstance(number, int)
        code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"  # mov eax; syscall
        if index < len(calls) - 1:
            code += b"\x48\x85\xc0\x0f\x88" + bytes(4)  # test rax, rax; js: a call before the last one failed
            failures.append(len(code))
            if index == 0:
                code += b"\x49\x89\xc7"  # mov r15, rax
    leave = b"\xb8" + struct.pack("<I", _EXIT_GROUP) + b"\x0f\x05"
    zero_status = ZERO if zero else 0
    code += b"\x48\x89\xc7\x48\xf7\xdf"  # mov rdi, rax; neg rdi
    code += b"\x48\x85\xc0\x78" + bytes([5 + 2 + 2])  # test rax, rax; js: the errno is the status
    code += b"\xbf" + struct.pack("<I", zero_status) + b"\x74\x02\x31\xff"  # mov edi; jz: leave; xor edi, edi
    code += leave
    for place in failures:
        code = code[: place - 4] + struct.pack("<i", len(code) - place) + code[place:]
    code += b"\xbf" + struct.pack("<I", SETUP) + leave
    return code, data
