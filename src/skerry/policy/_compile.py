"""From a policy to what a sandbox is made of: mounts, rules, limits, environment.

What a program can see of files is what is mounted: where `files.default` is "hidden" the root is a skeleton of directories that
holds nothing but the mounts and the symbolic links that lead to them. So there is nothing to forget to check, and the same
holds in every engine that has mounts. Rules (the control protocol's) are for what mounts cannot say: calls, ports, and which
programs may be started.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat

from .. import _host, _values
from ..control import messages
from ..errors import PolicyError
from . import Policy
from ._calls import GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

#: What @libraries stands for, as far as it is there.
LIBRARIES = (
    "/lib", "/lib32", "/lib64", "/libx32", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/local/lib",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/usr/share/locale",
)  # fmt: skip

#: Made by the engine, whatever a policy says.
SYSTEM = ("/proc", "/sys", "/dev", "/run")

_LINKS_MAXIMUM = 40
#: More of a secret's file is not read.
_SECRET_MAXIMUM = 1 << 20

_FILE_LISTS = ("read_only", "read_write", "private", "temporary", "hidden", "execute")


def for_command(policy: Policy, args: Any, cwd: str | None = None, path: str | None = None) -> Policy:
    """The policy with its @words replaced."""
    places = {
        "@libraries": [place for place in LIBRARIES if os.path.lexists(place)],
        "@cwd": [os.path.abspath(cwd or os.getcwd())],
        "@home": [os.path.expanduser("~")],
    }
    data = policy.as_dict()
    files = data.get("files", {})
    for key in _FILE_LISTS:
        if key in files:
            replaced: list[str] = []
            for entry in files[key]:
                head, _, rest = entry.partition("/")
                if head == "@program" and "@program" not in places:
                    places["@program"] = program_files(args, places["@cwd"][0], path)
                replaced += (
                    [os.path.join(place, rest) if rest else place for place in places[head]] if head in places else [entry]
                )
            files[key] = list(dict.fromkeys(replaced))
    return Policy(data, source=policy.source)


def program_files(args: Any, cwd: str, path: str | None = None) -> list[str]:
    """A command's program, what it is interpreted or loaded by, and a virtual environment around it."""
    if isinstance(args, (str, bytes, os.PathLike)):
        args = [args]
    name = os.fsdecode(args[0]) if args else ""
    if "/" in name:
        found: str | None = os.path.join(cwd, name)
    else:
        found = _which(name, path)
    if not found or not os.path.exists(found):
        return []  # the sandbox says so, as for any command
    return loaded_files(found)


def _which(name: str, path: str | None) -> str | None:
    import shutil

    return shutil.which(name, path=path if path is not None else os.environ.get("PATH", os.defpath))


def loaded_files(program: str) -> list[str]:
    """The program, and by `#!` and PT_INTERP what the kernel loads beside it."""
    files: list[str] = []
    todo = [program]
    while todo and len(files) < _LINKS_MAXIMUM:
        path = todo.pop()
        if path in files or not os.path.isabs(path):
            continue
        files.append(path)
        try:
            with open(path, "rb") as file:
                head = file.read(4096)
                if head.startswith(b"#!"):
                    words = [os.fsdecode(word) for word in head[2:].split(b"\n", 1)[0].split()]
                    todo += words[:1]
                    if len(words) > 1 and os.path.basename(words[0]) == "env":
                        todo += [found for word in words[1:] if (found := _which(word, None))]
                elif head.startswith(b"\x7fELF\x02"):
                    todo += _interpreter(file, head)
        except OSError:
            continue
        environment = os.path.dirname(os.path.dirname(path))
        if os.path.isfile(os.path.join(environment, "pyvenv.cfg")):
            files.append(environment)
    return files


