"""From what a program was seen to do to a policy that lets it do that, and little more.

What is seen are the guest kernel's `observed` events: each call, path and address once. Every step from "exactly these" to
something that also holds next time is a *generalisation* with a name; it is told, and left out where it is refused:

    shared-prefix   four or more names in a directory become the directory
    numbered        three or more names that differ in digits only become their directory
    temporary       what is made in /tmp or /var/tmp, and was not there before, becomes an empty directory in memory
    caches          bytecode that Python writes beside its modules is not written
    call-families   a system call brings its variants that can do no more (read: pread64, readv ...)
    places          the working directory and the home directory become @cwd and @home
"""

from __future__ import annotations

import os
import re

from ..errors import PolicyError
from . import Policy, _compile
from ._calls import NUMBERS, PROCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

GENERALISATIONS = ("shared-prefix", "numbered", "temporary", "caches", "call-families", "places")

#: Names in one directory that make it the directory itself; names that differ in digits only.
_SHARED = 4
_NUMBERED = 3

#: Too wide to be given as a whole because some names below were used.
_NEVER_WHOLE = (
    "/", "/bin", "/boot", "/etc", "/home", "/lib", "/mnt", "/opt", "/root", "/sbin", "/srv", "/tmp", "/usr", "/var",  # noqa: S108
)  # fmt: skip

_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  # inside the sandbox

#: Of each, one that is used brings the others.
_FAMILIES = (
    ("read", "pread64", "readv", "preadv", "preadv2"),
    ("write", "pwrite64", "writev", "pwritev", "pwritev2"),
    ("open", "openat", "openat2", "creat"),
    ("stat", "lstat", "fstat", "newfstatat", "statx"),
    ("access", "faccessat", "faccessat2"),
    ("readlink", "readlinkat"),
    ("mkdir", "mkdirat"),
    ("unlink", "unlinkat", "rmdir"),
    ("rename", "renameat", "renameat2"),
    ("link", "linkat"),
    ("symlink", "symlinkat"),
    ("chmod", "fchmod", "fchmodat", "fchmodat2"),
    ("chown", "fchown", "lchown", "fchownat"),
    ("utime", "utimes", "utimensat", "futimesat"),
    ("getdents", "getdents64"),
    ("dup", "dup2", "dup3"),
    ("pipe", "pipe2"),
    ("poll", "ppoll", "select", "pselect6"),
    ("epoll_wait", "epoll_pwait", "epoll_pwait2"),
    ("epoll_create", "epoll_create1"),
    ("eventfd", "eventfd2"),
    ("accept", "accept4"),
    ("connect", "getsockopt", "getsockname", "getpeername"),
    ("sendto", "sendmsg", "sendmmsg"),
    ("recvfrom", "recvmsg", "recvmmsg"),
    ("fork", "vfork", "clone", "clone3"),
    ("wait4", "waitid"),
    ("nanosleep", "clock_nanosleep"),
    ("clock_gettime", "gettimeofday", "time", "clock_getres", "times"),
    ("getpid", "gettid", "getppid", "getpgrp", "getpgid", "getsid"),
    ("getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups"),
    ("kill", "tkill", "tgkill"),
    ("rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait", "sigaltstack"),
    ("getrlimit", "prlimit64", "getrusage"),
    ("sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min", "getcpu"),
    ("fsync", "fdatasync"),
    ("truncate", "ftruncate"),
    ("execve", "execveat"),
)

#: What the C library does to start and to end threads, at times that differ from run to run.
_WITH_THREADS = ("set_robust_list", "tgkill", "rt_sigprocmask", "sched_yield", "getpid", "gettid")


