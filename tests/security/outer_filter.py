"""Runs a command under a seccomp filter like a container's default one: `outer_filter.py [--listener] [--old] -- COMMAND...`.

Without capabilities such a profile lets through what ordinary programs need, and answers EPERM to the rest; clone3, whose
flags a filter cannot see, gets ENOSYS, so that the C library takes clone. With `--old` it has not heard of Linux 5.9 and
later either, as profiles of that age. With `--listener` the filter also has a
listener, as a nested sandbox would find one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import time

#: What needs a capability, or has no business in a container: the call's number on x86-64, by name.
REFUSED = {
    "ptrace": 101, "syslog": 103, "uselib": 134, "personality": 135, "ustat": 136, "sysfs": 139, "vhangup": 153,
    "pivot_root": 155, "_sysctl": 156, "adjtimex": 159, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "create_module": 174, "init_module": 175, "delete_module": 176, "get_kernel_syms": 177, "query_module": 178,
    "quotactl": 179, "nfsservctl": 180, "lookup_dcookie": 212, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238,
    "get_mempolicy": 239, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "pkey_mprotect": 329,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip
CLONE = 56
CLONE3 = 435
#: The first number that an older profile has not heard of (after faccessat2 and epoll_pwait2); but for the ones that it has.
NEWER = 442
NEWER_ALLOWED = {444, 445, 446}  # landlock_*
NOT_KNOWN_TO_OLD = {"close_range": 436, "openat2": 437, "faccessat2": 439, "epoll_pwait2": 441}
X32 = 0x4000_0000
NAMESPACES = 0x7E02_0000  # CLONE_NEW*, but NEWTIME

LOAD, JUMP_EQUAL, JUMP_GREATER_OR_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, USER_NOTIFICATION = 0x7FFF_0000, 0x7FC0_0000
X86_64 = 0xC000_003E
#: A call that nothing here makes, for the listener's sake.
NEVER_MADE = 180


def refuse(error: int) -> int:
    return 0x0005_0000 | error


def program(listener: bool, old: bool) -> list[tuple[int, int, int, int]]:
    """(code, jump if true, jump if false, operand); every block goes on behind itself where it does not match."""
    code = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, X86_64), (RETURN, 0, 0, refuse(errno.EPERM)), (LOAD, 0, 0, 0)]
    code += [(JUMP_GREATER_OR_EQUAL, 0, 1, X32), (RETURN, 0, 0, refuse(errno.EPERM))]
    if listener:
        code += [(JUMP_EQUAL, 0, 1, NEVER_MADE), (RETURN, 0, 0, USER_NOTIFICATION)]
    code += [(JUMP_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, refuse(errno.ENOSYS))]
    refused = REFUSED | (NOT_KNOWN_TO_OLD if old else {})
    for number in sorted(refused.values()):
        code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, refuse(errno.EPERM))]
    for number in () if old else sorted(NEWER_ALLOWED):
        code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    code += [(JUMP_GREATER_OR_EQUAL, 0, 1, NEWER), (RETURN, 0, 0, refuse(errno.EPERM))]
    # clone without new namespaces; the lower half of its flags is the first word of the first argument.
    code += [(JUMP_EQUAL, 0, 3, CLONE), (LOAD, 0, 0, 16), (JUMP_SET, 0, 1, NAMESPACES), (RETURN, 0, 0, refuse(errno.EPERM))]
    return [*code, (RETURN, 0, 0, ALLOW)]


def install(listener: bool, old: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program(listener, old))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer)))
    if libc.prctl(38, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    descriptor = libc.syscall(317, 1, 8 if listener else 0, header)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    if listener:
        hold(descriptor)
        os.close(descriptor)


def hold(descriptor: int) -> None:
    """Keeps the listener open in a process outside, as a supervisor does: a filter whose listener is closed is no obstacle."""
    parent = os.getpid()
    if os.fork():
        return
    os.closerange(0, descriptor)
    os.closerange(descriptor + 1, 1024)
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)


def main() -> None:
    words = sys.argv[1:]
    end = words.index("--")
    options, command = words[:end], words[end + 1 :]
    install("--listener" in options, "--old" in options)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
