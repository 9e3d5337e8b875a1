"""A sentry that is none: speaks the control protocol and runs commands as plain processes. For the unit tests only.

`FAKE_SENTRY` in its environment changes its ways: "die" ends it at the first spawn, "refuse" makes it refuse to boot,
"garbage" makes it answer with what is no frame, "slow" makes it take its time to boot,
"deaf" keeps it from ending when the socket closes.
"""

import array
import base64
import errno
import fcntl
import json
import os
import pty
import selectors
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time

WAYS = os.environ.get("FAKE_SENTRY", "")


class Sentry:
    def __init__(self, connection):
        self.connection = connection
        self.sending = threading.Lock()
        self.processes = {}
        self.descriptors = []
        self.boot = None
        self.started = time.monotonic_ns()

    def serve(self):
        buffer = b""
        while True:
            try:
                data, ancillary, _, _ = self.connection.recvmsg(65536, socket.CMSG_SPACE(64 * 4))
            except ConnectionError:
                break
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(payload[: len(payload) - len(payload) % 4])
                    self.descriptors += numbers
            if not data:
                break
            buffer += data
            while len(buffer) >= 4 and len(buffer) >= 4 + int.from_bytes(buffer[:4], "little"):
                length = int.from_bytes(buffer[:4], "little")
                body, buffer = buffer[4 : 4 + length], buffer[4 + length :]
                self.request(json.loads(body))
        for process in list(self.processes.values()):
            self.signal_group(process, signal.SIGKILL)
        if WAYS == "deaf":
            time.sleep(600)

    def send(self, message):
        body = json.dumps(message).encode()
        try:
            with self.sending:
                self.connection.sendall(len(body).to_bytes(4, "little") + body)
        except OSError:
            pass  # the reader sees the end too

    def request(self, request):
        method, params = request["method"], request.get("params")
        count = request.get("descriptors", 0)
        self.received, self.descriptors = self.descriptors[:count], self.descriptors[count:]
        if (method == "boot") != (self.boot is None):
            return self.fail(request, "invalid", "boot comes first, once")
        try:
            reply = getattr(self, "on_" + method)(params) if params is not None else getattr(self, "on_" + method)()
        except Refused as refused:
            return self.fail(request, *refused.args)
        except OSError as error:
            return self.fail(request, "file", str(error), error.errno)
        if callable(reply):
            reply(request)
        else:
            self.send({"id": request["id"], "ok": reply})

    def fail(self, request, kind, message, number=None):
        error = {"kind": kind, "message": message}
        if number is not None:
            error["errno"] = number
        self.send({"id": request["id"], "error": error})

    # --- methods ---

    def on_boot(self, boot):
        if WAYS == "slow":
            time.sleep(100)
        if WAYS == "refuse":
            raise Refused("unenforceable", "the layer 'landlock' is not there; use a newer kernel")
        if WAYS == "garbage":
            self.connection.sendall(b"\xff\xff\xff\xff")
        self.boot = boot
        return self.booted()

    def booted(self):
        return {
            "layers": ["seccomp"],
            "missing": [{"layer": "landlock", "reason": "this is no real sentry"}],
            "limits": {"memory": "none"},
            "version": "0.1.0-fake",
            "machine": {},
            "guest_memory": "process_vm",
            "profile": self.boot["profile"],
            "sentry_pid": os.getpid(),
            "boot": self.boot,
        }

    on_info = booted

    def on_usage(self):
        return self.usage()

    def usage(self):
        times = os.times()
        return {
            "user_ns": int(times.children_user * 1e9), "system_ns": int(times.children_system * 1e9),
            "wall_ns": time.monotonic_ns() - self.started, "peak_memory": 1 << 20, "memory_files": 0,
            "pids": len(self.processes), "system_calls": 7,
        }  # fmt: skip

    def on_spawn(self, spawn):
        if WAYS == "die":
            print("thread 'main' panicked at the disco", file=sys.stderr, flush=True)
            os._exit(101)
        received = self.received
        arguments = [text(argument) for argument in spawn["arguments"]]
        environment = dict(text(entry).split("=", 1) for entry in spawn["environment"])
        null = os.open(os.devnull, os.O_RDWR)
        keywords = {}
        terminal = None
        if "terminal" in spawn["stdio"]:
            terminal = spawn["stdio"]["terminal"]
            master, slave = pty.openpty()
            self.resize(slave, terminal["columns"], terminal["rows"])
            keywords["preexec_fn"] = lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            error = terminal.get("error")
            streams = [slave, slave, slave if error is None else received[error]]
        else:
            streams = [null if index is None else received[index] for index in spawn["stdio"]["descriptors"]]
        program = shutil.which(arguments[0], path=environment.get("PATH", ""))
        try:
            if program is None and "/" not in arguments[0]:
                raise FileNotFoundError
            process = subprocess.Popen(
                arguments, executable=program, env=environment, cwd=text(spawn["directory"]), start_new_session=True,
                stdin=streams[0], stdout=streams[1], stderr=streams[2], **keywords,
            )  # fmt: skip
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.isdir(text(spawn["directory"])):
                raise Refused("invalid", f"the working directory {text(spawn['directory'])} cannot be entered") from None
            raise Refused("not_found", f"{arguments[0]}: not found inside the sandbox") from None
        except (PermissionError, OSError):
            raise Refused("not_executable", f"{arguments[0]}: cannot be executed") from None
        finally:
            os.close(null)
            if terminal is None:
                for descriptor in received:
                    os.close(descriptor)
        process.arguments = spawn["arguments"]
        process.master = None
        copier = None
        if terminal is not None:
            os.close(slave)
            process.master = master
            copier = threading.Thread(
                target=self.copy, args=(master, received[terminal["input"]], received[terminal["output"]]), daemon=True
            )
            copier.start()
        self.processes[process.pid] = process

        def reply(request):
            # The end may be told before the reply.
            waiter = threading.Thread(target=self.wait, args=(process, copier), daemon=True)
            waiter.start()
            if "EXIT-FIRST" in "".join(map(str, arguments)):
                waiter.join()
            self.send({"id": request["id"], "ok": {"process": process.pid}})

        return reply

    def copy(self, master, source, target):
        selector = selectors.DefaultSelector()
        selector.register(master, selectors.EVENT_READ)
        try:
            selector.register(source, selectors.EVENT_READ)
        except PermissionError:
            pass
        while True:
            for key, _ in selector.select():
                try:
                    data = os.read(key.fd, 4096)
                except OSError:
                    data = b""
                if key.fd == master:
                    if not data:
                        os.close(source)
                        os.close(target)
                        return
                    os.write(target, data)
                elif data:
                    os.write(master, data)
                else:
                    selector.unregister(source)
                    os.write(master, b"\x04")

    def wait(self, process, copier):
        status = process.wait()
        if copier is not None:
            copier.join()
        del self.processes[process.pid]
        if b"".join(a.encode() for a in process.arguments if isinstance(a, str)).find(b"OUT-OF-MEMORY") >= 0:
            self.send({"event": "out_of_memory", "process": process.pid, "limit": 1 << 20})
        if self.boot["trace"]:
            self.send({"event": "trace", "process": process.pid, "thread": process.pid, "text": "exit_group(\x1b[2J) = ?"})
        self.send(
            {
                "event": "exited",
                "process": process.pid,
                "status": status if status >= 0 else None,
                "signal": -status if status < 0 else None,
                "core_dumped": False,
                "usage": self.usage(),
            }
        )

    def on_signal(self, params):
        process = self.processes.get(params["process"])
        if params.get("target") == "all":
            for each in list(self.processes.values()):
                self.signal_group(each, params["signal"])
        elif process is None:
            raise Refused("no_process", f"no process {params['process']}")
        elif params.get("target") == "group":
            self.signal_group(process, params["signal"])
        else:
            process.send_signal(params["signal"])
        return {}

    def signal_group(self, process, number):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass

    def on_resize(self, params):
        process = self.processes.get(params["process"])
        if process is None:
            raise Refused("no_process", "no process")
        self.resize(process.master, params["columns"], params["rows"])
        return {}

    def resize(self, descriptor, columns, rows):
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def on_processes(self):
        return {"processes": [{"process": p.pid, "arguments": p.arguments} for p in self.processes.values()]}

    def on_file(self, call):
        operation = call["operation"]
        path = text(call["from"] if operation == "rename" else call["path"])
        if operation == "read":
            with open(path, "rb") as file:
                file.seek(call["offset"])
                data = file.read(min(call["length"], 1 << 20))
                return {"data": base64.b64encode(data).decode(), "end": not file.read(1)}
        if operation == "write":
            flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if call["truncate"] else 0)
            descriptor = os.open(path, flags, call["mode"])
            os.pwrite(descriptor, base64.b64decode(call["data"]), call["offset"])
            os.close(descriptor)
            return {}
        if operation == "list":
            return {"entries": [self.stat(os.path.join(path, name), False) for name in os.listdir(path)]}
        if operation == "stat":
            return self.stat(path, call["follow"])
        if operation == "remove":
            directory = os.path.isdir(path) and not os.path.islink(path)
            if call["recursive"] and directory:
                shutil.rmtree(path)
            elif directory:
                os.rmdir(path)
            else:
                os.unlink(path)
            return {}
        if operation == "make_directory":
            (os.makedirs if call["parents"] else os.mkdir)(path, call["mode"])
            return {}
        if operation == "rename":
            os.rename(path, text(call["to"]))
            return {}
        raise Refused("invalid", operation)

    def stat(self, path, follow):
        found = os.stat(path) if follow else os.lstat(path)
        kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
        name = os.path.basename(path)
        try:
            name.encode()
        except UnicodeEncodeError:
            name = {"base64": base64.b64encode(os.fsencode(name)).decode()}
        return {
            "name": name, "kind": kinds.get(stat.S_IFMT(found.st_mode), "character_device"), "size": found.st_size,
            "mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid, "modified_ns": found.st_mtime_ns,
        }  # fmt: skip


class Refused(Exception):
    pass


def text(value):
    return value if isinstance(value, str) else os.fsdecode(base64.b64decode(value["base64"]))


if __name__ == "__main__":
    assert errno and sys.argv[1] == "--control-fd"
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    Sentry(socket.socket(fileno=int(sys.argv[2]))).serve()