class Observations:
    """What has been seen, of one run or of several."""

    def __init__(self, rw: Iterable[str] = ()) -> None:
        self.calls: set[str] = set()
        #: By path: what was done there with success.
        self.paths: dict[str, set[str]] = {}
        self.connected: set[str] = set()
        self.bound: set[str] = set()
        self.programs: set[str] = set()
        self.tasks = 0
        self.peak_memory = 0
        self.cpu_ns = 0
        self.wall_ns = 0
        #: Where writes went to the host.
        self.written_through = [os.path.realpath(path) for path in rw]

    def note(self, event: Mapping[str, Any]) -> None:
        """One event."""
        from ..control.messages import read_bytes

        kind = event.get("event")
        if kind == "tasks":
            self.tasks = max(self.tasks, int(event.get("count", 0)))
        elif kind == "exited":
            usage = event.get("usage") or {}
            self.peak_memory = max(self.peak_memory, int(usage.get("peak_memory", 0)))
            self.cpu_ns = max(self.cpu_ns, int(usage.get("user_ns", 0)) + int(usage.get("system_ns", 0)))
            self.wall_ns = max(self.wall_ns, int(usage.get("wall_ns", 0)))
        elif kind == "observed":
            if event.get("name") in NUMBERS:
                self.calls.add(str(event["name"]))
            access, path, address = event.get("access"), event.get("path"), event.get("address")
            refused = event.get("errno")
            if path is not None and access is not None and refused is None:
                self.paths.setdefault(read_bytes(path), set()).add(str(access))
            # A connection that is refused, or under way, has been tried all the same.
            if isinstance(address, str) and not address.startswith("unix"):
                (self.bound if access == "bind" else self.connected).add(_endpoint(address))

    def note_program(self, path: str) -> None:
        """The program that was started from outside."""
        for one in _compile.loaded_files(path):
            if os.path.isfile(one):
                self.paths.setdefault(one, set()).update(("read", "execute"))


def _endpoint(address: str) -> str:
    """ "tcp:127.0.0.1:80" as a policy has it: "tcp:80"."""
    protocol, _, rest = address.partition(":")
    return f"{protocol}:{rest.rpartition(':')[2]}"


class Learnt:
    """The policy, how it came about, and what it costs."""

    def __init__(self, policy: Policy, comments: dict[str, str], notes: list[str], surface: str) -> None:
        self.policy = policy
        self.comments = comments
        #: Each generalisation that was made, for people.
        self.notes = notes
        self.surface = surface


def learn(
    seen: Observations, name: str, cwd: str, *, merge: Iterable[Policy] = (), refuse: Iterable[str] = (), limits: bool = False
) -> Learnt:
    """The policy for what was seen, with what the policies in `merge` allow beside."""
    return _Learner(seen, cwd, set(refuse)).learn(name, list(merge), limits)


