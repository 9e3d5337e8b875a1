"""tempfile, mmap, signal, pty, select, fcntl, os: the corners of the standard library that lean on the kernel."""

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import select
import selectors
import shutil
import signal
import socket
import stat
import tempfile
import termios
import threading
import time

with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as named:
    named.write(b"0123456789" * 1000)
    named.flush()
    with open(named.name, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        print(len(view), view[5:8], view.find(b"90"))
        view[0:3] = b"abc"
        view.flush()
    print(open(named.name, "rb").read(5), stat.filemode(os.stat(named.name).st_mode))
print(os.path.exists(folder))
with tempfile.TemporaryFile() as nameless, tempfile.SpooledTemporaryFile(10) as spooled:
    nameless.write(b"x")
    spooled.write(b"y" * 100)
    print(nameless.tell(), spooled.tell())
shared = mmap.mmap(-1, 4096)
if os.fork() == 0:
    shared[:5] = b"child"
    os._exit(0)
os.wait()
print(shared[:5])

received = []
signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
os.kill(os.getpid(), signal.SIGUSR1)
print(received == [signal.SIGUSR1])
signal.setitimer(signal.ITIMER_REAL, 0.05)
signal.signal(signal.SIGALRM, lambda *_: received.append("alarm"))
time.sleep(0.2)
print(received[-1])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR2)).start()
print(signal.sigwait([signal.SIGUSR2]).name, signal.sigpending())
reader, writer = socket.socketpair()
writer.setblocking(False)
signal.set_wakeup_fd(writer.fileno())
os.kill(os.getpid(), signal.SIGUSR1)
print(reader.recv(1) == bytes([signal.SIGUSR1]))
signal.set_wakeup_fd(-1)

pid, master = pty.fork()
if pid == 0:
    os.write(1, b"tty %d\n" % os.isatty(0))
    line = os.read(0, 100)
    os.write(1, b"got " + line)
    os._exit(4)
output = b""
os.write(master, b"typed\n")
while True:
    try:
        piece = os.read(master, 100)
    except OSError as error:
        print(errno.errorcode[error.errno])
        break
    if not piece:
        break
    output += piece
print(sorted(output.replace(b"\r", b"").split(b"\n")), os.waitpid(pid, 0)[1] >> 8)

poll, selector = select.poll(), selectors.DefaultSelector()
a, b = socket.socketpair()
poll.register(a, select.POLLIN)
selector.register(a, selectors.EVENT_READ, "data")
print(poll.poll(10), select.select([a], [b], [], 0.01)[1] == [b], selector.select(0.01))
b.send(b"x")
print(len(poll.poll(1000)), [key.data for key, _ in selector.select(1)])
epoll = select.epoll()
epoll.register(a, select.EPOLLIN | select.EPOLLET)
print(len(epoll.poll(1)), len(epoll.poll(0.01)))

with open("locked", "w") as one, open("locked") as two:
    fcntl.flock(one, fcntl.LOCK_EX)
    try:
        fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        print(error.strerror)
os.makedirs("deep/er/folder")
for n in range(300):
    open(f"deep/er/{n}", "w").close()
print(len(os.listdir("deep/er")), sum(len(files) for _, _, files in os.walk("deep")))
shutil.copytree("deep", "copy", symlinks=True)
shutil.rmtree("deep")
print(len(list(os.scandir("copy/er"))), shutil.disk_usage(".").total > 0)
descriptor = os.memfd_create("m")
os.write(descriptor, b"memory")
print(os.pread(descriptor, 3, 3), os.sendfile(b.fileno(), descriptor, 0, 6), a.recv(100))
event = os.eventfd(3) if hasattr(os, "eventfd") else None
print(os.cpu_count() >= 1, len(os.sched_getaffinity(0)) >= 1, os.getpriority(os.PRIO_PROCESS, 0))
read, write = os.pipe2(os.O_NONBLOCK)
try:
    os.read(read, 1)
except BlockingIOError:
    print("would block")
print(ctypes.CDLL(None).getpid() == os.getpid(), os.uname().sysname, os.times().elapsed > 0)
print(socket.gethostbyname("localhost"), socket.if_nametoindex("lo") > 0)
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
    peer, _ = server.accept()
    socket.send_fds(a, [b"fd"], [peer.fileno()])
    print(socket.recv_fds(b, 10, 1)[0])
    peer.close()
master, slave = os.openpty()
attributes = termios.tcgetattr(slave)
attributes[3] &= ~termios.ECHO
termios.tcsetattr(slave, termios.TCSANOW, attributes)
print(os.ttyname(slave).startswith("/dev/pts/"), os.get_terminal_size(slave))
