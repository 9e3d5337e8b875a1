"""What a sandbox is to be: the options of `skerry do` and of `Sandbox`, checked, and compiled into the boot message.

Mounts are declared, not ordered: a mount deeper in the tree always lies over the one above it, whichever option it came
from, and of two at one place the later kind in `read_only, read_write, tmpfs, hide` holds.
"""

from __future__ import annotations

import os

from . import _host, _values
from .control import messages
from .errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ._devices import BlockDevice, NetDevice
    from .policy import Policy

#: Taken over from the caller's environment without asking. Nothing else is: it may hold secrets.
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "LANG", "TZ", "PWD")
KEPT_PREFIX = "LC_"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_PIDS = 4096
DEFAULT_HOSTNAME = "skerry"

#: Virtual machine monitors, for the engine `microvm`.
MONITORS = ("qemu", "qemu-microvm", "firecracker", "cloud-hypervisor", "xen")

#: Hides the host's own, with what the guest kernel makes instead.
_SYSTEM_MOUNTS = (
    ("/proc", messages.mount_plain("/proc", "proc")),
    ("/sys", messages.mount_plain("/sys", "sysfs")),
    ("/dev", messages.mount_plain("/dev", "devtmpfs")),
    ("/dev/shm", messages.mount_tmpfs("/dev/shm", mode=0o1777)),  # noqa: S108  # inside the sandbox
    ("/run", messages.mount_tmpfs("/run", mode=0o755)),
)