class _Learner:
    def __init__(self, seen: Observations, cwd: str, refuse: set[str]) -> None:
        self.seen = seen
        self.cwd = cwd
        self.refuse = refuse
        self.notes: list[str] = []
        self.comments: dict[str, str] = {}
        self.readable: set[str] = set()
        self.private: set[str] = set()
        self.temporary: set[str] = set()
        self.through: set[str] = set()
        self.execute: set[str] = set()
        #: Real paths that were written.
        self._made = {
            _compile._Tree("").real(path) for path, accesses in seen.paths.items() if "write" in accesses and "/.." not in path
        }

    def learn(self, name: str, merge: list[Policy], limits: bool) -> Learnt:
        self._files()
        for policy in merge:
            files = policy.for_command([], cwd=self.cwd)["files"]
            self.readable.update(files["read_only"])
            self.private.update(files["private"])
            self.temporary.update(files["temporary"])
            self.through.update(files["read_write"])
            self.execute.update(files["execute"] or ())
        sections: dict[str, Any] = {
            "version": 1,
            "name": name,
            "description": "learnt by skerry learn",
            "files": self._file_section(),
            "network": self._network(merge),
            "system_calls": {"default": "errno", "allow": ["@process", *self._calls(merge)]},
        }
        used = (
            f"used: {self.seen.peak_memory / (1 << 20):.0f} MiB of memory at the most, {self.seen.tasks} tasks at once, "
            f"{self.seen.cpu_ns / 1e9:.2f} s of CPU time in {self.seen.wall_ns / 1e9:.2f} s"
        )
        if limits:
            megabytes = max(64, -(-self.seen.peak_memory * 2 // (1 << 20)))
            sections["resources"] = {"memory": f"{megabytes}m", "processes": max(16, self.seen.tasks * 2)}
            self.comments["resources.memory"] = used + "; twice that, and at least 64 MiB and 16 tasks"
        else:
            self.notes.append(used + " (--limits makes limits of it)")
        policy = Policy(sections, source=f"{name}.toml")
        return Learnt(policy, self.comments, self.notes, surface(policy))

    def _note(self, generalisation: str, text: str) -> None:
        self.notes.append(f"{generalisation}: {text} (refuse with --no-generalise {generalisation})")

    # --- files ---

    def _files(self) -> None:
        written: set[str] = set()
        links: set[str] = set()
        cached = 0
        for path, accesses in self.seen.paths.items():
            path = os.path.normpath(path) if "/.." not in path else os.path.realpath(path)
            tree = _compile._Tree("")
            real = tree.real(path)
            if any(_compile.is_below(real, place) for place in _compile.SYSTEM):
                continue
            links.update(link for link in tree.links if link.count("/") > 1)
            if "write" in accesses or "bind" in accesses:
                if "caches" not in self.refuse and "/__pycache__" in real:
                    cached += 1
                    continue
                written.add(real)
            if "execute" in accesses and ("write" in accesses or real in self._made or not os.path.lexists(real)):
                # Made inside, and then started: so will the next one be.
                above = os.path.dirname(real)
                if above not in self.execute:
                    self.execute.add(above)
                    self.notes.append(f"programs that are made in {above} may be started, for {os.path.basename(real)} was")
            elif "execute" in accesses:
                for one in _compile.loaded_files(real):
                    if os.path.isfile(one):
                        loaded = _compile._Tree("")
                        self.execute.add(loaded.real(one))
                        self.readable.add(loaded.real(one))
                        links.update(link for link in loaded.links if link.count("/") > 1)
            if os.path.isdir(real):
                # That it is there shows where anything below it is; its names only where it was read.
                if "read" in accesses or (accesses & {"look", "connect"} and real.count("/") > 1 and not self._has_below(real)):
                    self.readable.add(real)
            elif os.path.exists(real):
                self.readable.add(real)
        self.readable |= links
        self.readable.discard("/")
        if cached:
            self._note("caches", f"{cached} files of Python's bytecode cache are not written")
        for path in sorted(written):
            self._writes(path)

    def _has_below(self, directory: str) -> bool:
        return any(path.startswith(f"{directory}/") for path in self.seen.paths)

    def _writes(self, path: str) -> None:
        through = [place for place in self.seen.written_through if _compile.is_below(path, place)]
        if through:
            self.through.update(through)
            return
        above = missing = path
        while not os.path.isdir(above):
            missing, above = above, os.path.dirname(above)
        new = not os.path.lexists(missing)
        for place in _TEMPORARY:
            # What is used of it beside has mounts of its own in there.
            if _compile.is_below(above, place) and new and "temporary" not in self.refuse and not self._is_kept(above):
                if place not in self.temporary:
                    self.temporary.add(place)
                    self._note("temporary", f"what is new in {place} -> an empty {place}")
                return
        wide = above in _NEVER_WHOLE or above == os.path.expanduser("~")
        if wide and new and (above == "/" or any(other.startswith(f"{missing}/") for other in self.seen.paths)):
            # All of the one above is too much to show for a directory that was made in it.
            self.temporary.add(missing)
            return
        if wide:
            self.notes.append(f"all of {above} is shown, for {path} is written in it; look whether you want that")
        self.private.add(above)

    def _is_kept(self, directory: str) -> bool:
        """Whether it is the working directory, or below: there a name may be meant for more than this run."""
        return _compile.is_below(directory, self.cwd) and self.cwd not in _TEMPORARY

    def _file_section(self) -> dict[str, Any]:
        whole = [*self.private, *self.through]
        readable = {path for path in self.readable if not any(_compile.is_below(path, place) for place in whole)}
        hidden_by_memory = {path for path in readable if path in self.temporary}
        readable = self._collapse(readable - hidden_by_memory, "readable")
        execute = self._collapse(set(self.execute), "executed")
        section: dict[str, Any] = {
            "default": "hidden",
            "read_only": self._places(readable),
            "private": self._places(_outermost(self.private)),
            "read_write": self._places(_outermost(self.through)),
            "temporary": self._places(_outermost(self.temporary)),
            "execute": self._places(execute),
        }
        self.comments["files.private"] = "writes stay in memory"
        return {key: value for key, value in section.items() if value or key in ("default", "execute")}

    def _collapse(self, paths: set[str], what: str) -> set[str]:
        """Directories in place of many names in them, from the bottom up."""
        found = set(paths)
        if "numbered" not in self.refuse:
            patterns: dict[str, set[str]] = {}
            for path in found:
                directory, base = os.path.split(path)
                if re.search(r"\d", base) and directory not in _NEVER_WHOLE:
                    patterns.setdefault(os.path.join(directory, re.sub(r"\d+", "#", base)), set()).add(path)
            for pattern, names in patterns.items():
                if len(names) >= _NUMBERED and "shared-prefix" in self.refuse:
                    found = (found - names) | {os.path.dirname(pattern)}
                    self._note("numbered", f"{len(names)} {what} names like {pattern} -> {os.path.dirname(pattern)}")
        if "shared-prefix" in self.refuse:
            return _outermost(found)
        home = os.path.expanduser("~")
        before = set(found)
        while True:
            children: dict[str, set[str]] = {}
            for path in found:
                above = os.path.dirname(path)
                while above != "/":
                    rest = path[len(above) + 1 :].split("/", 1)[0]
                    children.setdefault(above, set()).add(rest)
                    above = os.path.dirname(above)
            candidates = [
                directory
                for directory, names in children.items()
                if len(names) >= _SHARED and directory not in _NEVER_WHOLE and directory != home and directory not in found
            ]
            if not candidates:
                for directory in sorted(_outermost(found) - before):
                    count = sum(path.startswith(f"{directory}/") for path in before)
                    self._note("shared-prefix", f"{count} {what} names -> {directory}")
                return _outermost(found)
            deepest = max(candidates, key=lambda directory: directory.count("/"))
            found = {path for path in found if not path.startswith(f"{deepest}/")} | {deepest}

    def _places(self, paths: Iterable[str]) -> list[str]:
        named = []
        for path in sorted(paths):
            if "places" not in self.refuse:
                for word, place in (("@cwd", self.cwd), ("@home", os.path.expanduser("~"))):
                    if place != "/" and _compile.is_below(path, place):
                        path = word + path[len(place) :]
                        break
            named.append(path)
        return named

    # --- the rest ---

    def _network(self, merge: list[Policy]) -> dict[str, Any]:
        connect, bind = set(self.seen.connected), set(self.seen.bound)
        loopback = bool(connect or bind)
        for policy in merge:
            network = policy["network"]
            if network["mode"] == "user":
                why = 'cannot be learnt: the guest kernel has no network outside; say mode = "user" in what comes of it'
                raise PolicyError(why, policy.source, "network.mode")
            if network["mode"] == "loopback":
                loopback = True
                connect.update(network["connect"] or ())
                bind.update(network["bind"] or ())
        if not loopback:
            return {"mode": "none"}
        return {"mode": "loopback", "connect": sorted(connect), "bind": sorted(bind)}

    def _calls(self, merge: list[Policy]) -> list[str]:
        calls = set(self.seen.calls)
        if "call-families" not in self.refuse:
            added: set[str] = set()
            for family in _FAMILIES:
                if calls & set(family):
                    added |= set(family) - calls
            if calls & {"clone", "clone3"}:
                added |= set(_WITH_THREADS) - calls
            added -= set(PROCESS)
            if added:
                self._note("call-families", f"{len(added)} variants of calls that were made: {', '.join(sorted(added))}")
            calls |= added
        for policy in merge:
            calls.update(_compile.call_names(policy["system_calls"]["allow"]))
        return sorted(calls - set(PROCESS), key=lambda name: NUMBERS[name])


def _outermost(paths: Iterable[str]) -> set[str]:
    """Without those that lie below another."""
    kept: set[str] = set()
    for path in sorted(paths):
        above = os.path.dirname(path)
        while above != "/" and above not in kept:
            above = os.path.dirname(above)
        if above not in kept:
            kept.add(path)
    return kept


def surface(policy: Policy) -> str:
    """What a policy leaves open, in one line."""
    files, network, calls = policy["files"], policy["network"], policy["system_calls"]
    allowed = len(_compile.call_names(calls["allow"])) if calls["default"] in ("errno", "kill") else len(NUMBERS)
    writable = sum(len(files[key]) for key in ("private", "read_write", "temporary")) + (files["default"] == "private")
    ports = [*(network["connect"] or ()), *(network["bind"] or ())] if network["mode"] != "none" else []
    programs = "any program" if files["execute"] is None else f"{len(files['execute'])} programs or directories of them"
    everything = " and all the rest" if files["default"] != "hidden" else ""
    return (
        f"surface: {allowed} of {len(NUMBERS)} system calls; {len(files['read_only'])} readable paths{everything}; "
        f"{writable} writable paths ({len(files['read_write'])} on the host); {programs}; {len(ports)} ports"
    )