def _interpreter(file: Any, head: bytes) -> list[str]:
    """PT_INTERP of a 64-bit ELF file."""
    offset, size, count = (int.from_bytes(head[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    file.seek(offset)
    table = file.read(size * min(count, 64))
    for start in range(0, len(table) - size + 1, max(size, 1)):
        entry = table[start : start + size]
        if int.from_bytes(entry[:4], "little") == 3:
            file.seek(int.from_bytes(entry[8:16], "little"))
            name = file.read(min(int.from_bytes(entry[32:40], "little"), 4096)).rstrip(b"\0")
            return [os.fsdecode(name)]
    return []


# --- Files ----------------------------------------------------------------------------------------------------------


class _Tree:
    """The mounts of a policy, with the links that lead to them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.mounts: dict[str, tuple[str, dict[str, Any]]] = {}
        self.links: dict[str, str] = {}

    def real(self, path: str) -> str:
        """Where `path` leads on the host; each link on the way is remembered."""
        resolved, rest, links = "/", path, 0
        parts = [part for part in rest.split("/") if part]
        while parts:
            part = parts.pop(0)
            if part == ".":
                continue
            if part == "..":
                resolved = os.path.dirname(resolved)
                continue
            here = os.path.join(resolved, part)
            try:
                target = os.readlink(here)
            except OSError:
                resolved = here
                continue
            links += 1
            if links > _LINKS_MAXIMUM:
                return here
            self.links[here] = target
            if target.startswith("/"):
                resolved = "/"
            parts = [one for one in target.split("/") if one] + parts
        return resolved

    def add(self, kind: str, path: str, place: str) -> None:
        """One entry of a list; of what is not there nothing is shown."""
        real = self.real(path)
        if kind == "temporary":
            self.mounts[real] = (kind, messages.mount_tmpfs(real))
            return
        try:
            mode = os.stat(real).st_mode
        except OSError as error:
            if kind in ("read_write", "private") and error.errno == errno.ENOENT:
                raise PolicyError(
                    f"{path!r} is not there; make it, or name the directory above it", self.source, place
                ) from None
            return
        directory = stat.S_ISDIR(mode)
        if not directory and not stat.S_ISREG(mode):
            return  # the host's devices, sockets and pipes are not for a sandbox
        if any(real == system or real.startswith(f"{system}/") for system in ("/proc", "/sys", "/dev")):
            return  # the engine's own
        if kind == "private":
            if not directory:
                raise PolicyError(
                    f"{path!r} is a file; writes are kept in memory for directories: name the one above it", self.source, place
                )
            self.mounts[real] = (kind, messages.mount_overlay(real, real))
        elif kind == "hidden":
            if real == "/":
                raise PolicyError('the whole tree cannot be hidden; say default = "hidden"', self.source, place)
            self.mounts[real] = (kind, messages.mount_plain(real, "hide"))
        else:
            self.mounts[real] = (kind, messages.mount_host(real, real, writable=kind == "read_write"))

    def needed(self, default: str) -> list[tuple[str, dict[str, Any]]]:
        """Without those that say what the one above says already."""
        kept: list[tuple[str, dict[str, Any]]] = []
        kinds: dict[str, str] = {"/": default}
        for path in sorted(self.mounts, key=lambda path: (path.count("/"), path)):
            kind, mount = self.mounts[path]
            above = path
            while above not in kinds:
                above = os.path.dirname(above)
            if kinds[above] == kind != "temporary" or kinds[above] == "hidden" == kind:
                continue
            kinds[path] = kind
            if kind == "hidden" and kinds[above] == "hidden":
                continue
            kept.append((path, mount))
        return kept


def files(policy: Policy) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]], list[tuple[str, dict[str, Any]]]]:
    """The mount at the root, the others with their places, and the links that a skeleton needs."""
    said = policy["files"]
    tree = _Tree(policy.source)
    for kind in ("read_only", "private", "temporary", "read_write", "hidden"):
        for index, path in enumerate(said[kind]):
            if path.startswith("@"):
                raise PolicyError(
                    f"{path!r} stands for a place of one command; make the policy for it: "
                    'Policy.load("...").for_command(["python3"])',
                    policy.source,
                    f"files.{kind}[{index}]",
                )
            tree.add(kind, path, f"files.{kind}[{index}]")
    default = said["default"]
    if default == "hidden":
        for top in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
            tree.real(top)
        root = messages.mount_plain("/", "skeleton")
    elif default == "read_only":
        root = messages.mount_host("/", "/", writable=False)
    else:
        root = messages.mount_overlay("/", "/")
    mounts = tree.needed(default)
    if mounts and mounts[0][0] == "/":
        root = mounts.pop(0)[1]
        default = tree.mounts["/"][0]
    links = [(path, messages.mount_symlink(path, target)) for path, target in tree.links.items()] if default == "hidden" else []
    return root, mounts, links


def kind_of(policy: Policy, path: str) -> str:
    """The list that decides about `path`, by its longest entry that holds it; else the default."""
    best, kind = "", str(policy["files"]["default"])
    for name in ("read_only", "private", "temporary", "read_write", "hidden"):
        for entry in policy["files"][name]:
            if is_below(path, entry) and len(entry) >= len(best):
                best, kind = entry, name
    return kind


def shows(policy: Policy, path: str) -> bool:
    """Whether the program finds there what the host has."""
    return kind_of(policy, path) not in ("hidden", "temporary")


def writable(policy: Policy, path: str) -> bool:
    """Whether it can be written to, wherever that goes."""
    return kind_of(policy, path) in ("private", "temporary", "read_write")


def reaches(policy: Policy, path: str) -> bool:
    """Whether the directory `path` is there: shown, or above something that is."""
    said = policy["files"]
    listed = [*said["read_only"], *said["private"], *said["read_write"], *said["temporary"]]
    return shows(policy, path) or path == "/" or any(is_below(entry, path) for entry in listed)


def is_below(path: str, place: str) -> bool:
    """Whether `path` is `place`, or below it."""
    return place == "/" or path == place or path.startswith(f"{place}/")


# --- Rules ----------------------------------------------------------------------------------------------------------


def rules(policy: Policy, mode: str | None = None) -> dict[str, Any] | None:
    """The control protocol's `rules`: None where the policy says nothing of calls, ports and programs. `mode`: the network that
    there is; what leaves the sandbox is its gateway's to hold (`gateway`).
    """
    network = policy["network"]
    ports = None
    if mode != "user" and (network["connect"] is not None or network["bind"] is not None):
        ports = {"connect_tcp": _ports(network["connect"], "tcp"), "bind_tcp": _ports(network["bind"], "tcp")}
        ports |= {"connect_udp": _ports(network["connect"], "udp"), "bind_udp": _ports(network["bind"], "udp")}
    execute = policy["files"]["execute"]
    programs = None
    if execute is not None:
        everything = [right for right in messages.FILE_RIGHTS if right != "execute"]
        places = [os.path.realpath(path) for path in execute]
        programs = [messages.file_rule("/", everything), *(messages.file_rule(place, ["execute"]) for place in places)]
    calls = _calls(policy)
    if ports is None and programs is None and calls is None:
        return None
    return messages.rules(files=programs, ports=ports, calls=calls)


def _ports(endpoints: Sequence[str] | None, protocol: str) -> list[int]:
    numbers: list[int] = []
    for endpoint in endpoints or ():
        kind, _, ports = endpoint.partition(":")
        if kind == protocol:
            first, _, last = ports.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    return sorted(set(numbers))


def clauses(policy: Policy, network: str | None) -> list[str]:
    """What it says, with what that means in a network: some clauses go with one kind only."""
    said = policy.clauses()
    besides = {"network.addresses": "without user", "network.domains": "without user"}
    if network == "user":
        besides = {"network.bind": "with user"}
    return [*said, *(f"{name} {beside}" for name, beside in besides.items() if name in said)]


def gateway(policy: Policy | None) -> dict[str, Any]:
    """What may be reached outside, for the gateway; None: all but the host itself."""
    said: Mapping[str, Any] = {} if policy is None else policy["network"]
    return {key: said.get(key) for key in ("addresses", "connect", "domains")}


def call_names(entries: Iterable[str]) -> list[str]:
    """Names, with groups spelt out."""
    names: list[str] = []
    for entry in entries:
        names += GROUPS.get(entry, (entry,))
    return list(dict.fromkeys(names))


def _calls(policy: Policy) -> dict[str, Any] | None:
    said = policy["system_calls"]
    refused = {"errno": getattr(errno, said["error"])}
    found = [
        messages.call_rule(call_names(said[key]), action)
        for key, action in (("kill", "kill"), ("errno", refused), ("log", "log"), ("allow", "allow"))
        if said[key]
    ]
    default = refused if said["default"] == "errno" else said["default"]
    if default == "allow" and all(rule["action"] == "allow" for rule in found):
        return None
    return messages.call_rules(default, found)


# --- The rest -------------------------------------------------------------------------------------------------------


def environment(policy: Policy) -> dict[str, str | None]:
    """What is taken over or set beyond `environment.inherit`, secrets that are variables too."""
    said = policy["environment"]
    taken: dict[str, str | None] = {
        name: value for name, value in os.environ.items() if any(fnmatch.fnmatchcase(name, kept) for kept in said["keep"])
    }
    taken.update(said["set"])
    for name, secret in policy["secrets"].items():
        if "path" not in secret:
            try:
                taken[name] = secret_value(policy, name, secret).decode().removesuffix("\n")
            except UnicodeDecodeError:
                raise PolicyError(
                    "is not text; give it a path, so that it is a file", policy.source, f"secrets.{name}"
                ) from None
    return taken


def secret_files(policy: Policy) -> list[tuple[str, dict[str, Any]]]:
    """Mounts of secrets that are files."""
    return [
        (secret["path"], messages.mount_file(secret["path"], secret_value(policy, name, secret), mode=0o400))
        for name, secret in policy["secrets"].items()
        if "path" in secret
    ]


def secret_value(policy: Policy, name: str, secret: Mapping[str, str]) -> bytes:
    """What the caller has. It goes to the program only."""
    if "env" in secret:
        value = os.environ.get(secret["env"])
        if value is None:
            raise PolicyError(f"your environment has no {secret['env']}; set it", policy.source, f"secrets.{name}")
        return os.fsencode(value)
    try:
        with open(os.path.expanduser(secret["file"]), "rb") as file:
            content = file.read(_SECRET_MAXIMUM + 1)
    except OSError as error:
        raise PolicyError(f"{secret['file']}: {error.strerror}", policy.source, f"secrets.{name}") from None
    if len(content) > _SECRET_MAXIMUM:
        raise PolicyError(f"{secret['file']}: larger than {_SECRET_MAXIMUM} bytes", policy.source, f"secrets.{name}")
    return content


def limits(policy: Policy) -> dict[str, Any]:
    """By the names of `Sandbox`'s options; `disk` is bytes of files in memory."""
    said = policy["resources"]
    return {
        "memory": said["memory"],
        "cpus": said["cpus"],
        "pids": said["processes"],
        "timeout": said["wall_time"],
        "disk": None if said["disk"] is None else _values.size(said["disk"], "resources.disk"),
    }


def memory_files(disk: int | None, memory: int | None) -> int:
    """What in-memory files may hold: as said, else as memory in all is limited, else half of the host's."""
    return disk or memory or _host.host_memory() // 2