class Options:
    """Checked options. The names are `Sandbox`'s; a `UsageError` carries the one to blame."""

    def __init__(
        self,
        *,
        read_write: Any = (),
        read_only: Any = (),
        hide: Any = (),
        tmpfs: Any = (),
        overlay_dir: Any = None,
        env: Mapping[str, str | None] | None = None,
        inherit_env: str = "kept",
        cwd: Any = None,
        user: Any = None,
        hostname: str = DEFAULT_HOSTNAME,
        timeout: Any = None,
        memory: Any = None,
        cpus: Any = None,
        pids: Any = DEFAULT_PIDS,
        network: str | None = None,
        engine: str = "sentry",
        min_isolation: Any = None,
        accel: str = "auto",
        vmm: str = "qemu",
        snapshot: str = "auto",
        root_image: Any = None,
        profile: str = "default",
        trace: bool = False,
        require: Any = (),
        policy: Any = None,
        block: Mapping[str, Any] | None = None,
        net: Mapping[str, Any] | None = None,
        without: Iterable[str] = (),
    ) -> None:
        self.policy = policy = _policy(policy)
        own_environment = bool(env) or inherit_env == "all"
        disk = None
        if policy is not None:
            # What the caller gives by name holds; the policy says the rest.
            from .policy import _compile

            said = _compile.limits(policy)
            timeout, memory = timeout or said["timeout"], memory or said["memory"]
            cpus, disk = cpus or said["cpus"], said["disk"]
            pids = said["pids"] or pids if pids == DEFAULT_PIDS else pids
            network = network or (policy["network"]["mode"] if policy["network"]["mode"] != "loopback" else None)
            inherit_env = policy["environment"]["inherit"] if inherit_env == "kept" else inherit_env
            env = {**_compile.environment(policy), **(env or {})}
        read_only, read_write = _many(read_only, "read_only"), _many(read_write, "read_write")
        tmpfs, hide = _many(tmpfs, "tmpfs"), _many(hide, "hide")
        self.mounts = _mounts(read_only, read_write, tmpfs, hide)
        self.overlay_dir = None if overlay_dir is None else _overlay_directory(overlay_dir)
        self.root_image = None if root_image is None else _host_path(root_image, "root_image")
        if self.root_image is not None and cwd is None:
            cwd = "/"  # yours is not there
        self.cwd = _directory(cwd)
        if cwd is None and policy is not None and not _compile.reaches(policy, self.cwd):
            self.cwd = cwd = "/"  # yours is not there
        self.environment = _environment(env, _values.choice(inherit_env, ("kept", "all", "none"), "inherit_env"))
        if cwd is not None and "PWD" in self.environment and not (env and "PWD" in env):
            self.environment["PWD"] = self.cwd
        self.user = None if user is None else _values.user(user, "user")
        self.hostname = _values.hostname(hostname, "hostname")
        self.timeout = None if timeout is None else _values.duration(timeout, "timeout")
        self.memory = None if memory is None else _values.size(memory, "memory")
        self.cpus = None if cpus is None else _values.cpus(cpus, "cpus")
        self.pids = None if pids is None else _values.count(pids, "pids")
        self.network = None if network is None else _values.choice(network, messages.NETWORKS, "network")
        self.engine = engine
        self.min_isolation = 0 if min_isolation is None else _values.level(min_isolation, "min_isolation")
        self.accel = _values.choice(accel, ("auto", "kvm", "tcg"), "accel")
        self.vmm = _values.choice(vmm, MONITORS, "vmm")
        self.snapshot = _values.choice(snapshot, ("auto", "never"), "snapshot")
        self.profile = _values.choice(profile, messages.PROFILES, "profile")
        self.trace = bool(trace)
        self.require = tuple(_values.choice(layer, messages.LAYERS, "require") for layer in _many(require, "require"))
        self.without = tuple(without)
        self.block: dict[str, BlockDevice] = {}
        self.net: dict[str, NetDevice] = {}
        if block or net:
            from . import _devices

            self.block, self.net = _devices.block(block), _devices.net(net)
        #: Words that an engine puts before each command's own.
        self.loader: list[str] = []
        named = (
            ("read_write", read_write),
            ("read_only", read_only),
            ("read_only to another place", any(isinstance(entry, tuple) for entry in read_only)),
            ("hide", hide),
            ("tmpfs", tmpfs),
            ("overlay_dir", overlay_dir),
            ("user", user is not None),
            ("hostname", hostname != DEFAULT_HOSTNAME),
            ("memory", memory),
            ("cpus", cpus),
            ("pids", pids not in (None, DEFAULT_PIDS)),
            ("network", network),
            ("network loopback", network == "loopback"),
            ("network user", network == "user"),
            ("accel", accel != "auto"),
            ("vmm", vmm != "qemu"),
            ("snapshot", snapshot != "auto"),
            ("root_image", root_image is not None),
            ("profile", self.profile != "default"),
            ("trace", trace),
            ("env", own_environment),
            ("block", block),
            ("net", net),
        )
        self.memory_files = disk or self.memory or _host.host_memory() // 2
        #: A directory whose programs may be executed besides: those of `skerry verify`.
        self.probes = ""
        #: What is told of calls; set by who wants to know.
        self.observe = "nothing" if policy is None else "failures"
        #: Somebody listens to events. A guest kernel of ours tells for nothing; the others look at each call for it.
        self.listened = False
        #: What the caller has asked for by name, the option's name first: an engine must enforce it, or refuse.
        self.given = tuple(name for name, value in named if value)
        if policy is not None:
            self.given += tuple(_compile.clauses(policy, network))
            if policy["files"]["private_or"] == "read_only":  # less is good enough
                self.given = tuple(name for name in self.given if name != "files.private")

    def boot_message(self) -> dict[str, Any]:
        """The parameters of the `boot` request."""
        root, rules = messages.mount_overlay("/", "/", self.overlay_dir), None
        placed: list[tuple[str, dict[str, Any]]] = list(_SYSTEM_MOUNTS)
        names = _names(self.hostname, [place for place, _ in self.mounts])
        if self.policy is not None:
            from .policy import _compile

            of_policy, mounts, links = _compile.files(self.policy)
            root = root if of_policy["type"] == "overlay" else of_policy
            rules = _compile.rules(self.policy, self.network)
            if self.probes and rules and "files" in rules:
                rules["files"].append(messages.file_rule(self.probes, ["execute"]))
            placed += mounts + _compile.secret_files(self.policy)
            # Links lie among the mounts that lead to them, and hold nothing that is mounted.
            placed += [link for link in links if link[0] not in {place for place, _ in placed + self.mounts}]
            names = [
                (place, mount if _compile.writable(self.policy, place) else {**mount, "mode": 0o444})
                for place, mount in names
                if _compile.shows(self.policy, place)
            ]
        placed += names
        placed += self.mounts
        placed.sort(key=lambda mount: 0 if mount[0] == "/" else mount[0].count("/"))  # stable
        # A root cannot be mounted over on the host's kernel: the host's own, where it is given, takes the other one's place.
        while placed and placed[0][0] == "/" and placed[0][1]["type"] in ("host_read_only", "host_read_write"):
            root = placed.pop(0)[1]
        return messages.boot(
            mounts=[root, *(mount for _, mount in placed)],
            hostname=self.hostname,
            network=self.network or "loopback",
            identity="host" if self.user == "caller" else "caller_is_root",
            memory=self.memory,
            cpus=self.cpus,
            pids=self.pids,
            # What is kept in memory counts towards the memory limit; without one, as much as a tmpfs of Linux may hold.
            memory_files=self.memory_files,
            profile=self.profile,
            trace=self.trace,
            require=self.require,
            without=self.without,
            rules=rules,
            observe=self.observe,
        )

    def identity(self, user: Any = None) -> tuple[int, int, list[int]]:
        """uid, gid and supplementary groups of a command; `user` overrides the sandbox's own."""
        chosen = self.user if user is None else _values.user(user, "user")
        if chosen is None:
            return 0, 0, []
        if isinstance(chosen, str):
            if self.user != "caller":  # the sandbox shows the caller as root
                return 0, 0, []
            return os.getuid(), os.getgid(), os.getgroups()
        return chosen[0], chosen[1], []

    def command_environment(self, extra: Mapping[str, str | None] | None) -> list[str | bytes]:
        """The environment of one command, as "NAME=value"."""
        environment = self.environment if not extra else _updated(self.environment, extra)
        return [f"{name}={value}" for name, value in environment.items()]


