"""`skerry doctor`: what this host grants, what each finding means, and how to mend what is missing.

Each check tries the thing itself, in a child process where it changes something; none needs privileges.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from .. import _host, errors
from ._parser import Option, help_text, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OPTIONS = [
    Option("--json", "json", None, "print the findings as JSON"),
    Option("-h --help", "help", None, "print this text"),
]

#: Good: in force. Note: Skerry works without it, and says what is lost. Bad: Skerry cannot work.
GOOD, NOTE, BAD = "ok", "note", "missing"
_MARKS = {GOOD: "ok      ", NOTE: "without ", BAD: "MISSING "}

_NR_SECCOMP, _NR_LANDLOCK_CREATE_RULESET = 317, 444
_SECCOMP_SET_MODE_FILTER, _SECCOMP_GET_ACTION_AVAIL, _SECCOMP_GET_NOTIF_SIZES = 1, 2, 3
_SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
_SECCOMP_RET_USER_NOTIF, _SECCOMP_RET_ALLOW = 0x7FC00000, 0x7FFF0000
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNS, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x00020000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: object) -> int:
    """The call's value, or minus its errno."""
    value = int(_libc.syscall(ctypes.c_long(number), *arguments))
    return -ctypes.get_errno() if value == -1 else value


def _in_child(check: Callable[[], int]) -> int:
    """What `check` gives in a child process: 0, or an errno."""
    child = os.fork()
    if child == 0:
        try:
            status = check()
        except OSError as error:
            status = error.errno or 255
        except BaseException:
            status = 255
        os._exit(min(max(status, 0), 255))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- the checks, in the order of the report ---


def check_kernel() -> tuple[str, str, str]:
    """The kernel's version."""
    found = os.uname().release
    wanted = ".".join(map(str, _host.MINIMUM_KERNEL))
    if _host.kernel_version() < _host.MINIMUM_KERNEL:
        return BAD, f"Linux {found} is older than {wanted}", f"use a kernel from {wanted} on"
    if _host.kernel_version() < (6, 6):
        return (
            NOTE,
            f"Linux {found}: works; from 6.6 on a call switches to the guest kernel on the same CPU, which is faster",
            "",
        )
    return GOOD, f"Linux {found}", ""


def check_user_notification() -> tuple[str, str, str]:
    """The one thing that must be there."""
    action = struct.pack("=I", _SECCOMP_RET_USER_NOTIF)
    value = _syscall(_NR_SECCOMP, ctypes.c_uint(_SECCOMP_GET_ACTION_AVAIL), ctypes.c_uint(0), ctypes.c_char_p(action))
    if value < 0:
        return (
            BAD,
            f"seccomp user notification: {os.strerror(-value)}",
            "use a kernel with CONFIG_SECCOMP_FILTER, or an outer seccomp profile that allows seccomp(2)",
        )
    return GOOD, "seccomp user notification: calls can be handed to the guest kernel", ""


def check_listener() -> tuple[str, str, str]:
    """Only one listener can be above a process."""
    status = _in_child(_make_listener)
    if status == 0:
        return GOOD, "seccomp listener: one can be made", ""
    if status == errno.EBUSY:
        return (
            BAD,
            "seccomp listener: this process has one above it already, and Linux allows one",
            "leave the outer sandbox or container runtime that listens (LXD, sysbox, another Skerry)",
        )
    return BAD, f"seccomp listener: {os.strerror(status)}", "allow seccomp(2) and prctl(2) in the outer seccomp profile"


