"""Profiles for security modules, as text, from the same rules that `boot` carries: AppArmor, SELinux (CIL).

They say of files and sockets what the rules say, and take away what no program in a sandbox has: mounts, other processes,
capabilities. A host's administrator loads them (`apparmor_parser --replace FILE`, `semodule -i FILE`); the rules then name them
(`apparmor`, `selinux`), and a host without the module refuses that.
"""

from __future__ import annotations

from ..control import messages
from ..errors import Unenforceable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Landlock's rights as AppArmor's permissions. Execution stays in the profile.
_APPARMOR = {
    "read_file": "r",
    "read_dir": "r",
    "write_file": "w",
    "truncate": "w",
    "make_reg": "w",
    "remove_file": "w",
    "execute": "ix",
}
_APPARMOR_DIRECTORY = {"make_dir": "w", "remove_dir": "w", "make_sock": "w", "make_fifo": "w", "make_sym": "w", "refer": "l"}
#: What has a meaning in a pattern of AppArmor's.
_SPECIAL = '*?[]{}^,"\\'


def _checked(name: str, option: str) -> str:
    if not name or not all(letter.isalnum() or letter in "_-." for letter in name):
        raise Unenforceable(option, "rules", f"{name!r} cannot name a profile; use letters, digits, '_', '-' and '.'")
    return name


def apparmor_profile(rules: Mapping[str, Any], name: str) -> str:
    """The profile `name` for a sandbox with these rules."""
    lines = [f"profile {_checked(name, 'apparmor')} flags=(attach_disconnected,mediate_deleted) {{"]
    for rule in rules.get("files", ()):
        path = messages.read_bytes(rule["path"])
        allowed = {_APPARMOR.get(right) or _APPARMOR_DIRECTORY.get(right, "") for right in rule["rights"]} - {""}
        if not allowed:
            continue
        permissions = "".join(sorted(allowed, key="rwlix".index))
        lines.append(f"  {_pattern(path)} {permissions},")
    if "files" not in rules:
        lines.append("  /{,**} rwlix,")
    ports = rules.get("ports")
    if ports is not None:
        lines += [f"  network {family} {kind}," for family in ("inet", "inet6") for kind in _kinds(ports)]
    lines.append("  network unix stream,")
    lines += [
        f"  signal (send, receive) peer={name},",
        f"  ptrace (trace, read) peer={name},",
        "  deny mount,",
        "  deny umount,",
    ]
    lines += [f"  capability {each[4:].lower()}," for each in rules.get("capabilities", ())]
    return "\n".join([*lines, "}", ""])


def _kinds(ports: Mapping[str, Any]) -> list[str]:
    return [
        kind
        for kind, protocol in (("stream", "tcp"), ("dgram", "udp"))
        if ports[f"bind_{protocol}"] or ports[f"connect_{protocol}"]
    ]


def _pattern(path: str) -> str:
    """The path, and what is below it."""
    if any(ord(letter) < 32 for letter in path):
        raise Unenforceable("apparmor", "rules", f"{path!r} has a control character, which no profile can hold")
    top = "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in path.rstrip("/"))
    whole = f"{top}{{,/,/**}}" if top else "/{,**}"
    return f'"{whole}"' if " " in whole else whole


#: Landlock's rights as permissions of SELinux's classes: files, then directories.
_SELINUX_FILE = {
    "read_file": "read open getattr map",
    "execute": "execute execute_no_trans",
    "write_file": "write append open",
    "truncate": "write",
    "make_reg": "create",
    "remove_file": "unlink",
    "attributes": "setattr",
}
_SELINUX_DIRECTORY = {
    "read_dir": "read open getattr search",
    "make_dir": "create add_name write",
    "make_reg": "add_name write",
    "remove_dir": "rmdir remove_name write",
    "remove_file": "remove_name write",
    "refer": "reparent rename",
    "attributes": "setattr",
}


def selinux_module(rules: Mapping[str, Any], name: str) -> str:
    """A module in CIL: the type `name_t` for programs, and one type for each set of rights, with the paths that are to have it.
    Labels are the files' own: `restorecon -R` gives them, and a file has one label at a time.
    """
    domain = f"{_checked(name, 'selinux').replace('-', '_').replace('.', '_')}_t"
    lines = [f"(type {domain})", f"(roletype system_r {domain})", f"(typeattributeset domain ({domain}))"]
    lines += [f"(allow {domain} self (process (fork sigchld sigkill sigstop signal getsched setsched)))"]
    lines += [
        f"(allow {domain} self (fifo_file (read write getattr)))",
        f"(allow {domain} self (unix_stream_socket (create read write)))",
    ]
    for number, rule in enumerate(rules.get("files", ())):
        path = messages.read_bytes(rule["path"])
        if '"' in path or any(ord(letter) < 32 for letter in path):
            raise Unenforceable("selinux", "rules", f"{path!r} has a character that no file context can hold")
        kind = f"{domain[:-2]}_{number}_t"
        lines += [f"(type {kind})", f"(roletype object_r {kind})", f"(typeattributeset file_type ({kind}))"]
        for of_class, table in (("file", _SELINUX_FILE), ("dir", _SELINUX_DIRECTORY)):
            permissions = sorted({word for right in rule["rights"] for word in table.get(right, "").split()})
            if permissions:
                lines.append(f"(allow {domain} {kind} ({of_class} ({' '.join(permissions)})))")
        pattern = "".join(f"\\{letter}" if letter in ".^$*+?()[]{}|\\" else letter for letter in path.rstrip("/"))
        lines.append(f'(filecon "{pattern}(/.*)?" any (system_u object_r {kind} ((s0) (s0))))')
    ports = rules.get("ports")
    if ports is not None:
        for kind in _kinds(ports):
            of_class = {"stream": "tcp_socket", "dgram": "udp_socket"}[kind]
            lines.append(
                f"(allow {domain} self ({of_class} (create bind connect listen accept read write getattr setopt getopt)))"
            )
    capabilities = " ".join(each[4:].lower() for each in rules.get("capabilities", ()))
    if capabilities:
        lines.append(f"(allow {domain} self (capability ({capabilities})))")
    return "\n".join(lines) + "\n"