def _policy(value: Any) -> Policy | None:
    """A `Policy`, from its name or file where that is what was given."""
    if value is None:
        return None
    from .policy import Policy

    if isinstance(value, Policy):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Policy.load(value)
    raise UsageError(f"{value!r} is not a policy; give a skerry.Policy, a file, or a name", option="policy")


def _many(value: Any, option: str) -> list[Any]:
    """A list of values; one alone is taken as a list of one."""
    if isinstance(value, (str, bytes, os.PathLike)):
        return [value]
    try:
        return list(value)
    except TypeError:
        raise UsageError(f"{value!r} is not a list", option=option) from None


def _path(value: Any, option: str) -> str:
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise UsageError(f"{value!r} is not a path", option=option) from None
    if not path:
        raise UsageError("an empty path names nothing", option=option)
    if "\0" in path:
        raise UsageError(f"{path!r} holds a zero byte", option=option)
    return path


def _host_path(value: Any, option: str) -> str:
    """An existing path of the host, absolute, without symbolic links: the guest's tree has the same ones."""
    path = os.path.realpath(_path(value, option))
    try:
        os.stat(path)
    except OSError as error:
        raise UsageError(f"{os.fsdecode(value)!r} on the host: {error.strerror}", option=option) from None
    return path


def _mounts(read_only: list[Any], read_write: list[Any], tmpfs: list[Any], hide: list[Any]) -> list[tuple[str, Any]]:
    mounts: list[tuple[str, Any]] = []
    for entry in read_only:
        source, target = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, None)
        source = _host_path(source, "read_only")
        mounts.append(_placed(target, source, "read_only", messages.mount_host, source, writable=False))
    for entry in read_write:
        source = _host_path(entry, "read_write")
        mounts.append(_placed(None, source, "read_write", messages.mount_host, source, writable=True))
    for entry in tmpfs:
        target = _path(entry, "tmpfs")
        mounts.append(_placed(target, target, "tmpfs", messages.mount_tmpfs))
    for entry in hide:
        source = _host_path(entry, "hide")
        if source == "/":
            raise UsageError("the whole tree cannot be hidden", option="hide")
        mounts.append((source, messages.mount_plain(source, "hide")))
    return mounts


