"""What a seccomp filter may answer to a call, whatever its arguments: classic BPF, followed along every way that is open.

The number and the architecture are known, arguments and instruction pointer are not: a jump that depends on them goes both
ways. So what is found is an upper bound: no call that can be made is left out, and one may be in that no arguments let through.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

X86_64, I386 = 0xC000003E, 0x40000003

#: From the strictest to the mildest, as the host chooses among the answers of several filters.
ACTIONS = {
    0x80000000: "kill",
    0x00000000: "kill",  # the thread only
    0x00030000: "trap",
    0x00050000: "errno",
    0x7FC00000: "notify",
    0x7FF00000: "trace",
    0x7FFC0000: "log",
    0x7FFF0000: "allow",
}
ORDER = ("kill", "trap", "errno", "notify", "trace", "log", "allow")
#: Answers after which the host's kernel carries the call out; those after which somebody is asked, who may have it do so.
REACHED, ASKED = ("log", "allow"), ("notify", "trace")

_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << b if b < 32 else 0,
    0x70: lambda a, b: a >> b if b < 32 else 0,
    0xA0: lambda a, b: a ^ b,
}
_JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: a & b != 0,
}

_MASK = 0xFFFFFFFF


class BadProgram(ValueError):
    """It is none that Linux would have taken."""


def answers(program: Sequence[tuple[int, int, int, int]], number: int, architecture: int = X86_64) -> set[str]:
    """Every answer that the filter may give to a call of that number."""
    found: set[str] = set()
    # Where it goes on, accumulator, index register, scratch memory; None is a value that is not known.
    start: tuple[int, int | None, int | None, tuple[int | None, ...]] = (0, 0, 0, (0,) * 16)
    waiting, seen = [start], {start}
    while waiting:
        at, value, index, memory = waiting.pop()
        if not 0 <= at < len(program):
            raise BadProgram("a jump leads out of the program")
        code, if_true, if_false, operand = program[at]
        kind, following = code & 7, [at + 1]
        if kind == 0x06:  # return
            result = value if code & 0x18 == 0x10 else operand
            if result is None:
                return set(ORDER)
            found.add(ACTIONS.get(result & 0xFFFF0000, "kill"))
            continue
        if kind == 0x00:  # load
            mode = code & 0xE0
            if mode == 0x20:
                value = {0: number & _MASK, 4: architecture}.get(operand)
            elif mode == 0x00:
                value = operand
            elif mode == 0x60:
                value = memory[operand & 15]
            elif mode == 0x80:
                value = 64
            else:
                raise BadProgram(f"unknown load {code:#x}")
        elif kind == 0x01:  # load into the index register
            mode = code & 0xE0
            index = {0x00: operand, 0x60: memory[operand & 15], 0x80: 64}.get(mode)
        elif kind in (0x02, 0x03):  # store
            place = operand & 15
            memory = (*memory[:place], value if kind == 0x02 else index, *memory[place + 1 :])
        elif kind == 0x04:  # arithmetic
            other = index if code & 0x08 else operand
            operation = code & 0xF0
            if operation == 0x80:
                value = None if value is None else -value & _MASK
            elif value is None or other is None:
                value = 0 if operation == 0x50 and 0 in (value, other) else None
            elif operation in (0x30, 0x90):
                value = 0 if other == 0 else value // other if operation == 0x30 else value % other
            elif operation in _ALU:
                value = _ALU[operation](value, other) & _MASK
            else:
                raise BadProgram(f"unknown arithmetic {code:#x}")
        elif kind == 0x05:  # jump
            other = index if code & 0x08 else operand
            operation = code & 0xF0
            if operation == 0:
                following = [at + 1 + operand]
            elif operation not in _JUMPS:
                raise BadProgram(f"unknown jump {code:#x}")
            elif value is None or other is None:
                following = [at + 1 + if_true, at + 1 + if_false]
            else:
                following = [at + 1 + (if_true if _JUMPS[operation](value, other) else if_false)]
        elif code & 0xF8 == 0x80:
            value = index
        else:
            index = value
        for place in following:
            state = (place, value, index, memory)
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return found


def mildest(programs: Iterable[Sequence[tuple[int, int, int, int]]], number: int, architecture: int = X86_64) -> str:
    """The mildest answer that a call may get from all filters together; "allow" where there is none."""
    result = "allow"
    for program in programs:
        best = max(answers(program, number, architecture), key=ORDER.index)
        result = min(result, best, key=ORDER.index)
    return result


def reach(
    programs: Sequence[Sequence[tuple[int, int, int, int]]], numbers: Iterable[int], architecture: int = X86_64
) -> dict[int, str]:
    """For each number the mildest answer that it may get."""
    return {number: mildest(programs, number, architecture) for number in numbers}