def _make_listener() -> int:
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return ctypes.get_errno()
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, _SECCOMP_RET_ALLOW))  # return: allow
    program = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(instruction)))
    value = _syscall(
        _NR_SECCOMP,
        ctypes.c_uint(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_uint(_SECCOMP_FILTER_FLAG_NEW_LISTENER),
        ctypes.byref(program),
    )
    return -value if value < 0 else 0


def check_memory_access() -> tuple[str, str, str]:
    """How the guest kernel reaches its guests' memory."""
    word = ctypes.create_string_buffer(b"x", 1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        os.close(reading)
        target = ctypes.create_string_buffer(1)
        local = struct.pack("@PN", ctypes.addressof(target), 1)
        remote = struct.pack("@PN", ctypes.addressof(word), 1)
        value = _libc.process_vm_readv(child, local, 1, remote, 1, 0)
        problem = "" if value == 1 else os.strerror(ctypes.get_errno())
        if not problem:
            return GOOD, "guest memory: process_vm_readv", ""
        try:
            with open(f"/proc/{child}/mem", "rb", buffering=0) as memory:
                memory.seek(ctypes.addressof(word))
                if memory.read(1) == b"x":
                    return NOTE, f"guest memory: process_vm_readv: {problem}; /proc/PID/mem serves, a little slower", ""
        except OSError as error:
            problem += f"; /proc/PID/mem: {error.strerror}"
        return (
            NOTE,
            f"guest memory: {problem}; programs themselves must copy, which is slow",
            "set kernel.yama.ptrace_scope to 0 or 1, or allow process_vm_readv in the outer profile",
        )
    finally:
        os.close(writing)
        os.waitpid(child, 0)


def check_yama() -> tuple[str, str, str]:
    """Yama restricts who may read another process's memory."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            scope = int(file.read())
    except (OSError, ValueError):
        return GOOD, "Yama: not there, no restriction", ""
    meaning = {
        0: "no restriction",
        1: "only descendants, which is enough",
        2: "only with CAP_SYS_PTRACE",
        3: "nobody",
    }.get(scope, "unknown")
    mend = "" if scope < 2 else "sysctl kernel.yama.ptrace_scope=1 (as root; from 3 only by a reboot)"
    return (GOOD if scope < 2 else NOTE), f"Yama ptrace_scope {scope}: {meaning}", mend


def check_landlock() -> tuple[str, str, str]:
    """Landlock keeps the guest kernel itself to the trees it was given."""
    version = _syscall(_NR_LANDLOCK_CREATE_RULESET, ctypes.c_void_p(None), ctypes.c_size_t(0), ctypes.c_uint(1))
    if version > 0:
        return GOOD, f"Landlock: ABI {version}; the guest kernel confines itself to the trees it was given", ""
    why = os.strerror(-version)
    return (
        NOTE,
        f"Landlock: {why}; the guest kernel is held by seccomp and namespaces alone",
        "use a kernel from 5.13 on with 'landlock' in its lsm= list, and a profile that allows landlock_create_ruleset",
    )


def check_namespaces() -> tuple[str, str, str]:
    """User namespaces, by making one with what goes into it."""
    flags = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWPID

    def unshare(which: int) -> Callable[[], int]:
        return lambda: ctypes.get_errno() if _libc.unshare(which) != 0 else 0

    status = _in_child(unshare(flags))
    if status == 0:
        # A LSM may let the namespace be made and take its use away (Ubuntu): mounting shows that.
        mounted = _in_child(_mount_in_namespace)
        if mounted == 0:
            return GOOD, "user namespaces: granted, with mount, pid and network namespaces in them", ""
        return (
            NOTE,
            f"user namespaces: made, but of no use: mount: {os.strerror(mounted)}",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (as root), or an AppArmor profile for skerry-sentry",
        )
    if os.geteuid() == 0 and _in_child(unshare(flags & ~_CLONE_NEWUSER)) == 0:
        return GOOD, "namespaces: granted to root without a user namespace", ""
    mends = {
        errno.ENOSPC: "sysctl user.max_user_namespaces=16384 (as root)",
        errno.EPERM: "sysctl kernel.unprivileged_userns_clone=1 on Debian, or leave the container's seccomp profile as it is",
    }
    return (
        NOTE,
        f"user namespaces: {os.strerror(status)}; the guest kernel shares the host's namespaces, and seccomp holds alone",
        mends.get(status, "use a kernel with CONFIG_USER_NS"),
    )


def _mount_in_namespace() -> int:
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        return ctypes.get_errno()
    private_recursively = 1 << 18 | 1 << 14
    if _libc.mount(b"none", b"/", None, ctypes.c_ulong(private_recursively), None) != 0:
        return ctypes.get_errno()
    return 0


def check_limits() -> tuple[str, str, str]:
    """How each limit would be held: by a cgroup where one is granted, which a sandbox with limits finds out."""
    from ..engines.sentry import find_sentry, sweep_groups
    from ..sandbox import Sandbox

    try:
        swept = sweep_groups(find_sentry())
        with Sandbox(memory="1g", cpus=1) as sandbox:
            limits = sandbox.info().limits
    except errors.SkerryError as error:
        return NOTE, f"limits: could not be tried: {error}", ""
    text = "limits: " + "; ".join(f"{name}: {how}" for name, how in sorted(limits.items()))
    if swept:
        text += f"; taken away, left by killed sandboxes: {', '.join(swept)}"
    if all(limits[name].startswith("cgroup") for name in ("memory", "cpus")):
        return GOOD, text, ""
    mend = "run it under 'systemd-run --user --scope -p Delegate=yes', or where its cgroup can be written to"
    return NOTE, text, mend


def check_sentry() -> tuple[str, str, str]:
    """The program itself."""
    from ..engines.sentry import find_sentry

    try:
        return GOOD, f"skerry-sentry: {find_sentry()}", ""
    except errors.SentryNotFound as error:
        return BAD, "skerry-sentry: not found", str(error)


def check_sandbox() -> tuple[str, str, str]:
    """All of it together: a sandbox that runs a command."""
    from ..sandbox import Sandbox

    try:
        with Sandbox() as sandbox:
            info = sandbox.info()
            status = sandbox.run(["/bin/true"], cwd="/", timeout=30).returncode
    except errors.SentryNotFound:
        return BAD, "a sandbox: not tried without skerry-sentry", ""
    except errors.SkerryError as error:
        return BAD, f"a sandbox: {error}", "mend what is missing above, or report this"
    if status != 0:
        return BAD, f"a sandbox: /bin/true ended with status {status}", "please report this"
    text = f"a sandbox: works; layers in force: {', '.join(info.layers) or 'none'}"
    if info.missing:
        text += "; not in force: " + "; ".join(f"{layer.layer} ({layer.reason})" for layer in info.missing)
    return GOOD, text, ""


def check_engines() -> tuple[str, str, str]:
    """The other walls that are built: what this host grants them."""
    from ..engines.base import ENGINES, engine

    texts, mends = [], []
    for name, _, _, built in ENGINES:
        if not built or name == "sentry":
            continue
        probe = engine(name).probe()
        texts.append(f"{name}: {'usable' if probe.usable else f'not usable: {probe.why}'}")
        if not probe.usable and probe.mend:
            mends.append(f"{name}: {probe.mend}")
    found = "engines besides the sentry: " + ("; ".join(texts) or "none is built yet")
    return (NOTE if mends else GOOD), found, "\n".join(mends)


def check_weakened() -> tuple[str, str, str]:
    """Whether a test has taken parts out of the walls."""
    from ..engines.namespace import WEAKEN_SWITCH

    parts = os.environ.get(WEAKEN_SWITCH)
    if not parts:
        return GOOD, "nothing is taken out for a test", ""
    return BAD, f"WEAKENED FOR A TEST: {parts}: these are no sandboxes", f"unset {WEAKEN_SWITCH}"


def check_monitors() -> tuple[str, str, str]:
    """What virtual machines take, and which of their monitors are here."""
    import shutil

    from .._options import MONITORS
    from ..engines.microvm import host_resolvers
    from ..engines.unikernel import UnikernelEngine
    from ..vmm import kernel, monitor

    texts, mends = [], []
    try:
        texts.append(f"kernel {kernel.find().release}")
    except errors.EngineUnavailable:
        texts.append("no kernel")
        mends.append("skerry machines --fetch-kernel")
    for name in MONITORS:
        driver = monitor(name)
        there = "there" if shutil.which(driver.program) else "not installed"
        texts.append(f"{name}: {there}" + ("" if driver.run_on_hardware else ", its driver was not run on hardware"))
    names = ", ".join(host_resolvers()) or "nobody: the host's /etc/resolv.conf names no server"
    texts.append(f"with --network user names are asked of {names}")
    trouble = UnikernelEngine().hvt_trouble()
    texts.append(f"unikernels for hvt: {f'not usable: {trouble}' if trouble else 'usable'}")
    texts.append("kvm was run by us in a machine of QEMU's tcg only, never on hardware")
    return (NOTE if mends else GOOD), "virtual machines: " + "; ".join(texts), "\n".join(mends)


CHECKS = (
    ("weakened", check_weakened),
    ("kernel", check_kernel),
    ("user_notification", check_user_notification),
    ("listener", check_listener),
    ("memory_access", check_memory_access),
    ("yama", check_yama),
    ("landlock", check_landlock),
    ("namespaces", check_namespaces),
    ("sentry", check_sentry),
    ("limits", check_limits),
    ("monitors", check_monitors),
    ("engines", check_engines),
    ("sandbox", check_sandbox),
)


def run(arguments: Sequence[str]) -> int:
    """Prints the findings."""
    from . import printable

    values, _ = parse(_OPTIONS, arguments, operands=False)
    if values.get("help"):
        print(help_text("skerry doctor", "Says what this host grants, and how to mend what it does not.", _OPTIONS))
        return 0
    findings = []
    for name, check in CHECKS:
        try:
            state, text, mend = check()
        except OSError as error:
            state, text, mend = NOTE, f"{name}: could not be checked: {error}", ""
        findings.append((name, state, text, mend))
        if not values.get("json"):
            print(_MARKS[state] + printable(text))
            if mend:
                print("         -> " + printable(mend).replace("\n", "\n            "))
            sys.stdout.flush()
    if values.get("json"):
        import json

        print(
            json.dumps([dict(zip(("check", "state", "found", "mend"), finding, strict=True)) for finding in findings], indent=2)
        )
    elif any(state == BAD for _, state, _, _ in findings):
        print("\nSkerry cannot work here until what is MISSING is mended.")
    else:
        print("\nSkerry works here. 'without' is a layer that would make the wall thicker or faster.")
    return 0