def _placed(target: Any, default: str, option: str, make: Any, *args: Any, **keywords: Any) -> tuple[str, Any]:
    """The mount that `make` builds at `target` inside."""
    path = default if target is None else _path(target, option)
    if not path.startswith("/"):
        raise UsageError(f"{path!r} inside the sandbox must be an absolute path", option=option)
    path = os.path.normpath(path).replace("//", "/")
    if path == "/" and make is messages.mount_tmpfs:
        raise UsageError("the root of the sandbox cannot be a tmpfs; name a directory below it", option=option)
    return path, make(path, *args, **keywords)


#: The most that is taken over of the host's /etc/hosts.
_HOSTS_MAXIMUM = 1 << 20


def _names(hostname: str, places: list[str]) -> list[tuple[str, Any]]:
    """/etc/hosts and /etc/hostname with the sandbox's own name, as container runtimes have them; not where there are none,
    nor below a tree that the caller has put there."""
    mounts = []
    for path in ("/etc/hosts", "/etc/hostname"):
        target = os.path.realpath(path)
        if not os.path.isfile(target) or any(place != "/" and f"{target}/".startswith(f"{place}/") for place in places):
            continue
        content = hostname.encode() + b"\n"
        if path == "/etc/hosts":
            try:
                with open(target, "rb") as file:
                    hosts = file.read(_HOSTS_MAXIMUM + 1)
            except OSError:
                continue
            known = {name for line in hosts.splitlines() for name in line.partition(b"#")[0].split()[1:]}
            if hostname.encode() in known or len(hosts) > _HOSTS_MAXIMUM:
                continue
            end = b"" if not hosts or hosts.endswith(b"\n") else b"\n"
            content = hosts + end + b"127.0.1.1\t" + content
        mounts.append((target, messages.mount_file(target, content)))
    return mounts


def _overlay_directory(value: Any) -> str:
    """The host directory that keeps the writes; its last component is made where it is missing."""
    path = os.path.realpath(_path(value, "overlay_dir"))
    try:
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
    except OSError as error:
        raise UsageError(
            f"{os.fsdecode(value)!r}: {error.strerror}; name a directory you can write", option="overlay_dir"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{os.fsdecode(value)!r}: not writable; name a directory you can write", option="overlay_dir")
    return path


def _directory(value: Any) -> str:
    """The working directory inside: the caller's own where none is given."""
    if value is None:
        try:
            return os.getcwd()
        except OSError:
            raise UsageError("the current directory has been removed; name one", option="cwd") from None
    path = _path(value, "cwd")
    if not path.startswith("/"):
        path = os.path.join(_directory(None), path)
    return os.path.normpath(path).replace("//", "/")


def _environment(env: Mapping[str, str | None] | None, inherit: str) -> dict[str, str]:
    if inherit == "all":
        environment = dict(os.environ)
    elif inherit == "kept":
        environment = {
            name: value for name, value in os.environ.items() if name in KEPT_VARIABLES or name.startswith(KEPT_PREFIX)
        }
    else:
        environment = {}
    environment = _updated(environment, env or {})
    environment.setdefault("PATH", DEFAULT_PATH)
    return environment


def _updated(environment: Mapping[str, str], extra: Mapping[str, str | None]) -> dict[str, str]:
    """`environment` with `extra` laid over it; a value of None takes the variable away."""
    updated = dict(environment)
    for name, value in extra.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise UsageError(f"{name!r} is not the name of an environment variable", option="env")
        if value is None:
            updated.pop(name, None)
        elif isinstance(value, str) and "\0" not in value:
            updated[name] = value
        else:
            raise UsageError(f"the value of {name!r} must be text without zero bytes", option="env")
    return updated
